"""The leak against calibrated noise, and against batch size, dropout and local steps: curves without bars."""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from fedlab_attacks.cascade import Cascade
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients

from benchmarks.attacks.curves import Curve, noisy
from benchmarks.attacks.scene import Scene, dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import Attack, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks import Dataset
from fedlab.tasks.models.mlp import mlp

SEED, VICTIMS = 0, 16
NOISE = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
ATTACKS: dict[str, Callable[[], Attack]] = {
    "cascade": lambda: Cascade(iterations=100, samples=20_000),
    "inverting-gradients": lambda: InvertingGradients(iterations=300),
}


def clients(data: Dataset, *, batch: int = 1, dropout: float = 0.0, steps: int = 1) -> Scene:
    """Clients whose steps are on records of their own, in training mode."""
    network = functools.partial(mlp, data.shape, data.classes, width=64, depth=2, dropout=dropout)
    config = ClientConfig(batch_size=batch, local_steps=steps, learning_rate=0.1)
    return observe(network, data, config, victims=VICTIMS, records=batch * steps, seed=SEED)


def scored(attack: Attack, scene: Scene) -> list[float]:
    """Each victim's mean PSNR; 0 where there is no answer."""
    generator = torch.Generator().manual_seed(SEED)
    answers = attack(scene.observations, ThreatModel(), scene.victim, generator=generator)
    found = scene.psnrs(answers)
    each = len(found) // VICTIMS
    return [statistics.fmean(found[i : i + each]) for i in range(0, len(found), each)]


def curves(data: Dataset, make: Callable[[], Attack]) -> list[Curve]:
    """One for each knob."""
    still = clients(data)
    noise = [replace(still, observations=noisy(still.observations, ratio, SEED)) for ratio in NOISE]
    found = [Curve("noise / update", NOISE, [scored(make(), one) for one in noise])]
    knobs: dict[str, tuple[str, tuple[Any, ...]]] = {
        "batch size": ("batch", (1, 2, 4, 8)),
        "dropout": ("dropout", (0.0, 0.25, 0.5, 0.75)),
        "local steps": ("steps", (1, 2, 4, 8)),
    }
    for title, (name, values) in knobs.items():
        scenes = [clients(data, **{name: value}) for value in values]
        found.append(Curve(title, values, [scored(make(), one) for one in scenes]))
    return found


def main() -> int:
    data, _ = dataset("digits")
    rows, notes, raw = [], [], {}
    for name, make in ATTACKS.items():
        for curve in curves(data, make):
            rows += [
                Row(f"{name}, {curve.knob} {value:g}: median PSNR", median, "dB")
                for value, median in zip(curve.values, curve.medians, strict=True)
            ]
            notes.append(f"{name} over {curve.knob}: {curve}")
            raw[f"{name}, {curve.knob}"] = curve.psnrs
    notes.append(
        f"medians over {VICTIMS} victims of their mean PSNR, 0 dB where there is no answer; a rise is a step"
        " up whose 95 % interval lies above 0; noise is one Gaussian direction per victim, scaled to a share"
        " of the update's norm, and that is the norm over all parameters"
    )
    work = (
        "MLP 64-64-64-10, training mode, digits; one step on one record without dropout and noise, save the"
        f" knob; weight differences, seed {SEED}"
    )
    return finish(Result("attack_noise", work, rows, notes, raw))


if __name__ == "__main__":
    sys.exit(main())
