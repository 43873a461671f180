"""Defenses that change the records of a step: ATS, OASIS and MixUp."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.records import transforms
from fedlab_defenses.records.ats import ATS, OPERATIONS, operate
from fedlab_defenses.records.mixup import ORDER, SHARE, MixUp
from fedlab_defenses.records.oasis import OASIS
from torch import Tensor, nn
from torch.func import vmap

from fedlab.audit import Defense
from fedlab.audit.stack import Stack
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Aux, Batch
from fedlab.clients.rules.adversarial import AdversarialTraining
from fedlab.clients.rules.momentum import FedAvgMVR
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy
from tests.clients.rules import cohort
from tests.conftest import batch_norm_mlp, dropout_mlp

CONFIG = ClientConfig(batch_size=4, local_epochs=2, learning_rate=0.1)
POISSON = ClientConfig(batch_size=4, local_steps=3, sampling="poisson", learning_rate=0.1)
FEDERATION = Federation((12, 12), 1, CONFIG)
SIZES = [9, 6, 13, 4]

EVERY: list[Defense] = [
    ATS(),
    OASIS(transforms=["major-rotation", "shear", "horizontal-flip"]),
    MixUp(alpha=0.7),
    Stack(of=[{"name": "ats"}, {"name": "oasis"}, {"name": "mixup"}]),
]
every = pytest.mark.parametrize("defense", EVERY, ids=["ats", "oasis", "mixup", "all of them"])


def trained(
    data: Dataset,
    defense: Defense | None,
    config: ClientConfig = CONFIG,
    network: Callable[[], nn.Module] = batch_norm_mlp,
    rule: LocalRule | None = None,
    sizes: Sequence[int] = SIZES,
) -> list[State]:
    torch.manual_seed(0)
    plain = rule or LocalRule()
    used = plain if defense is None else defense.local_rule(plain, FEDERATION)
    training, jobs = cohort(data, network, used, config, sizes)
    return [found.state for found in training(jobs)]


def same(one: Sequence[State], other: Sequence[State]) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


@every
def test_stacked_clients_learn_what_they_learn_alone(small_data: Dataset, defense: Defense) -> None:
    """With batch norm, dropout, short batches and clients that end before others."""
    torch.manual_seed(0)
    net, rule = batch_norm_mlp(), defense.local_rule(LocalRule(), FEDERATION)
    together, jobs = cohort(small_data, lambda: net, rule, CONFIG, SIZES)
    alone, _ = cohort(small_data, lambda: net, rule, CONFIG, SIZES, stacked=False)
    for job, found in zip(jobs, together(jobs), strict=True):
        (single,) = alone([job])
        for name, value in found.state.items():
            torch.testing.assert_close(value, single.state[name], rtol=1e-4, atol=1e-5)


def test_a_replayed_step_has_the_same_bits(small_data: Dataset) -> None:
    torch.manual_seed(0)
    rule = EVERY[-1].local_rule(LocalRule(), FEDERATION)
    config = ClientConfig(batch_size=0, local_steps=1)
    training, jobs = cohort(small_data, batch_norm_mlp, rule, config, [5, 5])
    training._directions.calls_before = 1
    first, again = training(jobs), training(jobs)
    assert training._directions._recordings
    assert all(torch.equal(value, first.state[name]) for name, value in again.state.items())


@every
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_they_change_what_is_learned(small_data: Dataset, defense: Defense, mode: Any) -> None:
    config = ClientConfig(mode=mode, batch_size=4, local_epochs=1)
    found = trained(small_data, defense, config)
    assert not same(found, trained(small_data, None, config))
    assert all(bool(value.isfinite().all()) for state in found for value in state.values())


@pytest.mark.parametrize("defense", [ATS(policy="28-28"), OASIS(transforms=[]), MixUp(alpha=0.0)])
def test_without_strength_they_are_no_defense_bit_for_bit(small_data: Dataset, defense: Defense) -> None:
    assert same(trained(small_data, defense), trained(small_data, None))


@every
def test_empty_batches_are_harmless(small_data: Dataset, defense: Defense) -> None:
    found = trained(small_data, defense, POISSON, network=dropout_mlp, sizes=[12, 5])
    assert all(bool(value.isfinite().all()) for state in found for value in state.values())


def test_own_draws_come_after_those_of_the_rule_within(small_data: Dataset) -> None:
    """An adversarial rule within starts its search where it would alone, with no policy behind it."""
    rule = AdversarialTraining(rho=0.1, steps=2)
    assert same(trained(small_data, ATS(policy="28"), rule=rule), trained(small_data, None, rule=rule))


# --- ATS


IMAGE = torch.arange(16.0).reshape(1, 1, 4, 4) / 16.0
ONE, PLUS, MINUS = torch.ones(1), torch.ones(1), -torch.ones(1)


def test_affine_transforms_by_hand() -> None:
    turned = transforms.affine(IMAGE, transforms.rotation(torch.tensor([90.0])))
    torch.testing.assert_close(turned, IMAGE.rot90(1, (-2, -1)), atol=1e-6, rtol=0.0)
    zero = torch.zeros(1)
    right = transforms.affine(IMAGE, transforms.translation(ONE, zero))[0, 0]
    torch.testing.assert_close(right[:, :3], IMAGE[0, 0, :, 1:])
    assert right[:, 3].tolist() == [0.0] * 4
    down = transforms.affine(IMAGE, transforms.translation(zero, -ONE))[0, 0]
    torch.testing.assert_close(down[1:], IMAGE[0, 0, :3])
    # Rows lie 1.5 and 0.5 pixels above the centre, and as many below it: so far they move.
    sheared = transforms.affine(IMAGE, transforms.shear_x(2.0 * ONE))[0, 0]
    torch.testing.assert_close(sheared[1, 1:], IMAGE[0, 0, 1, :3])
    torch.testing.assert_close(sheared[2, :3], IMAGE[0, 0, 2, 1:])
    across = transforms.affine(IMAGE, transforms.shear_y(2.0 * ONE))[0, 0]
    torch.testing.assert_close(across[1:, 1], IMAGE[0, 0, :3, 1])


def test_a_rectangle_is_turned_about_its_centre() -> None:
    wide = torch.rand(2, 1, 3, 7)
    torch.testing.assert_close(
        transforms.affine(wide, transforms.rotation(torch.tensor([180.0, 180.0]))),
        wide.flip(-1, -2),
        atol=1e-5,
        rtol=0,
    )


def test_colour_transforms_by_hand() -> None:
    colour = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([1.3, 0.7])
    grey = (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    wide = factors.view(2, 1, 1, 1)
    torch.testing.assert_close(transforms.brightness(colour, factors), (colour * wide).clamp(0, 1))
    mean = grey.mean((2, 3), keepdim=True)
    torch.testing.assert_close(
        transforms.contrast(colour, factors), (mean + wide * (colour - mean)).clamp(0, 1)
    )
    torch.testing.assert_close(
        transforms.colour(colour, factors), (grey + wide * (colour - grey)).clamp(0, 1)
    )
    # Sharpness 0 is the smoothed image: one pixel of 1 spreads 5/13, and 1/13 to its neighbours.
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 2, 2] = 1.0
    smooth = transforms.sharpness(point, torch.zeros(1))[0, 0]
    assert smooth[2, 2].item() == pytest.approx(5 / 13) and smooth[1, 1].item() == pytest.approx(1 / 13)
    assert torch.equal(
        transforms.sharpness(IMAGE, torch.zeros(1))[0, 0, 0], IMAGE[0, 0, 0]
    )  # the border stays
    assert transforms.solarize(torch.tensor([0.2, 0.8]), 0.5).tolist() == pytest.approx([0.2, 0.2])
    assert transforms.posterize(torch.tensor([200 / 255]), 4).item() == pytest.approx(192 / 255)
    stretched = transforms.autocontrast(IMAGE)
    assert stretched.min() == 0.0 and stretched.max() == 1.0
    assert torch.equal(transforms.autocontrast(torch.full((1, 1, 2, 2), 0.3)), torch.full((1, 1, 2, 2), 0.3))


def test_magnitudes_are_the_papers() -> None:
    """Number 3: a shift of 150/331 of the side; 1: contrast 1 ± 0.5 · 6/9; 10: a shear of 0.3 · 5/9."""
    assert OPERATIONS[3] == ("translate-x", 9) and OPERATIONS[1] == ("contrast", 6) and len(OPERATIONS) == 50
    zero = torch.zeros(1)
    for number, signs, expected in (
        (3, PLUS, transforms.affine(IMAGE, transforms.translation(torch.tensor([4 * 150 / 331]), zero))),
        (3, MINUS, transforms.affine(IMAGE, transforms.translation(torch.tensor([-4 * 150 / 331]), zero))),
        (10, MINUS, transforms.affine(IMAGE, transforms.shear_y(torch.tensor([-0.3 * 5 / 9])))),
        (2, MINUS, transforms.affine(IMAGE, transforms.rotation(torch.tensor([30 * 2 / 9])))),
        (1, MINUS, transforms.contrast(IMAGE, torch.tensor([1 - 0.5 * 6 / 9]))),
        (11, PLUS, transforms.posterize(IMAGE, 6)),
        (37, PLUS, transforms.solarize(IMAGE, (256 - 256 * 4 / 9) / 255)),
        (0, PLUS, 1.0 - IMAGE),
        (39, PLUS, IMAGE),
    ):
        torch.testing.assert_close(operate(IMAGE, *OPERATIONS[number], signs), expected)


@pytest.mark.parametrize("number", [n for n, (name, _) in enumerate(OPERATIONS) if name != "equalize"])
def test_every_operation_stays_in_the_box_and_maps_over_clients(number: int) -> None:
    images = torch.rand(2, 3, 3, 4, 6, generator=torch.Generator().manual_seed(number))
    signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    mapped = vmap(lambda x, s: operate(x, *OPERATIONS[number], s))(images, signs)
    assert -1e-6 <= float(mapped.min()) and float(mapped.max()) <= 1.0 + 1e-6
    for one, expected, sign in zip(images, mapped, signs, strict=True):
        torch.testing.assert_close(operate(one, *OPERATIONS[number], sign), expected)


def test_each_record_gets_one_of_the_policies_by_its_own_draw() -> None:
    rule = ATS(policy="0+3-0").local_rule(LocalRule(), FEDERATION)
    x = IMAGE.expand(4, 1, 4, 4)
    draws = torch.tensor([[0.1, 0.9, 0.9], [0.6, 0.9, 0.9], [0.6, 0.1, 0.9], [1.0, 1.0, 1.0]])
    batch = Batch(x, torch.zeros(4), torch.ones(4), {}, {}, torch.tensor(4.0), noise={"ats": draws})
    found = rule.perturb(lambda *_: x, {}, batch).x
    zero = torch.zeros(1)
    shifted = [
        transforms.affine(IMAGE, transforms.translation(s * 4 * 150 / 331, zero)) for s in (PLUS, MINUS)
    ]
    expected = torch.cat(
        [1.0 - IMAGE, 1.0 - shifted[0], 1.0 - shifted[1], 1.0 - shifted[0]]
    )  # padding: the last
    torch.testing.assert_close(found, expected)


def test_policies_and_signs_are_even() -> None:
    """Of 4,000 records, shares of 1/2 within 4 deviations (0.032): a fair draw fails once in 16,000."""
    rule = ATS().local_rule(LocalRule(), FEDERATION)
    drawn = rule.noise(torch.Size((4000, 1, 4, 4)), torch.Generator().manual_seed(0))["ats"]
    assert drawn.shape == (4000, 4)
    assert bool(((drawn < 0.5).float().mean(0) - 0.5).abs().lt(4 * 0.5 / 4000**0.5).all())


@pytest.mark.parametrize(
    ("policy", "words"),
    [("3-1-50", "50 is none"), ("a", 'as in "3-1-7'), ("", "numbers of operations"), ("9", "equalisation")],
)
def test_a_policy_that_there_is_not_is_refused(policy: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"policy = .*{words}"):
        ATS(policy=policy)


# --- OASIS


def test_a_record_is_followed_by_its_copies() -> None:
    expansion = OASIS(transforms=["major-rotation", "vertical-flip"]).disclosure(model()).expansion
    assert expansion is not None
    x = torch.rand(2, 1, 4, 4)
    found = expansion(x)
    assert found.shape == (10, 1, 4, 4)
    for record in (0, 1):
        copies = [x[record], *(x[record].rot90(q, (-2, -1)) for q in (1, 2, 3)), x[record].flip(-2)]
        torch.testing.assert_close(found[5 * record : 5 * record + 5], torch.stack(copies))
    again = pickle.loads(pickle.dumps(expansion))
    assert torch.equal(again(x), found)


def model(network: Callable[[], nn.Module] = dropout_mlp) -> FunctionalModel:
    torch.manual_seed(0)
    return FunctionalModel(network(), (1, 4, 4))


def test_clients_train_on_what_the_attacker_is_told(small_data: Dataset) -> None:
    """One step: the update is the gradient on the disclosed expansion, labels and masks repeated."""
    defense = OASIS(transforms=["major-rotation", "minor-rotation", "shear", "horizontal-flip"])
    config = ClientConfig(batch_size=0, local_steps=1, learning_rate=0.1)
    torch.manual_seed(0)
    training, jobs = cohort(
        small_data, dropout_mlp, defense.local_rule(LocalRule(), FEDERATION), config, [5, 5]
    )
    results = training(jobs)
    expansion = defense.disclosure(training.model).expansion
    assert expansion is not None
    for number, job in enumerate(jobs):
        batch = training.batches.step(jobs, training.batches.sizes(jobs), 0)
        x, k = expansion(batch.x[number]), 7
        y = batch.y[number].repeat_interleave(k)
        masks = {name: mask[number].repeat_interleave(k, 0) for name, mask in batch.masks.items()}

        def loss(values: State, x: Tensor = x, y: Tensor = y, masks: State = masks) -> Tensor:
            outputs, _ = training.model(values, x, training=True, masks=masks)
            return cross_entropy(outputs, y).mean()

        for name, slope in torch.func.grad(loss)(job.state).items():
            torch.testing.assert_close(results[number].state[name], job.state[name] - 0.1 * slope)


@pytest.mark.parametrize("order", [["oasis", "dp-sgd"], ["dp-sgd", "oasis"]])
def test_under_dp_sgd_a_record_and_its_copies_are_clipped_as_one(
    small_data: Dataset, order: list[str]
) -> None:
    """Without noise a step is Σ_i clip_C(mean of the copies' gradients) / 12, in either order."""
    tables: dict[str, dict[str, Any]] = {
        "oasis": {},
        "dp-sgd": {"noise_multiplier": 0.0, "max_grad_norm": 0.1},
    }
    defense = Stack(of=[{"name": name, **tables[name]} for name in order])
    config = ClientConfig(batch_size=12, local_steps=1, sampling="poisson", learning_rate=1.0)
    rule = defense.local_rule(LocalRule(), Federation((12, 12), 1, config))
    torch.manual_seed(0)
    training, jobs = cohort(small_data, dropout_mlp, rule, config, [12, 12])
    found = training(jobs)[0].state
    batch = training.batches.step(jobs, training.batches.sizes(jobs), 0)
    expansion = defense.disclosure(training.model).expansion
    assert expansion is not None and int(batch.rows[0].sum()) == 12  # all records, at this rate
    start = jobs[0].state
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    for record in range(12):
        masks = {name: mask[0, record : record + 1].expand(4, -1) for name, mask in batch.masks.items()}
        x, y = expansion(batch.x[0, record : record + 1]), batch.y[0, record].expand(4)

        def loss(values: State, x: Tensor = x, y: Tensor = y, masks: State = masks) -> Tensor:
            outputs, _ = training.model(values, x, training=True, masks=masks)
            return cross_entropy(outputs, y).mean()

        slopes = torch.func.grad(loss)(start)
        norm = torch.stack([value.square().sum() for value in slopes.values()]).sum().sqrt()
        assert norm > 0.1
        total = {name: value + slopes[name] * 0.1 / norm for name, value in total.items()}
    for name, value in total.items():
        torch.testing.assert_close(found[name], start[name] - value / 12, rtol=1e-4, atol=1e-6)


def test_copies_are_differentiable_for_an_attack() -> None:
    expansion = OASIS(transforms=["minor-rotation", "shear", "major-rotation"]).disclosure(model()).expansion
    assert expansion is not None
    slope = torch.func.grad(lambda x: (expansion(x) ** 2).sum())(IMAGE)
    assert bool(slope.isfinite().all()) and float(slope.abs().sum()) > 0.0


def test_a_full_gradient_is_one_of_the_copies_too(small_data: Dataset) -> None:
    """SCAFFOLD's option I takes a gradient of all records, and it is no way round the defense."""
    for transform in (["horizontal-flip"], ["vertical-flip"]):
        found = trained(small_data, OASIS(transforms=transform), rule=Scaffold(option="I"))  # type: ignore[arg-type]
        assert not same(found, trained(small_data, None, rule=Scaffold(option="I")))


def test_what_oasis_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match=r"transforms = 'sheer'; expected some of .*Did you mean \"shear"):
        OASIS(transforms=["sheer"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="each at most once"):
        OASIS(transforms=["shear", "shear"])
    wide = FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), (1, 2, 4))
    with pytest.raises(UsageError, match="cannot turn images of 2x4 by 90"):
        OASIS().local_rule(LocalRule(), FEDERATION).meet(wide)
    OASIS(transforms=["vertical-flip"]).local_rule(LocalRule(), FEDERATION).meet(wide)


