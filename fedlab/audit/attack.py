"""The contract of an attack: one method to write, and no way to the truth.

The author writes `run`; callers use the instance as a function, which checks what goes in and what
comes out. An attack chooses among candidates with what an attacker has (the residual between the
observed and the simulated update), never with the victim's data: no argument carries any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.threat import Knowledge, ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import MissingKnowledge, PluginError

Report = Callable[[int, int], None]
"""Called with (iterations done, iterations in all)."""


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Reconstruction:
    """An attacker's answer to one observation.

    Attributes:
        images: (B, C, H, W) in [0, 1], or None if the attack does not answer with images.
        labels: (B,) inferred or granted labels, or None.
        residual: distance between the observed update and the one these images explain; lower is
            better, and it needs no ground truth. NaN where the attack computes none.
        refusal: why the attack cannot answer ("the network's first layer is no linear layer").
        details: what an expert wants to see: ranks, iterations, conditioning.
    """

    images: Tensor | None = None
    labels: Tensor | None = None
    residual: float = float("nan")
    refusal: str | None = None
    details: dict[str, float | int | str] = field(default_factory=dict)


class Attack(ABC):
    """Reconstructs training data from observed updates.

    Class attributes:
        needs: knowledge without which the attack does not run.
        paper: citation of where the attack comes from.
    """

    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    paper: ClassVar[str] = ""

    @final
    def __call__(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report = silent,
    ) -> list[Reconstruction]:
        """Attack each observation; check the answers' number, shapes, range and finiteness.

        `run` sees what the threat model grants: the rest is blanked here.

        Raises:
            MissingKnowledge: the threat model denies something in `needs`.
            PluginError: the answer breaks the contract.
        """
        missing = sorted(item for item in self.needs if not threat.grants(item))
        if missing:
            raise MissingKnowledge(
                f"{type(self).__name__} needs {', '.join(missing)}, which the threat model denies;"
                " grant it in the threat model, or choose an attack that does without"
            )
        if not observations:
            return []
        seen = [threat.view(one) for one in observations]
        answers = list(self.run(seen, threat, victim, generator=generator, report=report))
        if len(answers) != len(observations):
            raise PluginError(
                f"{type(self).__name__} answered {len(answers)} of {len(observations)} observations;"
                " expected one Reconstruction each, in order"
            )
        for answer in answers:
            self._check(answer, victim)
        return answers

    @abstractmethod
    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> Sequence[Reconstruction]:
        """Answer each observation, in order. All randomness comes from `generator`."""

    def _check(self, answer: object, victim: Victim) -> None:
        who = type(self).__name__
        if not isinstance(answer, Reconstruction):
            raise PluginError(f"{who} returned a {type(answer).__name__}; expected a Reconstruction")
        if answer.images is not None:
            self._check_images(answer.images, victim)
        elif answer.labels is None and answer.refusal is None:
            raise PluginError(f"{who} returned neither images nor labels nor a refusal")
        labels: object = answer.labels
        if labels is not None and not (
            isinstance(labels, Tensor) and labels.dim() == 1 and labels.dtype == torch.int64
        ):
            raise PluginError(f"{who} returned labels {labels!r}; expected a (B,) int64 tensor")
        if type(answer.residual) not in (float, int):
            raise PluginError(f"{who} returned the residual {answer.residual!r}; expected a float")
        for key, value in answer.details.items():
            if type(key) is not str or type(value) not in (float, int, str, bool):
                raise PluginError(
                    f"{who} returned the detail {key!r} = {value!r}; expected text or a number, float(x)"
                )

    def _check_images(self, images: Tensor, victim: Victim) -> None:
        who = type(self).__name__
        shape = tuple(images.shape)
        if len(shape) != 1 + len(victim.input_shape) or shape[1:] != victim.input_shape:
            raise PluginError(f"{who} returned images {shape}; expected (B, *{victim.input_shape})")
        if not bool(torch.isfinite(images).all()):
            raise PluginError(f"{who} returned non-finite pixels; clamp them, or refuse with a reason")
        if images.numel() and (float(images.min()) < 0.0 or float(images.max()) > 1.0):
            raise PluginError(f"{who} returned pixels outside [0, 1]; clamp them")
