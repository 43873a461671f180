"""How long attacks that optimise take on the device, and what they recover; the same scenes as on a CPU.

Inverting gradients (Geiping et al., NeurIPS 2020, https://arxiv.org/abs/2003.14053) on the network of pfl's
benchmark and on a ResNet in evaluation mode, dropout inversion (Scheliga et al., AAAI 2023,
https://arxiv.org/abs/2208.06163) on an MLP. Colour crops of photographs; labels are granted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import nn

from benchmarks.attacks.scene import Scene, dataset, observe
from benchmarks.gpu.machine import seconds
from benchmarks.harness import Row
from benchmarks.work import cnn
from fedlab.audit import Attack, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.clients.config import Mode
from fedlab.tasks import Dataset
from fedlab.tasks.models.mlp import mlp
from fedlab.tasks.models.resnet import resnet

KNOWS = ThreatModel(labels=True)
SEED = 0
WARM_UP = 2
"""Iterations that are not measured: a GPU loads its kernels with the first."""


@dataclass(frozen=True)
class Effort:
    """How much is done: victims are attacked together, as far as the attack's own rule lets them."""

    victims: int
    iterations: int
    batches: tuple[int, ...]


FULL = Effort(victims=8, iterations=2000, batches=(1, 4))
TINY = Effort(victims=1, iterations=2, batches=(1,))


@dataclass(frozen=True)
class Case:
    """A network, how its clients run it, and who attacks them."""

    name: str
    network: Callable[[Dataset], Callable[[], nn.Module]]
    mode: Mode
    attack: Callable[[int, str], Attack]


def _inverting(iterations: int, device: str) -> Attack:
    return InvertingGradients(iterations=iterations, device=device)


def _dropout(iterations: int, device: str) -> Attack:
    return DropoutInversion(iterations=iterations, device=device)


def _mlp(data: Dataset) -> Callable[[], nn.Module]:
    return partial(mlp, data.shape, data.classes, width=256, depth=2, dropout=0.5, first_bias=False)


def _resnet(data: Dataset) -> Callable[[], nn.Module]:
    return partial(resnet, data.shape, data.classes)


CASES = (
    Case("inverting gradients, pfl's CNN", lambda data: cnn, "eval", _inverting),
    Case("inverting gradients, ResNet", _resnet, "eval", _inverting),
    Case("dropout inversion, MLP 256-256", _mlp, "train", _dropout),
)


def measured(device: str, effort: Effort) -> list[Row]:
    """Seconds per victim, and the median PSNR."""
    data, _ = dataset("photos")
    rows = []
    for case in CASES:
        for batch in effort.batches:
            config = ClientConfig(mode=case.mode, batch_size=batch, local_steps=1, learning_rate=0.1)
            scene = observe(
                case.network(data), data, config, victims=effort.victims, records=batch, seed=SEED
            )
            _attacked(scene, case.attack(WARM_UP, device), device)
            took, psnrs = _attacked(scene, case.attack(effort.iterations, device), device)
            what = f"{case.name}, B = {batch}"
            rows.append(Row(f"{what}: {effort.iterations} iterations", took / effort.victims, "s per victim"))
            rows.append(Row(f"{what}: PSNR, median of {len(psnrs)} images", statistics.median(psnrs), "dB"))
    return rows


def _attacked(scene: Scene, attack: Attack, device: str) -> tuple[float, list[float]]:
    """Wall-clock seconds of one attack on all victims, and the PSNR of every image."""
    found: list[float] = []

    def once() -> None:
        generator = torch.Generator().manual_seed(SEED)
        found.extend(scene.psnrs(attack(scene.granted(), KNOWS, scene.victim, generator=generator)))

    return seconds(device, once), found