# --- MixUp


def test_a_mixed_gradient_by_hand() -> None:
    """The loss is linear in the labels: that of λ e_a + (1 − λ) e_b on the mixture, padding among itself."""
    net = model()
    state, rule = net.parameters_of(net.state()), MixUp(alpha=1.0).local_rule(LocalRule(), FEDERATION)
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 1])
    rows = torch.tensor([1.0, 1.0, 1.0, 0.0])
    masks = {name: torch.ones(4, *shape) for name, shape in net.mask_shapes.items()}
    draws, noise = {SHARE: torch.tensor(0.3)}, {ORDER: torch.tensor([0.8, 0.1, 0.5, 1.0])}
    batch = Batch(x, y, rows, masks, draws, torch.tensor(3.0), noise=noise)

    def mean(values: State, x: Tensor, targets: Tensor) -> Tensor:
        outputs, _ = net(values, x, training=True, masks=masks)
        return (cross_entropy(outputs, targets) * rows).sum() / 3.0

    def gradient(values: State, part: Batch) -> tuple[State, Aux]:
        return torch.func.grad(mean)(values, part.x, part.y), Aux(mean(values, part.x, part.y), {})

    found, aux, _ = rule.direction(gradient, state, batch, {})
    order = torch.tensor([1, 2, 0, 3])
    mixture = 0.3 * x + 0.7 * x[order]
    labels = 0.3 * nn.functional.one_hot(y, 3) + 0.7 * nn.functional.one_hot(y[order], 3)
    expected = torch.func.grad(mean)(state, mixture, labels)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    torch.testing.assert_close(aux.loss, mean(state, mixture, labels))


