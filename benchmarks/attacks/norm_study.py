"""What knowing a batch's statistics is worth to an attacker, behind norms before and after the activation.

D. Valadi et al., 2025, https://arxiv.org/abs/2508.19819: clients in training mode leak through networks that
are shallow and wide, have skip connections, and normalise before the activation path. Three attackers
minimise the same objective: told nothing of the batch's statistics, told those of similar data, and told the
exact ones, solved from the batch norm's buffers. Labels are granted to all, as in the paper.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from fedlab_attacks.recipes.training_mode import GIAEstimate, GIARunning
from scipy import stats

from benchmarks.attacks.scene import Scene, observe
from benchmarks.harness import ROOT, Row
from fedlab.audit import Attack, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks import Dataset
from fedlab.tasks.models.resnet import resnet

Order = Literal["pre", "post"]
ORDERS: tuple[Order, ...] = ("pre", "post")
KNOWS = ThreatModel(labels=True, proxy_data=True)


@dataclass(frozen=True)
class Study:
    """Victims, their network and the attackers' effort.

    Attributes:
        batch: records per victim; `proxies` batches of the same size are the attacker's own.
        network: knobs of `fedlab.tasks.models.resnet`, save the order.
    """

    data: Dataset
    network: dict[str, Any]
    batch: int
    victims: int
    iterations: int
    seed: int
    proxies: int = 16
    device: str = "cpu"

    def attacks(self) -> dict[str, Attack]:
        """By what they know of the batch's statistics."""
        return {
            "none": GIARunning(iterations=self.iterations, batch_norm=0.0, device=self.device),
            "proxy": GIAEstimate(iterations=self.iterations, device=self.device),
            "exact": GIARunning(iterations=self.iterations, device=self.device),
        }

    def scene(self, order: Order) -> Scene:
        """One step of each victim in training mode; the same records in either order."""
        network = partial(resnet, self.data.shape, self.data.classes, order=order, **self.network)
        config = ClientConfig(mode="train", batch_size=self.batch, local_steps=1, learning_rate=0.1)
        return observe(
            network,
            self.data,
            config,
            victims=self.victims,
            records=self.batch,
            seed=self.seed,
            proxy=self.proxies * self.batch,
        )

    def __str__(self) -> str:
        side = "x".join(map(str, self.data.shape))
        knobs = ", ".join(f"{name} {value}" for name, value in self.network.items())
        effort = f"B {self.batch}, {self.victims} victims, {self.iterations} iterations, seed {self.seed}"
        return f"{self.data.name} {side}, {knobs}, {effort}, {self.proxies} proxy batches"

    def run(self) -> Found:
        """Attack every victim every way; what a run that was stopped left in build/ is not done again."""
        kept = ROOT / "build" / f"norm study, {self}.json"
        parts: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
        kept.parent.mkdir(parents=True, exist_ok=True)
        for order in ORDERS:
            scene = self.scene(order)
            for name, attack in self.attacks().items():
                key = f"{order}, {name}"
                if key not in parts:
                    generator = torch.Generator().manual_seed(self.seed)
                    answers = attack(scene.granted(), KNOWS, scene.victim, generator=generator)
                    parts[key] = [round(value, 2) for value in scene.psnrs(answers)]
                    kept.write_text(json.dumps(parts))
                shown = ", ".join(f"{value:.1f}" for value in parts[key])
                print(f"  {key}: {shown} dB", file=sys.stderr, flush=True)
        kept.unlink()
        return Found(parts, self.batch)


@dataclass(frozen=True)
class Found:
    """PSNR in dB of every image, by "order, attack"; `batch` images of each victim in turn."""

    psnrs: dict[str, list[float]]
    batch: int

    def means(self, order: Order, attack: str) -> list[float]:
        """Of each victim, over its images."""
        values = self.psnrs[f"{order}, {attack}"]
        return [statistics.fmean(values[i : i + self.batch]) for i in range(0, len(values), self.batch)]

    def median(self, order: Order, attack: str) -> float:
        """Over all images."""
        return statistics.median(self.psnrs[f"{order}, {attack}"])

    def rows(self) -> list[Row]:
        """Medians; then, of each expected inequality, the upper end of the difference's interval."""
        rows = [
            Row(f"{order}-activation, {attack} statistics: PSNR, median", self.median(order, attack), "dB")
            for order in ORDERS
            for attack in ("exact", "proxy", "none")
        ]
        for what, difference in self.differences().items():
            text = f"{what}: {difference}; upper end"
            rows.append(Row(text, difference.high, "dB", at_least=0.0))
        return rows

    def differences(self) -> dict[str, Difference]:
        """Paired by victim."""
        found = {
            f"{order}-activation, {more} - {less}": paired(self.means(order, more), self.means(order, less))
            for order in ORDERS
            for more, less in (("exact", "proxy"), ("proxy", "none"), ("exact", "none"))
        }
        for attack in ("exact", "proxy", "none"):
            found[f"{attack}, pre - post"] = paired(self.means("pre", attack), self.means("post", attack))
        return found

    def power(self) -> str:
        """What so few victims could have shown."""
        victims = len(self.means("pre", "none"))
        width = {what: difference.high - difference.mean for what, difference in self.differences().items()}
        shown = ", ".join(f"{what} {value:.1f}" for what, value in width.items())
        return f"smallest difference in dB that {victims} victims could have shown at 95 %: {shown}"


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} dB [{self.low:+.1f}, {self.high:+.1f}]"


def paired(more: Sequence[float], less: Sequence[float]) -> Difference:
    """The mean of more - less, pair by pair; at least two pairs.

    >>> str(paired([3.0, 5.0], [1.0, 3.0]))
    '+2.0 dB [+2.0, +2.0]'
    """
    gaps = np.subtract(more, less)
    half = float(stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5)
    mean = float(gaps.mean())
    return Difference(mean, mean - half, mean + half)


def halved(data: Dataset) -> Dataset:
    """The same images at half the resolution: means of 2 x 2 pixels."""
    n, c, h, w = data.x.shape
    blocks = data.x.reshape(n, c, h // 2, 2, w // 2, 2)
    scale = 255.0 if data.x.dtype == np.uint8 else 1.0
    return replace(data, x=(blocks.mean((3, 5), dtype=np.float32) / scale).astype(np.float32))
