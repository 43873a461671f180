"""What a curious server holds after one round with one client."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fedlab.clients.config import ClientConfig
from fedlab.tasks import State


@dataclass(frozen=True)
class Observation:
    """One client's contribution to one round, as the server sees it; nothing here is secret to it.

    Attributes:
        round, client: when, and from which client id.
        before: the parameters that the server sent.
        update: parameters sent back minus `before`.
        buffers_before, buffers_after: batch-norm statistics around the round (empty without any).
        config: what the server told the client to do.
        examples: how many records the client said that it holds.
        labels: the batch's labels, only if the threat model grants them.
    """

    round: int
    client: int
    before: State
    update: State
    buffers_before: State
    buffers_after: State
    config: ClientConfig
    examples: int | None = None
    labels: torch.Tensor | None = None

    def gradient(self) -> State:
        """Mean gradient over the local steps: exact for one plain step, -update / (lr * steps)."""
        steps = self.config.local_steps or 1
        scale = -1.0 / (self.config.learning_rate * steps)
        return {name: value * scale for name, value in self.update.items()}

    def norm(self) -> float:
        """L2 norm of the update."""
        return float(
            torch.sqrt(sum((v.double().square().sum() for v in self.update.values()), torch.zeros(())))
        )


def random_twin(observation: Observation, generator: torch.Generator) -> Observation:
    """The null control: the same observation with a random update of equal norm.

    A Gaussian direction over all parameters, scaled to the norm of the real update. What an attack
    scores on it owes nothing to the client's data.
    """
    noise = {
        n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in observation.update.items()
    }
    twin = replace(observation, update=noise)
    size = twin.norm()
    scale = observation.norm() / size if size > 0 else 0.0
    return replace(twin, update={name: value * scale for name, value in noise.items()})