def test_shares_are_drawn_from_the_beta_distribution() -> None:
    """Beta(2, 2): mean 1/2, variance 1/20. Over 2,000 draws both within 4 deviations of the estimate (of the
    variance, 0.05 sqrt((κ − 1) / n) with κ = 15/7): a right draw fails about once in 8,000."""
    rule = MixUp(alpha=2.0).local_rule(LocalRule(), FEDERATION)
    state, generator = {"w": torch.zeros(1, dtype=torch.float64)}, torch.Generator().manual_seed(0)
    shares = np.array([float(rule.draws(state, generator)[SHARE]) for _ in range(2000)])
    assert abs(shares.mean() - 0.5) < 4 * (0.05 / 2000) ** 0.5
    assert abs(shares.var() - 0.05) < 4 * 0.05 * ((15 / 7 - 1) / 2000) ** 0.5


@pytest.mark.parametrize("order", [["mixup", "dp-sgd"], ["dp-sgd", "mixup"]])
def test_mixtures_and_dp_sgd_are_refused_together(order: list[str]) -> None:
    tables: dict[str, dict[str, Any]] = {"mixup": {}, "dp-sgd": {"noise_multiplier": 1.0}}
    defense = Stack(of=[{"name": name, **tables[name]} for name in order])
    with pytest.raises(
        UsageError, match=r"MixedRule.*several gradients a step|mixup and dp-sgd cannot be used"
    ):
        defense.local_rule(LocalRule(), Federation((12, 12), 1, POISSON))


