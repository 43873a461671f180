"""Peels a network from its first biased linear layer back to the pixels: each layer one linear system.

J. Zhu and M. Blaschko, "R-GAP: Recursive Gradient Attack on Privacy", ICLR 2021,
https://arxiv.org/abs/2010.07733. For one record, a linear layer with a bias gives its input x in closed form
(∂L/∂W = δ xᵀ, ∂L/∂b = δ) and the cotangent of that input, Wᵀ δ. Undoing the activation gives the previous
layer's output z and its cotangent, and the layer's input then obeys

    weight constraints    A x = z - b       one for each output, A the layer as a matrix
    gradient constraints  G(δ) x = ∂L/∂W    one for each weight, linear in x for the known δ

(one follows from the others, W · ∂L/∂W = Σ δ · A x), from which x follows by least squares if together they
have full column rank. So on down to the pixels. No label is needed, and neither the loss nor the learning
rate: δ and ∂L/∂W may share any factor.

Deviations from the paper: the cotangent comes from the linear layer's own bias gradient instead of from the
logits and the label, so that dropout behind that layer does not matter and no ambiguity of the loss's
derivative arises. Dropout in front of it leaves columns of zeros: those values are unknown, their cotangent
is zero, and the rest is solved if the rank allows. Gradient constraints are used where weight constraints
alone are singular, ill conditioned or incomplete, because the latter can be factorised once for all victims
of a round; each constraint counts by its rounding. The activation must be injective, and nothing may lie
between layers but it (no pooling, norm, or skip connection). The certificate is that of the layer that is
hardest to undo, with the worst residual of any: every peeled layer's gradient is computed from the answer and
compared with the observed one, which no noise survives. It is "not unique" where nobody can say that there is
one record only: with two classes a mixture may obey all equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab_attacks.exact.algebra import Measured, certify, measured
from fedlab_attacks.exact.chain import Chain, Link, read_chain
from fedlab_attacks.exact.convolution import Factor, LinearMap
from fedlab_attacks.exact.each import each
from fedlab_attacks.reading import batch_size, unchanged, uncounted

METHOD = "layer peel"
WELL = 1e3
"""Condition of the weight constraints up to which they do without gradient constraints."""
SLACK = 10.0
"""How many times its expected size an error may be before it is no rounding."""
FLOAT = 1.2e-7
"""Rounding of the client's float32 pass, relative."""


