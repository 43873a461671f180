"""The contract of an attack: one method to write, and no way to the truth.

The author writes `run`; callers use the instance as a function, which checks what goes in and what
comes out. An attack chooses among candidates with what an attacker has (the residual between the
observed and the simulated update), never with the victim's data: no argument carries any.

An observation that no attack could use (of another network, not finite, zero) never reaches `run`: it is
answered with a refusal that names the error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedlab.audit.certificate import Certificate
from fedlab.audit.checks import check_observation
from fedlab.audit.observation import Observation
from fedlab.audit.threat import Knowledge, Server, ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import MissingKnowledge, NotApplicable, PluginError
from fedlab.tasks import State

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
        certificates: what closed forms proved about the answer, or why they do not apply; in the order tried.
    """

    images: Tensor | None = None
    labels: Tensor | None = None
    residual: float = float("nan")
    refusal: str | None = None
    details: dict[str, float | int | str] = field(default_factory=dict)
    certificates: tuple[Certificate, ...] = ()

    @classmethod
    def refused(cls, error: Exception | str, *certificates: Certificate) -> Reconstruction:
        """No answer, and why; an error is named."""
        named = isinstance(error, Exception) and type(error) is not NotApplicable
        text = f"{type(error).__name__}: {error}" if named else str(error)
        return cls(refusal=text, certificates=certificates)


class Attack(ABC):
    """Reconstructs training data from observed updates.

    Class attributes:
        needs: knowledge without which the attack does not run.
        paper: citation of where the attack comes from.
        server: "malicious" if clients must have been sent what `network` and `parameters` make of the model.
        exact: whether it solves equations and certifies its answer; `fedlab inspect-model` asks those.
        personal: whether it copes with models of which a part stays with the clients (`Victim.personal`).
        informed: whether it makes use of what is known of the clients' defense (`Victim.disclosure`).
    """

    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    paper: ClassVar[str] = ""
    server: ClassVar[Server] = "curious"
    exact: ClassVar[bool] = False
    personal: ClassVar[bool] = False
    informed: ClassVar[bool] = False

    def network(
        self, factory: Callable[[], nn.Module], input_shape: Sequence[int]
    ) -> Callable[[], nn.Module]:
        """A malicious server's network instead of the agreed one, for images of `input_shape` (C, H, W).

        Called only if `server` says so.
        """
        return factory

    def parameters(self, state: State, victim: Victim, *, generator: torch.Generator) -> State:
        """What a malicious server sends instead of `state`, which is of `network`'s model."""
        return state

    def starting_from(self, starts: Sequence[Tensor]) -> Attack:
        """The same, descending from given images (B, C, H, W), one per observation.

        For the study of its basin of attraction, whose starts are made of the truth: what it then finds is no
        attacker's success, and no score.

        Raises:
            NotApplicable: it does not descend.
        """
        raise NotApplicable(f"{type(self).__name__} does not start from images")

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
                f"needs {', '.join(missing)}, which the threat model denies;"
                " grant it in the threat model, or choose an attack that does without"
            )
        if self.server == "malicious" and threat.server != "malicious":
            raise MissingKnowledge(
                "needs a server that sends altered models; the threat model says that"
                ' it is curious: set threat.server = "malicious", or choose another attack'
            )
        answers: list[Reconstruction | None] = [None] * len(observations)
        usable: dict[int, Observation] = {}
        for position, observation in enumerate(observations):
            try:
                check_observation(observation, victim)
                usable[position] = threat.view(observation)
            except NotApplicable as error:
                answers[position] = Reconstruction.refused(error)
        if usable:
            seen, known = list(usable.values()), threat.public(victim)
            found = list(self.run(seen, threat, known, generator=generator, report=report))
            if len(found) != len(seen):
                raise PluginError(
                    f"{type(self).__name__} answered {len(found)} of {len(seen)} observations;"
                    " expected one Reconstruction each, in order"
                )
            for position, answer in zip(usable, found, strict=True):
                self._check(answer, victim)
                answers[position] = answer
        return [answer for answer in answers if answer is not None]

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
        if not all(isinstance(one, Certificate) for one in answer.certificates):
            raise PluginError(f"{who} returned certificates {answer.certificates!r}; expected Certificate")
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
