"""The strongest attack that applies: exact, then exact for batches, then a descent from what was solved.

Closed forms cost milliseconds and prove their answers; descents cost minutes and prove nothing. So each
observation goes through

1. the closed forms for single records: patch embedding, linear layer, layer peel, hypernetwork pull-back;
2. the closed form for batches: sparse batch;
3. descents: several local steps in the span of a linear first layer (networks without dropout and batch
   norm), or the training-mode client (dropout masks, batch statistics, local steps, as far as they play a
   part), then plain gradient matching where neither can be set up. They start once from what closed forms
   gave without proof (the right number of images) and once from noise; the lower residual answers. What a
   closed form confirmed without being unique is kept as it is: a single record, or records of a batch if all
   that it confirmed are proven too.

and leaves as soon as a certificate says "unique". What is known of the clients' defense is used by each:
closed forms refuse what the defense has made untrue or read what is left, descents match what was sent. What
was tried, and why it did not apply, is part of the answer: all certificates, in order. Labels are read off
the last layer where that is possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import MissingKnowledge, NotApplicable, UsageError
from fedlab_attacks.exact.layer_peel import LayerPeel
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.exact.patch_embedding import PatchEmbedding
from fedlab_attacks.exact.pullback import HypernetworkPullback
from fedlab_attacks.exact.sparse_batch import SparseBatch
from fedlab_attacks.label_recovery import recover_labels
from fedlab_attacks.optimise.inversion import Inversion, own_generator
from fedlab_attacks.reading import Ticker, batch_size, steps
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from fedlab_attacks.recipes.local_steps import LocalSteps
from fedlab_attacks.recipes.training_client import TrainingClient

DESCENT = 20
"""What a descent counts for in the progress, in closed forms."""


@dataclass
class Case:
    """One observation on its way through the stages.

    Attributes:
        answer: final as soon as it is not None.
        partial: the best images without proof so far.
        tried: every certificate, in order. refusals: why descents were not set up.
    """

    observation: Observation
    answer: Reconstruction | None = None
    partial: Reconstruction | None = None
    tried: list[Certificate] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def take(self, name: str, found: Reconstruction) -> None:
        """What a closed form said: a proof ends the case, other images stay if they explain more."""
        self.tried += found.certificates
        if found.images is None:
            return
        found = replace(found, details={"found by": name, **found.details})
        if any(one.proves for one in found.certificates):
            self.answer = found
        elif self.partial is None or not found.residual >= self.partial.residual:
            self.partial = found


class Cascade(Attack):
    """Exact attacks with certificates first, descents warm-started by them for what is left.

    Args:
        iterations: of the descents; 0 leaves them out.
        restarts: starts of a descent per victim, beside the warm one.
        samples: sets of rows that the closed form for batches draws at most.
        device: where descents compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset()
    paper: ClassVar[str] = "ours: closed forms with certificates, then descents started from them"
    personal: ClassVar[bool] = True
    informed: ClassVar[bool] = True

    def __init__(
        self, *, iterations: int = 1000, restarts: int = 1, samples: int = 200_000, device: str = "cpu"
    ) -> None:
        if iterations < 0:
            raise UsageError(f"Cascade: iterations = {iterations}; expected at least 0")
        if samples < 1:
            raise UsageError(f"Cascade: samples = {samples}; expected at least 1")
        self.closed: tuple[tuple[str, Attack], ...] = (
            ("patch-embedding", PatchEmbedding()),
            ("linear-layer", LinearLayer()),
            ("layer-peel", LayerPeel()),
            ("hypernetwork-pullback", HypernetworkPullback(iterations=max(1, iterations))),
            ("sparse-batch", SparseBatch(samples=samples)),
        )
        kinds = {
            "local-steps": LocalSteps,
            "training-client": TrainingClient,
            "inverting-gradients": InvertingGradients,
        }
        self.descents: tuple[tuple[str, Inversion], ...] = tuple(
            (name, kind(iterations=iterations, restarts=restarts, device=device))
            for name, kind in kinds.items()
            if iterations
        )

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        cases = [Case(one) for one in observations]
        ticker = Ticker(report, len(self.closed) + 2 * DESCENT * len(self.descents))
        for name, attack in self.closed:
            _try(name, attack, cases, threat, victim, _stream(seed, name))
            ticker.advance(1)
        for name, descent in self.descents:
            self._descend(name, descent, cases, threat, victim, seed, ticker)
        for case in cases:
            case.answer = _labelled(case, threat, victim, own_generator(seed, case.observation))
        ticker.advance(ticker.total - ticker.done)
        return [_concluded(case) for case in cases]

    def _descend(
        self,
        name: str,
        descent: Inversion,
        cases: Sequence[Case],
        threat: ThreatModel,
        victim: Victim,
        seed: int,
        ticker: Ticker,
    ) -> None:
        """Cold and warm descents of the cases that are left; those that it refuses stay for the next one."""
        left = [case for case in cases if case.answer is None and _suits(name, case.observation, victim)]
        if victim.personal and not descent.personal:
            for case in left:
                case.refusals.append(f"{name}: a part of the model stays with the client")
            return
        cold = _answers(name, descent, left, threat, victim, _stream(seed, name), ticker)
        warm = [case for case, found in zip(left, cold, strict=True) if _fits(case, found)]
        starts = [case.partial.images for case in warm if case.partial is not None]
        again = descent.starting_from([one for one in starts if one is not None])
        second = _answers(name, again, warm, threat, victim, _stream(seed, name), ticker)
        better = {id(case): found for case, found in zip(warm, second, strict=True)}
        for case, found in zip(left, cold, strict=True):
            other = better.get(id(case))
            started = "noise"
            if other is not None and other.images is not None and other.residual < found.residual:
                found, started = other, str(case.partial.details["found by"]) if case.partial else "noise"
            if found.images is None:
                case.refusals.append(f"{name}: {found.refusal}")
                continue
            how = found.details.get("found by", name)
            details = found.details | {"found by": f"{name} ({how})", "started from": started}
            case.answer = _kept(replace(found, details=details), case.partial)


