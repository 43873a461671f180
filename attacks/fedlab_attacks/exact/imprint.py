"""A malicious server's imprint block, which sorts the records of a batch into bins of their own.

L. Fowl, J. Geiping, W. Czaja, M. Goldblum and T. Goldstein, "Robbing the Fed: Directly Obtaining Private Data
in Federated Learning with Modified Models", ICLR 2022, https://arxiv.org/abs/2110.13057. Before the agreed
network the server puts a linear layer whose k rows all measure the same h(x), here the mean brightness, with
the biases -c_1 > ... > -c_k, a ReLU, and a linear layer with equal columns back to the image. A record has
the same gradient g at every bin that it opens, so the difference of neighbours is that of the records between
them:

    ∂W_j - ∂W_(j+1) = Σ_i g_i x_i,   ∂b_j - ∂b_(j+1) = Σ_i g_i    over the i with c_j < h(x_i) <= c_(j+1),

and a record alone in its bin is their ratio. With c_j at the quantiles of h, a batch of B leaves a given
record alone with probability (1 - 1/k)^(B-1) (proposition 1): 93.9 % for B = 64 and k = 1000.

The quantiles are those of the attacker's proxy data where it has any, and else of a Gaussian with the given
mean and deviation. Deviations: the lowest bin has no lower end, so that no record is below all; what the
block adds to the image is scaled to be small, which also makes the weights small and so their rounding;
several local steps are refused, since the first moves the bins.

The certificate is "unique" only if as many bins answer as there are records: then each has one. Where m of B
answer, at most B - m of them are mixtures, and nothing in the update says which. One ratio per bin fits
whatever was done to an update, so two things that no residual sees are asked as well: each answer must open
its own bin and not the next; and a pixel that is exactly 0 in a row is 0 in the rows above, whose records are
among its own. Pruning breaks both, unless what it takes is less than a bin is wide.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.observation import Observation
from fedlab.audit.threat import Server, ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import State
from fedlab_attacks.exact.algebra import certify
from fedlab_attacks.exact.each import each
from fedlab_attacks.reading import batch_size, disguised, steps, unchanged, uncounted

METHOD = "imprint"
MEASURE, RETURN = "imprint.measure", "imprint.give_back"
SMALL = 1e-4
"""Scale of the measuring rows: what the block adds to an image is about bins * SMALL / 2."""
EMPTY = 16.0
"""A bin is empty if its difference is below so many times the rounding of the sums and of the weights."""


class Block(nn.Module):
    """x + give_back(relu(measure(x))), for images of a given shape."""

    def __init__(self, input_shape: Sequence[int], bins: int) -> None:
        super().__init__()
        pixels = math.prod(input_shape)
        self.measure = nn.Linear(pixels, bins)
        self.give_back = nn.Linear(bins, pixels)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.give_back(torch.relu(self.measure(x.flatten(1))))
        return x + added.view(x.shape)


class Imprint(Attack):
    """Sends clients a network that keeps their records apart, and reads them off.

    Args:
        bins: rows of the imprint; a record in a batch of B is alone with probability (1 - 1/bins)^(B-1).
        mean, deviation: of the images' mean brightness, taken to be Gaussian; used without proxy data.
    """

    needs: ClassVar = frozenset()
    paper: ClassVar[str] = "Fowl et al., Robbing the Fed, ICLR 2022"
    server: ClassVar[Server] = "malicious"
    exact: ClassVar[bool] = True

    def __init__(self, *, bins: int = 1000, mean: float = 0.4, deviation: float = 0.15) -> None:
        if bins < 2:
            raise UsageError(f"Imprint: bins = {bins}; expected at least 2")
        if not 0.0 <= mean <= 1.0:
            raise UsageError(f"Imprint: mean = {mean}; expected a brightness from 0 to 1")
        if not 0.0 < deviation < math.inf:
            raise UsageError(f"Imprint: deviation = {deviation}; expected more than 0")
        self.bins, self.mean, self.deviation = bins, mean, deviation

    def network(
        self, factory: Callable[[], nn.Module], input_shape: Sequence[int]
    ) -> Callable[[], nn.Module]:
        """The agreed network, `net.*`, behind the block, `imprint.*`."""
        bins = self.bins

        def altered() -> nn.Module:
            return nn.Sequential(OrderedDict(imprint=Block(input_shape, bins), net=factory()))

        return altered

    def parameters(self, state: State, victim: Victim, *, generator: torch.Generator) -> State:
        """The block's weights: rows that measure brightness, biases at its quantiles, equal columns back."""
        rows = state[f"{MEASURE}.weight"]
        kind, (bins, pixels) = rows.dtype, rows.shape
        levels = torch.arange(1, bins, dtype=torch.float64) / bins
        if victim.proxy is not None:
            brightness = victim.proxy.images.double().flatten(1).mean(dim=1)
            cuts = torch.quantile(brightness, levels)
        else:
            cuts = self.mean + self.deviation * math.sqrt(2.0) * torch.erfinv(2.0 * levels - 1.0)
        cuts = torch.cat([cuts.new_full((1,), min(-1.0, float(cuts[0]) - 1.0)), cuts])
        return {
            **state,
            f"{MEASURE}.weight": torch.full((bins, pixels), SMALL / pixels, dtype=kind),
            f"{MEASURE}.bias": (-SMALL * cuts).to(kind),
            f"{RETURN}.weight": torch.randn(pixels, 1, generator=generator, dtype=kind)
            .expand(-1, bins)
            .clone(),
            f"{RETURN}.bias": torch.zeros(pixels, dtype=kind),
        }

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        return each(observations, lambda one: self._read(one, threat, victim), method=METHOD, report=report)

    def _read(self, observation: Observation, threat: ThreatModel, victim: Victim) -> Reconstruction:
        unchanged(victim, f"{MEASURE}.weight", f"{MEASURE}.bias")
        bins = _bins(observation)
        sums, floor = bins.sums, bins.floor
        batch = batch_size(observation, threat)
        share = sums[:, -1]
        full = share.abs() > floor
        answered = int(full.sum())
        if batch is not None and answered > batch:
            raise NotApplicable(
                f"{answered} bins answer, more than the {batch} records: noise was added to the update"
            )
        if not answered:
            raise NotApplicable("no bin answers: the imprint had no gradient")
        ratios = sums[full, :-1] / share[full, None]
        residual = float(sums[~full].norm() / sums.norm())
        records = batch or answered
        left = []
        if why := disguised(threat, victim):
            left.append(why)
        elif why := uncounted(observation, threat, victim):
            left.append(f"a bin may hold several records: {why}")
        elif answered < records:
            left.append(
                f"{records - answered} of {records} records share a bin with another, or have no gradient"
            )
        if strayed := bins.strayed(ratios, full):
            left.append(f"{strayed} of {answered} answers are not in their own bin: mixtures, or pruned")
        if bins.pruned:
            left.append("entries are exactly zero that cannot be: the update was pruned")
        certificate = certify(
            METHOD,
            f"{answered} of {records} records",
            rank=answered,
            unknowns=records,
            condition=float(share[full].abs().max() / share[full].abs().min()),
            residual=residual,
            tolerance=float(floor * sums.numel() ** 0.5 / sums.norm()),
            null_space=(records - answered) * sums.shape[1],
            open_="; ".join(left),
        )
        return Reconstruction(
            images=ratios.float().nan_to_num(nan=0.5).clamp(0.0, 1.0).reshape(-1, *victim.input_shape),
            residual=residual,
            details={"bins": len(sums), "bins that answer": answered, "batch": records},
            certificates=(certificate,),
        )


