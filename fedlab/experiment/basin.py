"""Basin of attraction: from how far an attack finds the true image, if it is started near it.

The controlled initialisation of V. Valadi et al., "From Research to Reality: Feasibility of Gradient
Inversion Attacks in Federated Learning", 2025, https://arxiv.org/abs/2508.19819: the start is the true image
with a share p of its pixels replaced by noise. Where an attack leaves even the truth itself (p = 0), what it
minimises has its minimum elsewhere: update and prior do not contain the image, and no better optimiser would
find it there.

Deviations: noise is uniform in [0, 1]; a pixel is replaced in all its channels; the pixels replaced at a
smaller p are among those replaced at a larger one, by the same noise. Labels are granted, in the order of the
starts, so that a start meets its own label. The control descends from the same starts on a random update of
equal norm: what stands there is left of the start, not found.

This is a diagnosis. Only the experiment has the truth to make starts of; none of it is an attack's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedlab import seeds
from fedlab.audit import Attack, Reconstruction, archive, metrics
from fedlab.audit.scoring import score
from fedlab.audit.truth import Truth
from fedlab.errors import NotApplicable
from fedlab.experiment.attacking import AttackAnswer, AttackJob, attack, choose, lost, public
from fedlab.experiment.cells import Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.setup import Setup
from fedlab.progress import Progress
from fedlab.runtime import Executor


def study(
    directory: RunDirectory, setup: Setup, cells: Sequence[Trained], executor: Executor, progress: Progress
) -> dict[str, Any]:
    """The curves of the map's basin attack, one per cell: for each share of noise, the PSNR of every image at
    the start and at the end, and the same for the control."""
    settings = setup.scenario.map
    if settings is None:
        raise ValueError("the scenario has no [map]")
    label = settings.basin_attack or next(iter(setup.attacks))
    found: dict[str, Any] = {"attack": label, "shares": sorted(settings.basin), "refusal": None, "curves": []}
    descending = setup.attacks[label]
    if not isinstance(descending, Attack):
        return found | {"refusal": f"{label} asks whether records were used, and starts from no image"}
    granted = setup.scenario.model_copy(
        update={"threat": setup.scenario.threat.model_copy(update={"labels": True})}
    )
    jobs, truths, begun = [], [], []
    for one in cells:
        victims = choose(one, archive.load(directory.path / "observations" / one.cell.name), granted)
        victim, threat = public(one, victims, granted)
        for share in found["shares"]:
            noisy = starts(victims.truths, share, one.cell.seed)
            try:
                started = descending.starting_from(noisy)
            except NotApplicable as error:
                return found | {"refusal": str(error)}
            truths.append(victims.truths)
            begun.append(noisy)
            jobs.append(
                AttackJob(
                    cell=one.cell.name,
                    label=f"{label} from the truth with {100 * share:g} % noise",
                    attack=started,
                    observations=victims.observations,
                    threat=threat,
                    victim=victim,
                    seed=seeds.derive(one.cell.seed, "basin", one.cell.name),
                )
            )
    title = f"basin of {label}"
    progress.start(title, len(jobs))
    answers: dict[int, AttackAnswer] = {}
    for index, answer in executor.map(attack, jobs, lambda index, done, total: None, lost):
        answers[index] = answer
        progress.advance(title, len(answers), jobs[index].title)
    progress.finish(title)
    places = [(one.cell, share) for one in cells for share in found["shares"]]
    for index, (cell, share) in enumerate(places):
        answer = answers[index]
        found["curves"].append(
            {
                "client_mode": cell.mode,
                "seed": cell.seed,
                "share": share,
                "error": answer.error,
                "start": [_psnr(x, truth) for x, truth in zip(begun[index], truths[index], strict=True)],
                "victims": _scores(answer.victims, truths[index]),
                "control": _scores(answer.control, truths[index]),
            }
        )
    return found


def starts(truths: Sequence[Truth], share: float, seed: int) -> list[Tensor]:
    """(B, C, H, W) for each victim: its images with `share` of each one's pixels replaced by noise."""
    return [
        replaced(truth.images, share, seeds.torch_generator(seed, "basin", truth.round, truth.client))
        for truth in truths
    ]


def replaced(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(B, C, H, W) with round(`share` * H * W) pixels of each image replaced by uniform noise in [0, 1].

    A generator in the same state gives the same noise, and with a larger share more pixels beside the same.
    """
    batch, channels, height, width = images.shape
    noise = torch.rand(images.shape, generator=generator)
    order = torch.rand(batch, height * width, generator=generator).argsort(dim=1).argsort(dim=1)
    chosen = (order < round(share * height * width)).view(batch, 1, height, width)
    return torch.where(chosen.expand(-1, channels, -1, -1), noise, images)


def _scores(answers: Sequence[Reconstruction], truths: Sequence[Truth]) -> list[list[float | None]]:
    """PSNR of each victim's images."""
    return [list(score(one, truth).psnr) for one, truth in zip(answers, truths, strict=bool(answers))]


def _psnr(images: Tensor, truth: Truth) -> list[float]:
    return [float(value) for value in metrics.psnr(images, truth.images)]