class Singular(Exception):
    """A layer's system leaves inputs open; carries the certificate."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(str(certificate))
        self.certificate = certificate


class LayerPeel(Attack):
    """Undoes convolutions and injective activations below a biased linear layer, for one record."""

    needs: ClassVar = frozenset()
    paper: ClassVar[str] = "Zhu and Blaschko, R-GAP, ICLR 2021"
    exact: ClassVar[bool] = True

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        factors = _Factors()
        # One seed for all: each is attacked alone as in company.
        seed = int(torch.randint(2**62, (1,), generator=generator))

        def solve(observation: Observation) -> Reconstruction:
            own = torch.Generator().manual_seed(seed)
            state = {**observation.before, **observation.buffers_before}
            chain = read_chain(victim, state, own)
            unchanged(victim, *[f"{link.name}.{kind}" for link in chain.links for kind in ("weight", "bias")])
            try:
                return _Peeling(observation, chain, threat, victim, factors, own).answer()
            except Singular as found:
                return Reconstruction.refused(str(found), found.certificate)

        return each(observations, solve, method=METHOD, report=report)


@dataclass
class _Factors:
    """The last factor of each layer, which all victims that were sent the same weights share."""

    known: dict[str, tuple[Tensor, Factor]] = field(default_factory=dict)

    def of(self, name: str, weight: Tensor, layer: LinearMap) -> Factor:
        last = self.known.get(name)
        if last is None or not (last[0] is weight or torch.equal(last[0], weight)):
            last = weight, Factor.of(layer.normal())
            self.known[name] = last
        return last[1]


@dataclass(frozen=True)
class _Level:
    """What is known at one layer's input: values, their errors, the cotangent; all (n,).

    `known` is False where dropout took the value.
    """

    value: Tensor
    error: Tensor
    cotangent: Tensor
    known: Tensor


class _Peeling:
    """One observation's way down the chain."""

    def __init__(
        self,
        observation: Observation,
        chain: Chain,
        threat: ThreatModel,
        victim: Victim,
        factors: _Factors,
        generator: torch.Generator,
    ) -> None:
        self.observation, self.chain = observation, chain
        self.threat, self.victim = threat, victim
        self.factors, self.generator = factors, generator
        self.rank = self.unknowns = 0
        self.condition = 1.0
        self.residual = self.tolerance = 0.0
        self.details: dict[str, float | int | str] = {}

    def answer(self) -> Reconstruction:
        """The record, from the chain's end to its beginning."""
        if (records := batch_size(self.observation, self.threat) or 1) > 1:
            raise NotApplicable(f"the update is of {records} records; one is solved for")
        links = self.chain.links
        level = self._linear(links[-1])
        for position in range(len(links) - 2, -1, -1):
            level = self._below(links[position], links[position + 1], level)
        image = self.chain.pixels.image(level.value)
        certificate = certify(
            METHOD,
            "the record",
            rank=self.rank,
            unknowns=self.unknowns,
            condition=self.condition,
            residual=self.residual,
            tolerance=self.tolerance,
            open_=uncounted(self.observation, self.threat, self.victim),
        )
        if certificate.verdict == "not applicable":
            return Reconstruction.refused(certificate.reason, certificate)
        self.details["confirmed"] = 1
        scale = self.chain.pixels.scale.abs().mean()
        self.details["expected error"] = float(level.error.square().mean().sqrt() / scale)
        return Reconstruction(
            images=image.float().nan_to_num(nan=0.5).clamp(0.0, 1.0)[None],
            residual=self.residual,
            details=self.details,
            certificates=(certificate,),
        )

    def _linear(self, link: Link) -> _Level:
        """The input of the linear layer with a bias, and its cotangent."""
        table = measured(self.observation, f"{link.name}.weight", f"{link.name}.bias")
        weight, bias = table.values[:, :-1], table.values[:, -1]
        if not bool(bias.any()):
            raise NotApplicable(f"the biases of {link.name} did not change")
        value = bias @ weight / bias.square().sum()
        misfit = table.values - torch.outer(bias, torch.cat([value, value.new_ones(1)]))
        noise = table.noise * (1.0 + float(value.norm() / value.numel() ** 0.5))
        self._judge(link.name, float(misfit.norm() / table.values.norm()), noise / float(table.values.norm()))
        if self.residual > self.tolerance:
            raise Singular(
                certify(
                    METHOD,
                    "the record",
                    rank=0,
                    unknowns=link.shape.numel(),
                    condition=float("inf"),
                    residual=self.residual,
                    tolerance=self.tolerance,
                )
            )
        entry = table.noise / table.values.numel() ** 0.5 / float(bias.norm())
        error = (entry**2 + (FLOAT * value).square()).sqrt()
        known = torch.ones_like(value, dtype=torch.bool)
        if link.rate > 0.0:
            sent = self.observation.before[f"{link.name}.weight"].double()
            dropped = (weight.abs() <= FLOAT * sent.abs()).all(dim=0)
            # In evaluation mode nothing is dropped, and nothing scaled.
            if float(dropped.double().mean()) > link.rate / 4:
                if not self.threat.grants("dropout_rate"):
                    raise NotApplicable(
                        f"units are dropped in front of {link.name}, at a rate that the threat model denies"
                    )
                known = ~dropped
                value, error = value * (1.0 - link.rate), error * (1.0 - link.rate)
        live = 1.0 / (1.0 - link.rate) if not bool(known.all()) else 1.0
        cotangent = self.observation.before[f"{link.name}.weight"].double().T @ bias * known * live
        self._rank(link.name, link.shape.numel(), link.shape.numel(), 1.0)
        self.details["dropped"] = int((~known).sum())
        return _Level(value, error, cotangent, known)

    def _below(self, link: Link, above: Link, level: _Level) -> _Level:
        """The input of `link`, from that of the layer above it.

        Raises:
            Singular: its constraints leave inputs open.
        """
        bend = above.bend
        assert bend is not None
        if link.rate > 0.0:
            raise NotApplicable(f"units are dropped in front of {link.name}, which gives no sign of which")
        sent = self.observation.before[f"{link.name}.weight"]
        bias = self.observation.before.get(f"{link.name}.bias")
        layer = LinearMap.of(link.layer, sent, bias, link.shape)
        size = (len(layer.weight), layer.index.shape[1])
        z = bend.inverse(level.value)
        z = torch.where(level.known, z, torch.zeros_like(z))
        slope = torch.where(level.known, bend.slope(z), torch.ones_like(z))
        error = (level.error / slope.clamp(min=1e-12)).hypot(FLOAT * z)
        right, delta = z.reshape(size) - layer.bias[:, None], (level.cotangent * slope).reshape(size)
        change = measured(self.observation, f"{link.name}.weight")
        complete = bool(level.known.all())
        factor = (
            self.factors.of(link.name, sent, layer) if complete and layer.outputs >= layer.inputs else None
        )
        if factor is not None and factor.lower is not None and factor.condition <= WELL:
            value = factor.solve(layer.adjoint(right))
            spread = factor.spread(self.generator) * float(error.square().mean().sqrt())
            how = "weights"
        else:
            factor, value, spread = self._both(link, layer, right, delta, error, level.known, change)
            how = "weights and gradients"
        self.details[f"{link.name}: equations"] = how
        self.details[f"{link.name}: condition"] = factor.condition
        self._rank(link.name, factor.rank, layer.inputs, factor.condition)
        share = float(spread.square().mean().sqrt() / value.square().mean().sqrt())
        explained = layer.gradient(value, delta)
        misfit = float((explained - change.values).norm() / change.values.norm())
        self._judge(link.name, misfit, SLACK * (change.tolerance + share + 1e3 * FLOAT))
        known = torch.ones_like(value, dtype=torch.bool)
        return _Level(value, spread.abs().clamp(min=1e-300), layer.adjoint(delta), known)

    def _both(
        self,
        link: Link,
        layer: LinearMap,
        right: Tensor,
        delta: Tensor,
        error: Tensor,
        known: Tensor,
        change: Measured,
    ) -> tuple[Factor, Tensor, Tensor]:
        """Weight and gradient constraints together, each over the size of its error."""
        entry = max(change.noise / change.values.numel() ** 0.5, 1e-300)
        share = (known / error.square().clamp(min=1e-300)).reshape(right.shape) * entry**2
        normal = layer.normal(share) + layer.gradient_normal(delta)
        factor = Factor.of(normal)
        if factor.lower is None:
            left = layer.inputs - factor.rank
            count = int(known.sum()) + change.values.numel()
            raise Singular(
                Certificate(
                    METHOD,
                    "not unique",
                    f"the input of {link.name}",
                    f"{link.name}: {count} equations of rank {factor.rank} for {layer.inputs} inputs",
                    factor.rank,
                    layer.inputs,
                    factor.condition,
                    left,
                )
            )
        both = layer.adjoint(share * right) + layer.gradient_adjoint(change.values, delta)
        value = factor.solve(both)
        # The normal equations square the condition; one correction gives back what that costs.
        left_over = layer.adjoint(share * (right - layer.apply(value)))
        left_over += layer.gradient_adjoint(change.values - layer.gradient(value, delta), delta)
        return factor, value + factor.solve(left_over), factor.spread(self.generator) * entry

    def _rank(self, name: str, rank: int, unknowns: int, condition: float) -> None:
        """The hardest layer's numbers are the certificate's."""
        if condition >= self.condition:
            self.rank, self.unknowns, self.condition = rank, unknowns, condition
            self.details["hardest layer"] = name

    def _judge(self, name: str, residual: float, tolerance: float) -> None:
        """The worst residual, measured by what rounding explains there."""
        if residual * self.tolerance >= self.residual * tolerance:
            self.residual, self.tolerance = residual, tolerance
