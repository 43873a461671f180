"""Adversaries: what clients do who attack the training itself.

There are two places to attack from: a client's own records (`poison`), before it trains as it is told,
and what it sends (`craft`), after it has trained. Both default to honesty, so that an attack is written by
overriding one of them. `aim` says on which test records the attack has succeeded, for attacks that want
more than a useless model.

The adversary is the omniscient one of the literature: those who attack under one label collude, and may
look at what the honest clients of the round send. Attacks that know less simply do not look; `knows` says
in words, for the report, what each makes use of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.errors import PluginError

HONEST = "nothing but their own records"
"""What a client knows that only does its part."""


@dataclass(frozen=True)
class Scene:
    """One round as colluding clients see it, when it is their turn to answer.

    Attributes:
        own: (m, d) float64, by how much their training moved the parameters, in the order of `clients`; they
            trained as they were told, on records that `poison` may have changed.
        honest: (h, d) float64, the same of the others whose updates have come; h may be 0.
        weights: (m,) float64, the records that each of them holds.
        honest_weights: (h,) float64, the records that each of the others holds.
        clients, honest_clients: their numbers, ascending.
        before: (d,) float64, the parameters that the server sent (to the first of them, where it sends each
            client a model of its own).
        round: its number.
        generator: of this round's own draws.
    """

    own: Tensor
    honest: Tensor
    weights: Tensor
    honest_weights: Tensor
    clients: tuple[int, ...]
    honest_clients: tuple[int, ...]
    before: Tensor
    round: int
    generator: torch.Generator

    @property
    def known(self) -> Tensor:
        """The updates from which the honest ones are estimated: theirs, or where none has come, `own`."""
        return self.honest if len(self.honest) else self.own

    def all_send(self, update: Tensor) -> Tensor:
        """(m, d): the same update (d,) from each of them."""
        return update.expand(len(self.own), -1).clone()


class Adversary:
    """An honest client, and the base of all others.

    Attributes:
        knows: what the attack makes use of, as the end of a sentence that begins "Attackers know".
        wants: what counts as success, as the end of "success is the share of"; empty without an `aim`.
    """

    knows: ClassVar[str] = HONEST
    wants: str = ""

    def poison(self, x: Tensor, y: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The records that a client trains on instead of its own; as many as they were.

        Args:
            x: (n, C, H, W) float32, of images in [0, 1]; y: (n,) int64 in [0, classes); neither may be
                written to.
            generator: the client's own.
        """
        return x, y

    def craft(self, scene: Scene) -> Tensor:
        """(m, d): what the m clients send, as changes of the parameters."""
        return scene.own

    def aim(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
        """(images to show, (n,) int64 labels that are wanted), of test records; -1 where none is wanted.

        None if the attack wants nothing but harm.
        """
        return None


def poisoned(
    adversary: Adversary, x: Tensor, y: Tensor, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What `poison` makes of a client's records.

    Raises:
        PluginError: it is not what a client can train on.
    """
    images, labels = adversary.poison(x, y, classes, generator)
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))  # wider for features than for pixels
    wrong = None
    if images.shape != x.shape or images.dtype != x.dtype:
        wrong = f"images {tuple(images.shape)} {images.dtype}; expected {tuple(x.shape)} {x.dtype}"
    elif labels.shape != y.shape or labels.dtype != y.dtype:
        wrong = f"labels {tuple(labels.shape)} {labels.dtype}; expected {tuple(y.shape)} {y.dtype}"
    elif not bool(((images >= low) & (images <= high)).all()):
        wrong = f"pixels outside of [{low:g}, {high:g}]"
    elif not bool(((labels >= 0) & (labels < classes)).all()):
        wrong = f"labels from {int(labels.min())} to {int(labels.max())}; expected 0 to {classes - 1}"
    if wrong:
        raise PluginError(f"the adversary {type(adversary).__name__} poisoned records into {wrong}")
    return images, labels


def crafted(adversary: Adversary, scene: Scene) -> Tensor:
    """What `craft` makes of a round, as float64.

    Raises:
        PluginError: it failed, or gave no finite (m, d).
    """
    name, expected = type(adversary).__name__, tuple(scene.own.shape)
    try:
        made = adversary.craft(scene)
    except Exception as error:  # a plugin may raise anything
        raise PluginError(f"the adversary {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, Tensor) or tuple(made.shape) != expected:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise PluginError(f"the adversary {name} crafted {got}; expected a tensor of shape {expected}")
    if not bool(torch.isfinite(made).all()):
        raise PluginError(f"the adversary {name} crafted numbers that are not finite")
    return made.double()
