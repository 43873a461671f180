"""What acts is found, and plain training raises no alarm."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedlab.audit import KnownConfig, Observation
from fedlab.audit.acting import as_json, signs
from fedlab.audit.acting_sign import Sign
from fedlab.audit.observation import Part
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab.tasks.datasets.digits import digits

CLIENTS = 5
IMAGES = digits()[0]
NETS: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    "tanh": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    ),
    "norm": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    ),
}
Change = Callable[[State, torch.Generator], State]


def updates(net: str, batch: int, steps: int, momentum: float = 0.0) -> tuple[State, list[State]]:
    """What plain clients would send: SGD on batches of digits."""
    torch.manual_seed(3)
    model = NETS[net]().train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = []
    for client in range(CLIENTS):
        model.load_state_dict(before, strict=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
        generator = torch.Generator().manual_seed(client)
        for _ in range(steps):
            rows = torch.randint(len(IMAGES.x), (batch,), generator=generator).numpy()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(torch.as_tensor(IMAGES.x[rows])), torch.as_tensor(IMAGES.y[rows])
            )
            loss.backward()
            optimizer.step()
        found.append({name: value.detach() - before[name] for name, value in model.named_parameters()})
    return before, found


def seen(
    before: State, sent: list[State], change: Change | None = None, rounds: int = 1
) -> list[Observation]:
    """As a server takes updates: weights that came back minus weights that were sent, in float32."""
    generator = torch.Generator().manual_seed(0)
    return [
        Observation(
            1 + client % rounds,
            client,
            before,
            {
                name: (before[name] + value) - before[name]
                for name, value in (change(update, generator) if change else update).items()
            },
            {},
            {},
            KnownConfig(),
        )
        for client, update in enumerate(sent)
    ]


def told(observations: list[Observation]) -> dict[str, Sign]:
    return {one.name: one for one in signs(observations)}


def acting(observations: list[Observation]) -> set[str]:
    return {name for name, one in told(observations).items() if one.acts}


def norm(update: State) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))


def every(change: Callable[[Tensor, torch.Generator], Tensor]) -> Change:
    return lambda update, generator: {name: change(value, generator) for name, value in update.items()}


def clipped(update: State, generator: torch.Generator, bound: float = 0.05) -> State:
    return {name: value * min(1.0, bound / norm(update)) for name, value in update.items()}


def noised(part: float) -> Change:
    """Gaussian noise with a standard deviation of `part` of the update's root mean square."""

    def change(update: State, generator: torch.Generator) -> State:
        sigma = part * norm(update) / math.sqrt(sum(value.numel() for value in update.values()))
        return {n: v + sigma * torch.randn(v.shape, generator=generator) for n, v in update.items()}

    return change


def top(value: Tensor, generator: torch.Generator) -> Tensor:
    return value * (value.abs() >= value.abs().flatten().quantile(0.8))


def masked(value: Tensor, generator: torch.Generator) -> Tensor:
    return value * (torch.rand(value.shape, generator=generator) < 0.4)


def levels(value: Tensor, generator: torch.Generator) -> Tensor:
    """QSGD with 16 levels."""
    size = value.norm() + 1e-20
    return (
        size
        * value.sign()
        * (value.abs() / size * 16 + torch.rand(value.shape, generator=generator)).floor()
        / 16
    )


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("batch", "steps", "momentum"), [(1, 1, 0.0), (8, 1, 0.0), (16, 6, 0.0), (16, 12, 0.9)]
)
def test_plain_training_raises_no_alarm(net: str, batch: int, steps: int, momentum: float) -> None:
    assert acting(seen(*updates(net, batch, steps, momentum))) == set()


