"""Gradient matching: the distance and its derivative, the descent, and both attacks on digits."""

from __future__ import annotations

import pytest
import torch
from attack_scene import Scene, convnet, mlp, scene, small_mlp, stream
from fedlab_attacks.optimise.objectives import CosineDistance, cosine
from fedlab_attacks.optimise.priors import variation
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion, mask_readers
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import nn

from fedlab.audit.threat import ThreatModel

EVAL = ThreatModel(client_mode="eval")


def unit(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    norm = torch.cat([t.flatten(1) for t in tensors], dim=1).norm(dim=1)
    return [t / norm.view(-1, *([1] * (t.dim() - 1))) for t in tensors]


def test_the_distance_and_its_derivative_agree_with_autograd() -> None:
    generator = stream()
    targets = unit([torch.randn(3, 4, 5, generator=generator), torch.randn(3, 6, generator=generator)])
    ours = [torch.randn(t.shape, generator=generator, requires_grad=True) for t in targets]
    theirs = [g.detach().clone().requires_grad_() for g in ours]
    distance = CosineDistance.apply(targets, [torch.empty_like(t) for t in targets], *ours)
    flat, goal = (torch.cat([t.flatten(1) for t in ts], dim=1) for ts in (theirs, targets))
    reference = 1.0 - torch.nn.functional.cosine_similarity(flat, goal, dim=1)
    torch.testing.assert_close(distance, reference)
    weights = torch.tensor([1.0, -2.0, 0.5])
    for a, b in zip(
        torch.autograd.grad((distance * weights).sum(), ours),
        torch.autograd.grad((reference * weights).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_distance_does_not_cancel_when_it_is_small() -> None:
    """At an angle of 1e-5, 1 - cos is 5e-11: float32 has lost that in 1 - cos, but not in ‖u - t‖² / 2."""
    target = torch.tensor([[1.0, 0.0]])
    near = torch.tensor([[1.0, 1e-5]], requires_grad=True)
    distance = CosineDistance.apply([target], [torch.empty_like(target)], near)
    assert float(distance.detach()) == pytest.approx(5e-11, rel=1e-3)
    (slope,) = torch.autograd.grad(distance.sum(), near)
    assert float(slope[0, 1]) == pytest.approx(1e-5, rel=1e-3)


def test_total_variation_by_hand() -> None:
    """Rows (0, 1), (1, 1): across |1|, |0| -> 1/2; down |1|, |0| -> 1/2; one pixel alone -> 0."""
    image = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).view(1, 1, 1, 2, 2)
    assert variation(image).tolist() == [1.0]
    assert variation(torch.zeros(2, 1, 1, 1, 1)).tolist() == [0.0, 0.0]


def test_the_truth_has_no_residual() -> None:
    real = scene(victims=3, mode="eval")
    problem = Problem.of(real.victim, real.observations, torch.stack(real.labels), training=False)
    truth = Variables(torch.stack(real.images))
    assert float(cosine(problem, truth, simulate(problem, truth)).max()) < 1e-10


def test_inverting_gradients_succeeds_on_clients_in_evaluation_mode() -> None:
    real = scene(victims=4, mode="eval")
    answers = InvertingGradients(iterations=400)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 40.0
    assert all(a.labels is not None and a.labels.equal(t) for a, t in zip(answers, real.labels, strict=True))


def test_inverting_gradients_succeeds_on_a_small_convnet() -> None:
    real = scene(convnet, victims=2)
    answers = InvertingGradients(iterations=600)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 25.0


def test_inverting_gradients_succeeds_on_a_batch() -> None:
    real = scene(mlp, victims=1, batch=4, mode="eval")
    answers = InvertingGradients(iterations=600)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 30.0


def test_several_weights_of_the_prior_compete_by_residual() -> None:
    real = scene(victims=2, mode="eval")
    single = InvertingGradients(iterations=150, total_variation=10.0)
    both = InvertingGradients(iterations=150, total_variation=[10.0, 1e-5])
    blurred = single(real.observations, EVAL, real.victim, generator=stream())
    chosen = both(real.observations, EVAL, real.victim, generator=stream())
    assert all(b.residual < a.residual for a, b in zip(blurred, chosen, strict=True))
    assert real.median(chosen) > real.median(blurred) + 10.0


@pytest.fixture(scope="module")
def dropped() -> Scene:
    return scene(mlp, victims=8)


def test_ignoring_dropout_fails_and_modelling_it_succeeds(dropped: Scene) -> None:
    arguments = (dropped.observations, ThreatModel(), dropped.victim)
    ignoring = InvertingGradients(iterations=300)(*arguments, generator=stream())
    modelling = DropoutInversion()(*arguments, generator=stream())
    assert dropped.median(ignoring) <= 15.0
    assert dropped.median(modelling) >= 50.0
    assert {answer.details["found by"] for answer in modelling} == {"masks read off"}


def test_joint_masks_succeed_without_reading_any_off(dropped: Scene) -> None:
    attack = DropoutInversion(iterations=400, read_masks=False)
    answers = attack(dropped.observations[:4], ThreatModel(), dropped.victim, generator=stream())
    scores = dropped.psnr([*answers, *answers])[:4]
    assert {answer.details["found by"] for answer in answers} == {"joint masks"}
    assert float(scores.median()) >= 30.0


def test_dropout_inversion_on_a_batch() -> None:
    real = scene(mlp, victims=1, batch=2)
    answers = DropoutInversion(iterations=600)(
        real.observations, ThreatModel(), real.victim, generator=stream()
    )
    assert real.median(answers) >= 25.0


@pytest.mark.parametrize("mode", ["eval", None])
def test_dropout_inversion_holds_when_the_client_ran_without_dropout(mode: str | None) -> None:
    real = scene(victims=2, mode="eval")
    threat = ThreatModel(client_mode=mode)  # type: ignore[arg-type]
    answers = DropoutInversion(iterations=300)(real.observations, threat, real.victim, generator=stream())
    assert real.median(answers) >= 30.0


def test_dropout_inversion_is_inverting_gradients_for_a_network_without_dropout() -> None:
    real = scene(lambda: mlp(p=0.0, width=32), victims=2)
    arguments = (real.observations, ThreatModel(), real.victim)
    ours = DropoutInversion(iterations=50)(*arguments, generator=stream())
    plain = InvertingGradients(iterations=50)(*arguments, generator=stream())
    for a, b in zip(ours, plain, strict=True):
        assert a.images is not None and b.images is not None and a.images.equal(b.images)


def test_together_is_as_good_as_one_by_one() -> None:
    real = scene(victims=3, mode="eval")
    attack = InvertingGradients(iterations=300)
    together = attack(real.observations, EVAL, real.victim, generator=stream())
    alone = [attack([one], EVAL, real.victim, generator=stream())[0] for one in real.observations]
    for a, b in zip(together, alone, strict=True):
        assert a.images is not None and b.images is not None
        torch.testing.assert_close(a.images, b.images, atol=0.02, rtol=0)


def test_victims_with_different_parameters_share_a_graph() -> None:
    one, two = scene(victims=1, mode="eval"), scene(victims=1, mode="eval", seed=1)
    observations = [*one.observations, *two.observations]
    answers = InvertingGradients(iterations=300)(observations, EVAL, one.victim, generator=stream())
    for real, answer in zip((one, two), answers, strict=True):
        assert real.median([answer]) >= 30.0


def test_more_restarts_never_raise_the_residual() -> None:
    real = scene(victims=4, mode="eval", batch=2)
    few, many = (
        InvertingGradients(iterations=60, restarts=n)(
            real.observations, EVAL, real.victim, generator=stream()
        )
        for n in (1, 3)
    )
    assert all(b.residual <= a.residual for a, b in zip(few, many, strict=True))
    assert any(b.residual < a.residual for a, b in zip(few, many, strict=True))


def test_mask_readers_are_the_layers_behind_dropout() -> None:
    real = scene(small_mlp, victims=1)
    assert mask_readers(real.victim, real.observations[0]) == {"3": "4", "6": "7"}

    def two_dimensional() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(0.5),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5),  # element by element before a convolution: no column of its own
            nn.Conv2d(4, 2, 3, padding=1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )

    other = scene(two_dimensional, victims=1)
    assert mask_readers(other.victim, other.observations[0]) == {"2": "3", "8": "9"}


def test_batch_norm_runs_in_the_mode_that_is_asked_for() -> None:
    def normalised() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)
        )

    real = scene(normalised, victims=2, batch=4)
    arguments = (real.observations, ThreatModel(), real.victim)
    published = InvertingGradients(iterations=300)(*arguments, generator=stream())
    matching = InvertingGradients(iterations=300, mode="train")(*arguments, generator=stream())
    assert all(b.residual < a.residual for a, b in zip(published, matching, strict=True))