@dataclass(frozen=True)
class _Bins:
    """The imprint as it was sent and as it came back, by ascending cut, float64.

    Attributes:
        sent: (bins, n + 1) rows with their biases.
        table: (bins, n + 1) how they changed.
        floor: what is rounding in a difference of two rows.
    """

    sent: Tensor
    table: Tensor
    floor: float

    @property
    def sums(self) -> Tensor:
        """(bins, n + 1) Σ g_i [x_i 1] over the records of each bin, up to one factor."""
        return self.table - torch.cat([self.table[1:], torch.zeros_like(self.table[:1])])

    @property
    def pruned(self) -> bool:
        """Whether an entry is exactly zero where the row above it, of fewer records, is not."""
        lower, upper = self.table[:-1], self.table[1:]
        return bool(((lower == 0.0) & (upper.abs() > self.floor)).any())

    def strayed(self, images: Tensor, full: Tensor) -> int:
        """How many of the images (m, n), one for each bin of `full` (bins,), are not in their bin."""
        rows, biases = self.sent[:, :-1], self.sent[:, -1]
        opened = images @ rows.T + biases
        sizes = images.abs() @ rows.abs().T + biases.abs()
        off = self.floor / self.sums[full, -1].abs()
        slack = EMPTY * torch.finfo(torch.float32).eps * sizes + off[:, None] * rows.abs().sum(dim=1)
        own = full.nonzero()[:, 0]
        each = torch.arange(len(own))
        outside = opened[each, own] < -slack[each, own]
        inner = own < len(rows) - 1
        above = (own + 1).clamp(max=len(rows) - 1)
        outside |= inner & (opened[each, above] > slack[each, above])
        return int(outside.sum())


def _bins(observation: Observation) -> _Bins:
    """What the update says of the imprint.

    Raises:
        NotApplicable: the clients were not sent the imprint, or moved it before they were done.
    """
    names = [f"{MEASURE}.weight", f"{MEASURE}.bias"]
    if any(name not in observation.update for name in names):
        raise NotApplicable("the clients were not sent the imprint: threat.server was not malicious")
    if steps(observation) > 1:
        raise NotApplicable(f"{steps(observation)} local steps: the first one moves the bins")
    weight, bias = (observation.update[name] for name in names)
    sent = torch.cat([observation.before[names[0]], observation.before[names[1]][:, None]], dim=1).double()
    table = torch.cat([weight, bias[:, None]], dim=1).double()
    order = sent[:, -1].argsort(descending=True)
    eps = torch.finfo(weight.dtype).eps
    floor = EMPTY * eps * float(sent.abs().max() + table.abs().max())
    return _Bins(sent[order], table[order], floor)
