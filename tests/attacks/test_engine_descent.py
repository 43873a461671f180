"""Descents: what leaves early, what is kept, which variables move, on networks with any norm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attack_scene import IMAGES, LABELS, Scene, convnet, scene, small_mlp, stream
from fedlab_attacks.optimise.capture import Simulated
from fedlab_attacks.optimise.descent import CHECK_EVERY, Descent, Prior, Recipe
from fedlab_attacks.optimise.inversion import own_generator
from fedlab_attacks.optimise.lbfgs import LBFGS
from fedlab_attacks.optimise.objectives import cosine
from fedlab_attacks.optimise.optimisers import Adam, constant
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import Tensor, nn

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.clients.config import ClientConfig
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, cross_entropy, initialise
from fedlab.tasks.layers import GaussianSample

EVAL = ThreatModel(client_mode="eval")


def problem_of(real: Scene, *, training: bool = False) -> Problem:
    return Problem.of(real.victim, real.observations, torch.stack(real.labels), training=training)


class Count:
    """A ticker's report, and the highest count that it was told."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        self.done = done


def counted(total: int) -> tuple[Ticker, Count]:
    count = Count()
    return Ticker(count, total), count


def noise(real: Scene, rows: int | None = None) -> Tensor:
    return torch.rand(rows or len(real.observations), *real.images[0].shape, generator=stream())