def test_transforms_of_single_records_go_with_dp_sgd_in_either_order(small_data: Dataset) -> None:
    """And to the same bits: the noise is the same, and so are the transformed records."""
    found = []
    for order in (("ats", "dp-sgd"), ("dp-sgd", "ats")):
        tables: dict[str, dict[str, Any]] = {"ats": {}, "dp-sgd": {"noise_multiplier": 0.0}}
        defense = Stack(of=[{"name": name, **tables[name]} for name in order])
        rule = defense.local_rule(LocalRule(), Federation((12, 12), 1, POISSON))
        torch.manual_seed(0)
        training, jobs = cohort(small_data, dropout_mlp, rule, POISSON, [12, 12])
        found.append([one.state for one in training(jobs)])
    assert same(*found)
    assert not same(
        found[0], trained(small_data, DPSGD(noise_multiplier=0.0), POISSON, dropout_mlp, sizes=[12, 12])
    )


@pytest.mark.parametrize("defense", [ATS(), MixUp()])
def test_rules_that_also_look_at_records_as_they_are_are_refused(defense: Defense) -> None:
    with pytest.raises(UsageError, match="Scaffold also takes a gradient of all records as they are"):
        defense.local_rule(Scaffold(option="I"), FEDERATION)
    assert defense.local_rule(FedAvgMVR(), FEDERATION).gradients >= 2


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_a_share_that_cannot_be_drawn_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha = "):
        MixUp(alpha=alpha)