CASES: dict[str, tuple[Change, set[str]]] = {
    "clip": (clipped, {"norm bound"}),
    "noise": (noised(1.0), {"noise"}),
    "little noise": (noised(0.1), {"noise"}),
    "top": (every(top), {"sparsity"}),
    "mask": (every(masked), {"sparsity"}),
    "signs": (every(lambda value, _: 1e-3 * value.sign()), {"signs only", "quantisation"}),
    "levels": (every(levels), {"quantisation", "sparsity"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_what_acts_is_found(net: str, case: str) -> None:
    change, expected = CASES[case]
    found = acting(seen(*updates(net, 16, 4), change))
    if case == "signs":  # which leave no small magnitudes either, and where all units live, equal norms
        found -= {"norm bound", "sparsity"}
    assert found == expected


def test_a_bound_has_the_figure_of_its_norm() -> None:
    found = told(seen(*updates("mlp", 16, 4), clipped))["norm bound"]
    assert found.figure == pytest.approx(0.05, rel=1e-5)
    assert found.words.startswith("5 of 5 updates have exactly the largest norm, 0.05")


def test_a_bound_may_change_from_round_to_round() -> None:
    before, sent = updates("mlp", 16, 4)
    first = seen(before, sent[:2], clipped)
    second = [
        Observation(2, one.client, before, {n: 0.5 * v for n, v in one.update.items()}, {}, {}, KnownConfig())
        for one in seen(before, sent[2:4], clipped)
    ]
    assert told(first + second)["norm bound"].acts is True


def test_the_same_update_twice_is_no_bound() -> None:
    before, sent = updates("mlp", 16, 4)
    longest = max(sent, key=norm)
    assert told(seen(before, [*sent, longest, longest]))["norm bound"].acts is False


def test_noise_has_its_size_for_a_figure() -> None:
    """σ is half of the plain root mean square a; a typical movement is then a·√(1 + ¼)."""
    found = told(seen(*updates("mlp", 16, 4), noised(0.5)))["noise"]
    assert found.figure == pytest.approx(0.5 / math.sqrt(1.25), rel=0.15)


def test_noise_that_the_server_adds_later_does_not_act() -> None:
    """Digits have border pixels that are always 0: those columns stay, which bounds noise from above by 0."""
    found = told(seen(*updates("mlp", 16, 4)))["noise"]
    assert found.acts is False and found.figure == 0.0


def test_sums_are_told_from_single_updates() -> None:
    before, sent = updates("softmax", 8, 1)
    parts = (Part(0, 1), Part(1, 1), Part(2, 1))
    summed = [Observation(1, 0, before, sent[0], {}, {}, KnownConfig(), parts=parts)]
    assert told(summed)["sums only"] == Sign(
        "sums only", True, 3.0, "the server sees sums of at least 3 clients' updates"
    )
    assert told(seen(before, sent))["sums only"].acts is False


def test_a_clip_that_nan_walks_through() -> None:
    """min(1, C / NaN) is 1 or NaN: either way NaN comes out."""
    before, sent = updates("softmax", 8, 2)
    sent[1] = {name: value * math.nan for name, value in sent[1].items()}
    found = told(seen(before, sent, clipped))
    assert found["only finite numbers"].acts is False and found["only finite numbers"].figure == 1.0
    assert found["norm bound"].acts is True, "the others are judged all the same"


def test_of_one_update_little_can_be_told() -> None:
    before, sent = updates("mlp", 8, 2)
    found = told(seen(before, sent[:1], clipped))
    assert found["norm bound"].acts is None and found["noise"].acts is None


def test_nothing_that_moved() -> None:
    before, sent = updates("softmax", 8, 1)
    still = seen(before, [{name: torch.zeros_like(value) for name, value in sent[0].items()}] * 3)
    assert acting(still) == set()


def test_the_file_is_strict_json_and_does_not_depend_on_order() -> None:
    observations = seen(*updates("mlp", 8, 2), noised(1.0), rounds=2)
    written = as_json(observations)
    assert written == as_json(observations[::-1])
    assert {k: v for k, v in written.items() if k != "signs"} == {
        "schema_version": 1,
        "updates": 5,
        "clients": 5,
        "rounds": 2,
    }
    assert all(set(one) == {"name", "acts", "figure", "words"} for one in written["signs"])


def test_bad_input_is_named() -> None:
    before, sent = updates("softmax", 8, 1)
    with pytest.raises(UsageError, match="at least one"):
        signs([])
    other = [*sent, {"1.weight": sent[0]["1.weight"]}]
    with pytest.raises(UsageError, match="client 5 in round 1 sent other parameters"):
        signs(seen(before, other))


@pytest.mark.parametrize("case", ["noise", "signs"])
def test_what_adam_leaves_as_well_is_no_trace_of_a_mechanism(case: str) -> None:
    """Adam's first steps move every coordinate by one and the same magnitude, which looks like both."""
    change, expected = CASES[case]
    observations = seen(*updates("mlp", 16, 4), change)
    (name,) = expected & {"noise", "signs only"}
    found = {one.name: one for one in signs(observations, plain=False)}[name]
    assert told(observations)[name].acts is True
    assert found.acts is None and "Adam" in found.words


def test_zeros_that_rounding_made_are_no_sparsity() -> None:
    """Weights of 0.1 are 7e-9 apart: of changes of 2e-8, a sixth is rounded to nothing."""
    before, sent = updates("mlp", 16, 4)
    tiny = [{name: value * (2e-8 / value.abs().mean()) for name, value in one.items()} for one in sent]
    observations = seen(before, tiny)
    assert any(bool((value == 0).any()) for value in observations[0].update.values())
    found = told(observations)["sparsity"]
    assert found.acts is None and "rounding" in found.words


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_one_step_of_adam_is_no_mechanism(net: str) -> None:
    """It leaves one magnitude wherever a gradient is: signs, a lattice, and no small entries."""
    before, gradients = updates(net, 8, 1)
    observations = seen(before, gradients, every(lambda value, _: 1e-2 * value / (value.abs() + 1e-8)))
    assert acting(observations) and not any(one.acts for one in signs(observations, plain=False))


def test_nan_that_a_guard_of_ours_turned_away_was_not_stopped_by_the_app() -> None:
    observations = seen(*updates("mlp", 16, 4))
    *_, quiet = as_json(observations)["signs"]
    *_, loud = as_json(observations, refused="not-finite: 3 of 4 numbers")["signs"]
    assert quiet["acts"] is None and loud["acts"] is False and "3 of 4 numbers" in loud["words"]
