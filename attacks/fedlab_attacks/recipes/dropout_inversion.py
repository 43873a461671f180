"""Dropout inversion (DIA): images and dropout masks matched to the gradient together.

D. Scheliga, P. Mäder and M. Seeland, "Dropout is NOT All You Need to Prevent Gradient Leakage", AAAI 2023,
https://arxiv.org/abs/2208.06163. With x in the pixel box and one keep-mask ψ_l in [0, 1] per dropout layer:

    minimise over x, ψ   1 - cos(∇L(x, ψ), g) + 1e-5 TV(x) + 1e-4 Σ_l |1 - mean(ψ_l) - p_l|

by Adam, on the sign of the gradient for x and on the gradient itself for ψ. The drop rates p_l are known, the
masks are not. Without dropout (no such layer, or clients in evaluation mode) the attack is
`inverting-gradients`; if the client's mode is unknown both run, and the lower residual answers.

Deviations; where stages compete, the residual decides:

1. Masks are read off first. A linear (or convolutional) layer behind dropout has a weight gradient δ hᵀ; the
   columns of units with h = 0 are exactly zero. For one record that gives the mask (up to units that the
   activation had switched off, where it does not matter); for a batch, the units that no record used. If the
   update shows no such columns (noise was added), this stage is left out.
2. Only victims that stage leaves unexplained are descended jointly, as published, but with the step
   and the weight of TV divided by ten after 3/8, 5/8 and 7/8 of `iterations` instead of on plateaus
   (published: at most 20 000 iterations).
3. A polish without the two penalties, once with the masks rounded to 0 and 1 and once as they are.
4. Batch norm, if there is any beside dropout, runs in the client's mode where that is known (published:
   evaluation mode).
5. Stochastic layers give their mean (published: there are none); `training-client` seeks their noise.
6. Labels come from `label_recovery` unless granted (published: granted), and the start is uniform noise.

`read_masks = false` switches the first stage off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab_attacks.optimise.descent import Descent, Prior, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting, expected_noise
from fedlab_attacks.optimise.optimisers import POLISH, Adam
from fedlab_attacks.optimise.priors import mask_rates, total_variation
from fedlab_attacks.optimise.problem import Problem, like, pick
from fedlab_attacks.optimise.variables import Kind, Variables
from fedlab_attacks.reading import Ticker, probe
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients

EXPLAINED = 1e-4
"""A residual below this (an angle of 0.8 degrees) needs no other masks, only polish."""
PROBES = 32
BOTH: frozenset[Kind] = frozenset({"images", "masks"})


class DropoutInversion(Inversion):
    """Joint optimisation of images and keep-masks.

    Args:
        iterations: of the joint descent; reading masks off and polishing take 3/10 and 2 * 1/10 more.
        restarts: joint starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first.
        mask_rate: weight of |1 - mean(mask) - rate|, summed over dropout layers.
        step: Adam's first step, for pixels and masks.
        read_masks: look for exactly zero columns before descending.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size", "dropout_rate"})
    paper: ClassVar[str] = "Scheliga, Mäder and Seeland, Dropout is NOT All You Need, AAAI 2023"

    def __init__(
        self,
        *,
        iterations: int = 1000,
        restarts: int = 1,
        total_variation: float = 1e-5,
        mask_rate: float = 1e-4,
        step: float = 0.1,
        read_masks: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        if not (total_variation >= 0.0 and mask_rate >= 0.0 and step > 0.0):
            raise UsageError(
                f"DropoutInversion: total_variation = {total_variation}, mask_rate = {mask_rate}, step ="
                f" {step}; expected weights of at least 0 and a step above 0"
            )
        self.total_variation, self.mask_rate, self.step = total_variation, mask_rate, step
        self.read_masks = read_masks
        self.reading, self.polish = max(1, iterations * 3 // 10), max(1, iterations // 10)
        self.without = InvertingGradients(
            iterations=iterations,
            restarts=restarts,
            total_variation=total_variation,
            step=step,
            device=device,
        )

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        total = 0
        if self._dropout_possible(victim, threat):
            total += self.reading + self.iterations + 2 * self.polish
        if not self._dropout_certain(victim, threat):
            total += self.without.budget(victim, threat)
        return total

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        if not self._dropout_possible(victim, threat):
            found, _ = self.without.solve(setting, threat, victim, ticker)
            return found, ["matching without dropout"] * len(setting)
        found, stages = self._with_dropout(setting, threat, victim, ticker)
        if self._dropout_certain(victim, threat):
            return found, stages
        plain, _ = self.without.solve(setting, threat, victim, ticker)
        wins = plain.residual < found.residual
        found = found.or_better(replace(found, images=plain.images, residual=plain.residual))
        return found, [
            "matching without dropout" if win else stage
            for win, stage in zip(wins.tolist(), stages, strict=True)
        ]

    def _dropout_possible(self, victim: Victim, threat: ThreatModel) -> bool:
        return bool(victim.model.dropout_rates) and threat.client_mode != "eval"

    def _dropout_certain(self, victim: Victim, threat: ThreatModel) -> bool:
        return bool(victim.model.dropout_rates) and threat.client_mode == "train"

    def _with_dropout(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        training = threat.client_mode == "train"
        problem = Problem.of(
            victim,
            setting.observations,
            setting.labels,
            training=training,
            device=self.device,
        )
        drawn = setting.draw_masks(victim, self.restarts)
        noise = setting.noise(victim, self.restarts)
        used = self._read(setting, victim)
        everyone = torch.arange(len(setting))
        first = everyone * self.restarts
        known = torch.tensor([setting.batch == 1 and set(one) == set(drawn) for one in used])
        for i, one in enumerate(used):
            for name, units in one.items():  # a batch: what no record used is known, the rest is drawn
                own = slice(i * self.restarts, (i + 1) * self.restarts)
                drawn[name][own] = drawn[name][own] * units if setting.batch > 1 else units
        # The masks of a victim whose reading is about to be tried must differ if that fails.
        fresh = setting.draw_masks(victim, self.restarts)
        means = expected_noise(victim, len(noise), setting.batch) if training else {}
        found = Variables(noise[first], masks=pick(drawn, first), noise=pick(means, first)).to(self.device)
        rows = everyone[known].to(self.device)
        smooth = Prior(self.total_variation, total_variation, fades=True)
        adam = Adam(self.step, signed=True)
        if len(rows):
            fixed = Descent(Recipe(self.reading, priors=[smooth], optimiser=adam))
            found = found.put(rows, fixed(problem.pick(rows), found.pick(rows), ticker))
        else:
            ticker.advance(self.reading)
        explained = (found.residual < EXPLAINED).cpu()
        left = everyone[~explained]
        if len(left):
            repeated = left.repeat_interleave(self.restarts)
            rows = (left[:, None] * self.restarts + torch.arange(self.restarts)).flatten()
            tried = known[repeated]
            masks = {n: torch.where(like(tried, m[rows]), fresh[n][rows], m[rows]) for n, m in drawn.items()}
            rates = Prior(self.mask_rate, mask_rates(victim.model.dropout_rates))
            joint = Descent(Recipe(self.iterations, priors=[smooth, rates], vary=BOTH, optimiser=adam))
            left = left.to(self.device)
            start = Variables(noise[rows], masks=masks, noise=pick(means, rows)).to(self.device)
            new = joint(problem.pick(left).repeat(self.restarts), start, ticker)
            found = found.put(left, found.pick(left).or_better(new.best_of(self.restarts)))
        else:
            ticker.advance(self.iterations)
        stages = ["masks read off" if flag else "joint masks" for flag in explained.tolist()]
        return self._polish(problem, found, ticker), stages

    def _read(self, setting: Setting, victim: Victim) -> list[State]:
        """Per victim, the units (1) that some record used, by dropout layer, where the update shows it."""
        result: list[State] = []
        for observation in setting.observations:
            used: State = {}
            readers = mask_readers(victim, observation) if self.read_masks else {}
            for name, reader in readers.items():
                columns = observation.update[f"{reader}.weight"].transpose(0, 1).flatten(1)
                units = (columns != 0).any(dim=1).float().view(victim.model.mask_shapes[name])
                # Fewer zeros than dropout makes: noise was added, and the columns say nothing.
                if 1.0 - float(units.mean()) >= victim.model.dropout_rates[name] ** setting.batch / 2:
                    used[name] = units
            result.append(used)
        return result

    def _polish(self, problem: Problem, found: Variables, ticker: Ticker) -> Variables:
        masks = {name: mask.round() for name, mask in found.masks.items()}
        rounded = Variables(found.images, masks=masks, noise=found.noise)
        fixed = Recipe(self.polish, optimiser=Adam(self.step / 10, signed=True), schedule=POLISH)
        found = found.or_better(Descent(fixed)(problem, rounded, ticker))
        free = replace(fixed, vary=BOTH)
        return found.or_better(Descent(free)(problem, found, ticker))


def mask_readers(victim: Victim, observation: Observation) -> dict[str, str]:
    """For each dropout layer, a layer whose weight columns are zero exactly where the mask is.

    Found by trying: the layer's input must vanish on every dropped unit of a random mask, for all of a few
    random images, and on few of them without the mask. None where a defense makes zeros of its own.
    """
    known = victim.disclosure
    if known.sent == "nonzero":
        return {}
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(PROBES, *victim.input_shape, generator=generator)
    state = {**observation.before, **observation.buffers_before}
    kept = {name: torch.ones(PROBES, *shape) for name, shape in victim.model.mask_shapes.items()}
    open_ = {seen.name: seen for seen in probe(victim, state, images, kept)}
    readers: dict[str, str] = {}
    for name, shape in victim.model.mask_shapes.items():
        mask = torch.empty(shape).bernoulli_(0.5, generator=generator)
        masks = {**kept, name: mask.expand(PROBES, *shape)}
        for seen in probe(victim, state, images, masks):
            units = shape.numel()
            if not isinstance(seen.layer, nn.Linear | nn.Conv2d) or seen.input.shape[1] != units:
                continue
            if f"{seen.name}.weight" in known.distorted:
                continue
            if isinstance(seen.layer, nn.Conv2d) and seen.layer.groups != 1:
                continue
            dropped = mask.flatten() == 0
            silent = (seen.input.transpose(0, 1).flatten(1) == 0).all(dim=1)
            silent_anyway = (open_[seen.name].input.transpose(0, 1).flatten(1) == 0).all(dim=1)
            if bool(silent[dropped].all()) and float(silent_anyway[dropped].float().mean()) < 0.5:
                readers[name] = seen.name
                break
    return readers
