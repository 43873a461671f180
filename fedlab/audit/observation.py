"""What a curious server holds after one round with one client, or with several of whom it sees the sum."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from fedlab.clients.config import ClientConfig, Mode, Sampling
from fedlab.tasks import State


@dataclass(frozen=True)
class KnownConfig:
    """What an attacker knows of how a client was told to train; None is not known.

    The fields are those of `fedlab.clients.ClientConfig`.
    """

    mode: Mode | None = None
    batch_size: int | None = None
    local_steps: int | None = None
    local_epochs: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    sampling: Sampling | None = None

    @classmethod
    def all_of(cls, config: ClientConfig) -> KnownConfig:
        """Everything: the server that wrote the configuration."""
        return cls(**asdict(config))


@dataclass(frozen=True)
class Part:
    """One client's share in a sum of updates.

    Attributes:
        round: the one whose model it was sent; an asynchronous server may have moved on since.
        repeat: how often it had been sent that model before.
        epochs: local epochs that it was told to do; 0 for what all do.
    """

    client: int
    round: int
    repeat: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Observation:
    """One client's contribution to one round, as the server sees it; nothing here is secret to it.

    Where the server sees sums only, it is their contribution together: `update` is the mean that the
    server takes, `examples` the records that they hold together, `config.batch_size` what they use together
    in a step, and `before` the model that most of them were sent (if several, the latest).

    Attributes:
        round, client: when, and from which client id; of a sum, the round that it makes and the lowest id.
        before: the parameters that the server sent.
        update: parameters sent back minus `before`.
        buffers_before, buffers_after: batch-norm statistics around the round (empty without any).
        config: what is known of what the client was told to do.
        examples: how many records the client said that it holds.
        labels: labels of the records that were used, only if the threat model grants them: (B,) in ascending
            order of the record's id, which is no order that the attacker could use.
        masks: the dropout masks of each local step, by layer (rows of the step, ...), only if granted.
        repeat: how often the client had been sent the same model before.
        parts: whose updates are summed, ascending; empty for one client's own update.
    """

    round: int
    client: int
    before: State
    update: State
    buffers_before: State
    buffers_after: State
    config: KnownConfig
    examples: int | None = None
    labels: torch.Tensor | None = None
    repeat: int = 0
    parts: tuple[Part, ...] = ()
    masks: tuple[State, ...] = ()

    def gradient(self) -> State:
        """-update / (learning rate * steps): the gradient of one plain step, the mean over several.

        Without a known learning rate or number of steps, each counts as 1: right up to scale.
        """
        scale = -1.0 / ((self.config.learning_rate or 1.0) * (self.config.local_steps or 1))
        return {name: value * scale for name, value in self.update.items()}

    def norm(self) -> float:
        """L2 norm of the update."""
        return float(
            torch.sqrt(sum((v.double().square().sum() for v in self.update.values()), torch.zeros(())))
        )


def random_twin(observation: Observation, generator: torch.Generator) -> Observation:
    """The null control: the same observation with a random update of equal norm.

    A Gaussian direction over all parameters, scaled to the norm of the real update, and buffers as the
    server sent them. What an attack scores on it owes nothing to the client's records, save labels
    that the threat model grants.
    """
    noise = {
        n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in observation.update.items()
    }
    twin = replace(observation, update=noise, buffers_after=observation.buffers_before)
    size = twin.norm()
    scale = observation.norm() / size if size > 0 else 0.0
    return replace(twin, update={name: value * scale for name, value in noise.items()})
