"""Attacks on a device: the objective and its slope as in float64, and as much recovered as on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.optimise.capture import Term
from fedlab_attacks.optimise.objectives import cosine, l2
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.recipes.deep_leakage import DeepLeakage
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from rounding import SAFETY, UNIT
from torch import Tensor

from fedlab.audit import Attack, ThreatModel
from fedlab.tasks import State
from fedlab.tasks.precision import compute_exactly
from tests.attacks.attack_scene import Scene, convnet, mlp, scene, small_mlp, stream

KNOWS = ThreatModel(labels=True)
WIDEST, LAYERS = 128, 3
"""The most products in one sum of `convnet`, and its layers."""


def double(state: State) -> State:
    return {name: value.double() for name, value in state.items()}


def in_float64(real: Scene) -> Scene:
    """The same victims for an attacker who computes in float64."""
    model = real.victim.model
    net = type(model)(convnet().double(), (1, 8, 8))
    seen = [replace(one, before=double(one.before), update=double(one.update)) for one in real.observations]
    return replace(real, victim=replace(real.victim, model=net), observations=seen)


def valued(real: Scene, images: Tensor, term: Term, device: str) -> tuple[Tensor, Tensor]:
    """An objective and its slope by the images, on the CPU."""
    labels = torch.stack(real.labels)
    problem = Problem.of(real.victim, real.observations, labels, training=False, device=device)
    leaf = images.to(device).requires_grad_()
    candidate = Variables(leaf).to(device)
    value = term(problem, candidate, simulate(problem, candidate))
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach().cpu().double(), slope.cpu().double()


@pytest.mark.parametrize("term", [cosine, l2], ids=["cosine", "l2"])
def test_objectives_and_their_slopes_are_those_of_float64(device: str, term: Term) -> None:
    """A slope by the images is a second derivative: the chain of sums of a gradient, there and back again, so
    4 L u log2(n) of its norm, and a victim's distance to the target, a sum over all parameters, as much."""
    compute_exactly(torch.device(device))
    real = scene(convnet, victims=3, batch=2, mode="eval")
    images = torch.rand(3, 2, 1, 8, 8, generator=stream())
    value, slope = valued(real, images, term, device)
    exact, reference = valued(in_float64(real), images.double(), term, "cpu")
    allowed = SAFETY * UNIT * 4 * LAYERS * torch.log2(torch.tensor(float(WIDEST))).item()
    torch.testing.assert_close(value, exact, rtol=allowed, atol=0.0)
    for ours, theirs in zip(slope, reference, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) <= allowed


ATTACKS: dict[str, tuple[Callable[..., Scene], Callable[[str], Attack], float]] = {
    # name: the scene, the attack, dB within which two descents end that round otherwise
    "deep leakage, L-BFGS": (
        partial(scene, convnet, victims=2, mode="eval"),
        lambda device: DeepLeakage(iterations=40, device=device),
        6.0,
    ),
    "inverting gradients, signed Adam": (
        partial(scene, small_mlp, victims=2, mode="eval"),
        lambda device: InvertingGradients(iterations=100, device=device),
        3.0,
    ),
    "dropout inversion": (
        partial(scene, partial(mlp, width=96, first_bias=False), victims=2),
        lambda device: DropoutInversion(iterations=120, device=device),
        3.0,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_device_recovers_what_the_cpu_does(device: str, name: str) -> None:
    """Both end near the image, far above chance (8 to 12 dB); not at the same bits: a descent amplifies what
    rounding began."""
    made, attack, within = ATTACKS[name]
    real = made()
    answers = attack(device)(real.granted(), KNOWS, real.victim, generator=stream())
    assert all(one.images is not None and one.images.device.type == "cpu" for one in answers)
    ours = theirs = real.median(answers)
    if device != "cpu":
        theirs = real.median(attack("cpu")(real.granted(), KNOWS, real.victim, generator=stream()))
    assert theirs > 20.0 and ours > min(theirs - within, 40.0)


def test_a_closed_form_takes_what_a_gpu_trained(device: str) -> None:
    """The update of a client whose sums were rounded on the device; the attack itself computes on the CPU."""
    real = scene(mlp, victims=2, mode="eval")
    compute_exactly(torch.device(device))
    seen = []
    for one, images, labels in zip(real.observations, real.images, real.labels, strict=True):
        weights = {name: value.to(device) for name, value in one.before.items()}
        slope = real.victim.gradient(weights, {}, images.to(device), labels.to(device), training=False)
        rate = one.config.learning_rate or 1.0
        after = {name: (value - rate * slope[name]).cpu() for name, value in weights.items()}
        seen.append(replace(one, update={name: after[name] - one.before[name] for name in after}))
    answers = LinearLayer()(seen, KNOWS, real.victim, generator=stream())
    assert real.median(answers) > 60.0