def test_an_explained_row_leaves_and_keeps_its_place() -> None:
    """The second victim starts at its truth: it leaves at the first check, untouched by what follows."""
    real = scene(convnet, victims=3, mode="eval")
    start = noise(real)
    start[1] = real.images[1]
    calls: list[int] = []

    def watched(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        calls.append(len(variables))
        return cosine(problem, variables, simulated)

    ticker, count = counted(50)
    found = Descent(Recipe(50, objective=watched, tolerance=1e-9))(problem_of(real), Variables(start), ticker)
    assert calls == [3] * CHECK_EVERY + [2] * CHECK_EVERY and count.done == 50
    assert found.images[1].equal(real.images[1]) and float(found.residual[1]) < 1e-9
    alone = Descent(Recipe(50))(
        problem_of(real).pick(torch.tensor([0])), Variables(start[:1]), counted(100)[0]
    )
    torch.testing.assert_close(found.images[0], alone.images[0], atol=0.02, rtol=0)


def test_when_all_are_explained_the_rest_of_the_budget_is_reported_as_done() -> None:
    real = scene(convnet, victims=2, mode="eval")
    ticker, count = counted(1000)
    found = Descent(Recipe(1000, tolerance=1e-9))(
        problem_of(real), Variables(torch.stack(real.images)), ticker
    )
    assert count.done == 1000 and found.images.equal(torch.stack(real.images))


def test_the_best_iterate_is_kept_not_the_last() -> None:
    """Steps of 1/2 jump about; the residual that is returned is the least that any iterate had."""
    real = scene(convnet, victims=2, mode="eval")
    seen: list[Tensor] = []

    def watched(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        value = cosine(problem, variables, simulated)
        seen.append(value.detach())
        return value

    wild = Recipe(60, objective=watched, optimiser=Adam(0.5, signed=True), schedule=constant)
    found = Descent(wild)(problem_of(real), Variables(noise(real)), counted(60)[0])
    assert found.residual.equal(torch.stack(seen).min(0).values)
    assert bool((seen[-1] > found.residual).any())


def test_a_value_that_is_not_a_number_spoils_nobody() -> None:
    real = scene(convnet, victims=2, mode="eval")

    def broken(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        return torch.where(problem.owner == 0, torch.nan, 0.0)

    recipe = Recipe(50, priors=[Prior(1.0, broken)])
    found = Descent(recipe)(problem_of(real), Variables(noise(real)), counted(50)[0])
    assert bool(torch.isfinite(found.images).all()) and bool(torch.isfinite(found.residual).all())


def test_weights_of_a_prior_per_row_and_fading() -> None:
    real = scene(convnet, victims=2, mode="eval")
    weights: list[Tensor] = []

    def pull(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        return variables.images.flatten(1).mean(1)

    def seen(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        value = torch.zeros(len(variables), requires_grad=True) + 0.0 * variables.images.flatten(1).sum(1)
        value.register_hook(lambda slope: weights.append(slope))
        return value

    strong = torch.tensor([0.0, 1e6])
    recipe = Recipe(
        10, priors=[Prior(strong, pull), Prior(2.0, seen, fades=True)], schedule=lambda i, n: 0.5**i
    )
    dark = Descent(recipe)(problem_of(real), Variables(noise(real)), counted(10)[0])
    assert [float(w[0]) for w in weights[:3]] == [2.0, 1.0, 0.5]
    assert float(dark.images[1].mean()) < float(dark.images[0].mean())


def test_what_does_not_vary_stays() -> None:
    real = scene(small_mlp, victims=2)
    masks = {n: torch.rand(2, 1, *shape) for n, shape in real.victim.model.mask_shapes.items()}
    start = Variables(noise(real), masks=masks)
    only = Descent(Recipe(30, vary=frozenset({"masks"})))(problem_of(real), start, counted(30)[0])
    assert only.images.equal(start.images)
    assert all(not only.masks[n].equal(mask) for n, mask in masks.items())
    assert all(0.0 <= float(m.min()) and float(m.max()) <= 1.0 for m in only.masks.values())


def test_soft_labels_and_noise_have_no_box() -> None:
    start = Variables(
        torch.rand(2, 1, 1, 8, 8),
        labels=torch.randn(2, 1, 10),
        masks={"m": torch.rand(2, 1, 5)},
        noise={"n": torch.randn(2, 1, 3)},
    )
    every = frozenset({"images", "masks", "labels", "noise"})
    flat = start.flatten(every)
    assert flat.shape == (2, 64 + 5 + 10 + 3) and start.boxed(every) == 69
    back = start.unflatten(flat * 2, every)
    assert back.labels is not None and start.labels is not None
    assert back.labels.equal(start.labels * 2) and back.noise["n"].equal(start.noise["n"] * 2)
    assert back.masks["m"].equal(start.masks["m"] * 2) and back.images.equal(start.images * 2)


class Bottleneck(nn.Module):
    """PRECODE's idea at its smallest: the last hidden code is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 48)
        self.mean, self.spread, self.draw = nn.Linear(48, 24), nn.Linear(48, 24), GaussianSample()
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.sigmoid(self.first(x.flatten(1)))
        drawn: Tensor = self.draw(self.mean(code), torch.exp(0.5 * self.spread(code)))
        return self.head(drawn)  # type: ignore[no-any-return]


def test_the_noise_of_a_stochastic_layer_is_found_with_the_image() -> None:
    model = FunctionalModel(initialise(Bottleneck, 0), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), 10)
    state = model.state()
    drawn = model.draw_noise(1, stream(1))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return cross_entropy(model(parameters, IMAGES[:1], training=True, noise=drawn)[0], LABELS[:1]).mean()

    slope = torch.func.grad(loss)(state)
    config = ClientConfig(batch_size=1, local_steps=1, learning_rate=0.1)
    update = {name: -0.1 * value for name, value in slope.items()}
    seen = Observation(1, 0, state, update, {}, {}, config, examples=1)
    problem = Problem.of(victim, [seen], LABELS[:1, None], training=True)
    start = Variables(torch.full((1, 1, 1, 8, 8), 0.5), noise={"draw": torch.zeros(1, 1, 24)})
    both = Recipe(200, vary=frozenset({"images", "noise"}), optimiser=LBFGS(), schedule=constant, box=False)
    alone = Recipe(200, vary=frozenset({"images"}), optimiser=LBFGS(), schedule=constant, box=False)
    found = Descent(both)(problem, start, counted(200)[0])
    ignoring = Descent(alone)(problem, start, counted(200)[0])
    assert float(found.residual) < 1e-6 < float(ignoring.residual)


@pytest.mark.parametrize(
    "norm", [lambda: nn.GroupNorm(2, 8), lambda: nn.BatchNorm2d(8), lambda: nn.InstanceNorm2d(8, affine=True)]
)
@pytest.mark.parametrize("training", [False, True])
def test_any_norm_layer_is_simulated_and_captured(norm: Callable[[], nn.Module], training: bool) -> None:
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            norm(),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    real = scene(network, victims=2, batch=2, mode="train" if training else "eval")
    problem = problem_of(real, training=training)
    truth = Variables(torch.stack(real.images).requires_grad_())
    simulated = simulate(problem, truth, statistics=True)
    assert float(cosine(problem, truth, simulated).detach().max()) < 1e-9
    mean, variance = simulated.statistics["1"]
    fed = torch.func.functional_call(
        real.victim.model.net[0],
        {  # type: ignore[index]
            "weight": problem.parameters["0.weight"][0],
            "bias": problem.parameters["0.bias"][0],
        },
        real.images[0],
    )
    if isinstance(norm(), nn.BatchNorm2d):
        torch.testing.assert_close(mean[0], fed.mean((0, 2, 3)))
        torch.testing.assert_close(variance[0], fed.var((0, 2, 3), correction=0))
    else:
        assert float(mean[0].detach()) == pytest.approx(float(fed.mean()), abs=1e-6)
    (slope,) = torch.autograd.grad(mean.sum() + variance.sum(), truth.images)
    assert bool((slope != 0).any())


def test_starting_from_the_truth_stays_there_and_its_shape_is_checked() -> None:
    real = scene(convnet, victims=2, mode="eval")
    attack = InvertingGradients(iterations=30)
    answers = attack.starting_from(real.images)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) > 100.0
    assert real.median(attack(real.observations, EVAL, real.victim, generator=stream())) < 40.0
    with pytest.raises(UsageError, match="2 starts for 1"):
        attack.starting_from(real.images)(real.observations[:1], EVAL, real.victim, generator=stream())
    with pytest.raises(UsageError, match="a start of shape"):
        attack.starting_from([torch.zeros(1, 1, 4, 4)] * 2)(
            real.observations, EVAL, real.victim, generator=stream()
        )


def test_a_victims_stream_is_its_own() -> None:
    real = scene(victims=2)
    first, second = (torch.rand(4, generator=own_generator(3, one)) for one in real.observations)
    assert not first.equal(second)
    assert first.equal(torch.rand(4, generator=own_generator(3, real.observations[0])))


def test_the_device_is_an_argument() -> None:
    real = scene(convnet, victims=1, mode="eval")
    runs = [InvertingGradients(iterations=30, device=device) for device in ("cpu", "cpu:0")]
    one, two = (run(real.observations, EVAL, real.victim, generator=stream())[0] for run in runs)
    assert one.images is not None and two.images is not None and one.images.equal(two.images)
    with pytest.raises(UsageError, match="device = 'cuda:99'"):
        InvertingGradients(device="cuda:99")