def _suits(name: str, observation: Observation, victim: Victim) -> bool:
    """Whether a descent is made for this client; that of several steps knows no dropout and no batch norm."""
    plain = not victim.model.mask_shapes and not victim.model.has_batch_norm
    return name != "local-steps" or (plain and steps(observation) > 1)


def _stream(seed: int, name: str) -> torch.Generator:
    """A stage's own stream: what others draw does not move it."""
    mixed = seed + sum(ord(letter) * 257**place for place, letter in enumerate(name))
    return torch.Generator().manual_seed(mixed % 2**63)


def _try(
    name: str,
    attack: Attack,
    cases: Sequence[Case],
    threat: ThreatModel,
    victim: Victim,
    generator: torch.Generator,
) -> None:
    """One closed form on the cases that are left."""
    left = [case for case in cases if case.answer is None]
    if not left:
        return
    if victim.personal and not attack.personal:
        for case in left:
            case.tried.append(Certificate.refused(name, "a part of the model stays with the client"))
        return
    try:
        found = attack([case.observation for case in left], threat, victim, generator=generator)
    except (MissingKnowledge, NotApplicable) as error:
        for case in left:
            case.tried.append(Certificate.refused(name, str(error)))
        return
    for case, answer in zip(left, found, strict=True):
        case.take(name, answer)


def _answers(
    name: str,
    descent: Attack,
    cases: Sequence[Case],
    threat: ThreatModel,
    victim: Victim,
    generator: torch.Generator,
    ticker: Ticker,
) -> list[Reconstruction]:
    """A descent's answers; knowledge that it lacks is a refusal like any other."""
    begun = ticker.done

    def advance(done: int, total: int) -> None:
        ticker.advance(begun + DESCENT * done // max(total, 1) - ticker.done)

    try:
        found = descent(
            [case.observation for case in cases], threat, victim, generator=generator, report=advance
        )
    except (MissingKnowledge, NotApplicable) as error:
        found = [Reconstruction.refused(error)] * len(cases)
    ticker.advance(begun + DESCENT - ticker.done)
    return found


def _fits(case: Case, found: Reconstruction) -> bool:
    """Whether a closed form left as many images as the descent looks for."""
    if case.partial is None or case.partial.images is None or found.images is None:
        return False
    return len(case.partial.images) == len(found.images)


def _kept(found: Reconstruction, partial: Reconstruction | None) -> Reconstruction:
    """The descent's images, with those that a closed form vouches for in the places of the nearest.

    Of a batch only if all that it confirmed is proven: two rows may agree on a mixture.
    """
    vouched = partial.details if partial is not None else {}
    confirmed = int(vouched.get("confirmed", 0))
    if int(vouched.get("proven", confirmed)) < confirmed:
        return found
    if not confirmed or partial is None or partial.images is None or found.images is None:
        return found
    images: Tensor = found.images.clone()
    free = list(range(len(images)))
    for image in partial.images[:confirmed]:
        if not free:
            break
        nearest = min(free, key=lambda place: float((images[place] - image).square().mean()))
        images[nearest] = image
        free.remove(nearest)
    return replace(found, images=images, details=found.details | {"confirmed": confirmed})


def _labelled(
    case: Case, threat: ThreatModel, victim: Victim, generator: torch.Generator
) -> Reconstruction | None:
    """The answer (or the best without proof) with labels, where the last layer tells them."""
    answer = case.answer or case.partial
    if answer is None or answer.labels is not None:
        return answer
    batch = batch_size(case.observation, threat)
    if batch is None:
        return answer
    try:
        labels = recover_labels(case.observation, threat, victim, batch, generator=generator)
    except NotApplicable:
        return answer
    return replace(answer, labels=labels)


def _concluded(case: Case) -> Reconstruction:
    if case.answer is None:
        told = [str(one) for one in case.tried] + case.refusals
        whole = "; ".join([f"none of its {len(told)} stages applies here", *told])
        return Reconstruction.refused(whole, *case.tried)
    return replace(case.answer, certificates=tuple(case.tried))
