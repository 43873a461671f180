"""Knobs of any network, a frozen first layer, and PRECODE's bottleneck."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fedlab_defenses.architecture.frozen import FrozenFirstLayer
from fedlab_defenses.architecture.knobs import Architecture
from fedlab_defenses.architecture.precode import Bottleneck, Precode
from fedlab_defenses.architecture.surgery import first_layer
from fedlab_defenses.privacy.dp_sgd import DPSGD
from torch import Tensor, nn

from fedlab import plugins
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import BatchNorm, Dataset, FunctionalModel, cross_entropy
from fedlab.tasks.hypernetwork import GeneratedNetwork
from fedlab.tasks.models.blocks import GlobalAverage
from tests.clients.rules import cohort
from tests.conftest import batch_norm_mlp, dropout_mlp

CONFIG = ClientConfig(batch_size=4, local_epochs=2, learning_rate=0.1)


def own() -> nn.Module:
    """A user's network: no knob, layers in layers."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Dropout(0.1),
        GlobalAverage(),
        nn.Linear(4, 3),
    )


def turned(factory: Callable[[], nn.Module], **knobs: Any) -> list[nn.Module]:
    torch.manual_seed(0)
    net = Architecture(**knobs).network(factory)()
    assert net(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    FunctionalModel(net, (1, 4, 4))
    return list(net.modules())


def has(layers: list[nn.Module], kind: type[nn.Module]) -> list[Any]:
    return [layer for layer in layers if isinstance(layer, kind)]


def test_layers_of_your_own_network_are_exchanged() -> None:
    assert has(turned(own, dropout=0.5), nn.Dropout)[0].p == 0.5
    assert has(turned(own, activation="sigmoid"), nn.Sigmoid)
    assert not has(turned(own, activation="tanh"), nn.ReLU)
    assert has(turned(own, pool="avg"), nn.AvgPool2d)[0].kernel_size == 2
    (conv,) = has(turned(own, first_bias=False), nn.Conv2d)
    assert conv.bias is None and [name for name, _ in conv.named_parameters()] == ["weight"]
    assert not has(turned(own, norm="none"), nn.BatchNorm2d)
    (group,) = has(turned(own, norm="group"), nn.GroupNorm)
    assert (group.num_groups, group.num_channels) == (4, 4)
    assert has(turned(own, norm="layer"), nn.GroupNorm)[0].num_groups == 1
    layers = turned(functools.partial(Architecture(norm="group").network(own)), norm="batch")
    assert has(layers, BatchNorm)[0].features == 4
    assert has(turned(own, norm="batch"), nn.BatchNorm2d)


def test_what_is_not_exchanged_keeps_its_weights() -> None:
    torch.manual_seed(0)
    plain = own().state_dict()
    torch.manual_seed(0)
    changed = Architecture(norm="group", dropout=0.3, first_bias=False).network(own)().state_dict()
    for name in ("0.0.weight", "3.weight", "3.bias"):
        assert torch.equal(plain[name], changed[name])


@pytest.mark.parametrize("kind", ["none", "layer"])
def test_a_layer_norm_may_go_or_stay(kind: str) -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.LayerNorm(6), nn.Linear(6, 3))

    assert len(has(turned(factory, norm=kind), nn.LayerNorm)) == (kind == "layer")


def test_a_knob_that_the_model_has_is_turned_there_and_the_rest_by_exchange() -> None:
    plain = functools.partial(
        plugins.bind("models", {"name": "convnet", "width": 4, "depth": 1}), (1, 4, 4), 3
    )
    net = Architecture(dropout=0.5, hidden=8).network(plain)()
    assert has(list(net.modules()), nn.Dropout)[0].p == 0.5 and net.get_submodule("linear").out_features == 8
    softmax = functools.partial(plugins.bind("models", {"name": "softmax"}), (1, 4, 4), 3)
    (layer,) = has(turned(softmax, first_bias=False), nn.Linear)
    assert layer.bias is None


@pytest.mark.parametrize(
    ("factory", "knobs", "words"),
    [
        (nn.Flatten, {"dropout": 0.5}, "Flatten has no dropout layer, so that its knob 'dropout' cannot"),
        (nn.Flatten, {"first_bias": False}, "Flatten has no linear or convolutional layer"),
        (dropout_mlp, {"norm": "group"}, "has no norm"),
        (dropout_mlp, {"pool": "max"}, "has no pooling layer"),
        (dropout_mlp, {"activation": "relo"}, "activation = 'relo'; expected one of"),
        (dropout_mlp, {"dropout": 1.0}, "dropout = 1.0; expected a rate"),
        (own, {"pool": "stride"}, "expected max or avg, or a model with that knob"),
        (own, {"first_bias": 1}, "first_bias = 1; expected true or false"),
        (own, {"depth": 3}, 'no knob "depth".*any network can be turned.*activation, dropout, first_bias'),
        (lambda: nn.Linear(4, 2, bias=False), {"first_bias": True}, "was made without a bias"),
        (lambda: nn.Sequential(nn.LayerNorm(4)), {"norm": "batch"}, "layer norm over the last 1 axes"),
        (lambda: nn.Sequential(nn.MaxPool2d(2, dilation=2)), {"pool": "avg"}, "only the maximum"),
    ],
)
def test_what_cannot_be_turned_is_refused_by_name(
    factory: Callable[[], nn.Module], knobs: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Architecture(**knobs).network(factory)()


def test_masks_are_the_knob_that_has_an_attack_of_its_own() -> None:
    assert "dropout-inversion" in Architecture(dropout=0.5).adaptive
    assert "dropout-inversion" not in Architecture(depth=3).adaptive


@pytest.mark.parametrize(("name", "first"), [("mlp", "linear1"), ("convnet", "conv1"), ("vit", "embed")])
def test_a_frozen_first_layer_has_no_gradient_and_never_moves(
    small_data: Dataset, name: str, first: str
) -> None:
    sizes: dict[str, Any] = {"vit": {"patch": 2, "dim": 8}, "convnet": {"width": 4, "depth": 1}}.get(
        name, {"width": 6}
    )
    factory = functools.partial(plugins.bind("models", {"name": name, **sizes}), (1, 4, 4), 3)
    net = FrozenFirstLayer().network(factory)()
    model = FunctionalModel(net, (1, 4, 4))
    frozen = [f"{first}.weight", f"{first}.bias"]
    assert not set(frozen) & set(model.parameter_names) and set(frozen) <= set(model.buffer_names)
    training, jobs = cohort(small_data, lambda: net, LocalRule(), CONFIG, [9, 6])
    for job, found in zip(jobs, training(jobs), strict=True):
        assert all(torch.equal(found.state[one], job.state[one]) for one in frozen)
        assert not torch.equal(found.state["head.weight"], job.state["head.weight"])


def test_freezing_leaves_something_to_train() -> None:
    with pytest.raises(UsageError, match="0 is the only layer with weights"):
        FrozenFirstLayer().network(lambda: nn.Sequential(nn.Linear(4, 2)))()
    assert first_layer(nn.Linear(4, 2))[0] == "Linear"


def precoded(size: int = 5, beta: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return Precode(size=size, beta=beta).network(dropout_mlp)()


def loss_of(
    model: FunctionalModel, x: Tensor, y: Tensor, rows: Tensor | None = None, training: bool = True
) -> Callable[[dict[str, Tensor]], Tensor]:
    """The mean loss of a step, as clients have it."""
    noise = model.draw_noise(len(x), torch.Generator().manual_seed(1))
    masks = {name: torch.ones(len(x), *shape) for name, shape in model.mask_shapes.items()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        state = values | model.buffers_of(model.state())
        told: dict[str, Any] = {"masks": masks, "noise": {name: value.to(x) for name, value in noise.items()}}
        outputs, _, added = model.penalised(
            state, x, training=training, rows=rows, **(told if training else {})
        )
        losses = cross_entropy(outputs, y) + (0.0 if added is None else added)
        kept = torch.ones(len(x)) if rows is None else rows
        return (losses * kept).sum() / kept.sum()

    return loss


def test_precodes_gradient_is_that_of_the_loss_with_its_divergence() -> None:
    """Against torch's own KL divergence and autograd, with the layers written out; padding left out."""
    model = FunctionalModel(precoded(), (1, 4, 4))
    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    state = model.parameters_of(model.state())
    found = torch.func.grad(loss_of(model, x, y, rows=torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])))(state)
    learned = {name: value.clone().requires_grad_() for name, value in state.items()}

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ learned[f"{name}.weight"].T + learned[f"{name}.bias"]

    h = linear("1", x.flatten(1)).relu() * 2.0  # all kept, of dropout 0.5
    mean, raw = linear("4.bottleneck.encoder", h).chunk(2, 1)
    deviation = torch.nn.functional.softplus(raw)
    noise = model.draw_noise(5, torch.Generator().manual_seed(1))["4.bottleneck.sample"]
    outputs = linear("4.classifier", linear("4.bottleneck.decoder", mean + deviation * noise))
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0)).sum(1)
    losses = nn.functional.cross_entropy(outputs, y, reduction="none") + 0.1 * divergence
    losses[:4].mean().backward()
    for name, value in found.items():
        torch.testing.assert_close(value, learned[name].grad)


@pytest.mark.parametrize(("training", "same"), [(True, False), (False, True)])
def test_the_divergence_counts_in_training_alone(training: bool, same: bool) -> None:
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    found = []
    for beta in (0.0, 0.5):
        model = FunctionalModel(precoded(beta=beta), (1, 4, 4))
        slope = torch.func.grad(loss_of(model, x, y, training=training))
        found.append(slope(model.parameters_of(model.state())))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0]) == same


def test_gradient_matching_differentiates_through_the_divergence() -> None:
    """What an attack does: the slope, by the image, of a function of the gradient; against differences."""
    model = FunctionalModel(precoded().double(), (1, 4, 4))
    state = model.parameters_of(model.state())

    def matched(x: Tensor) -> Tensor:
        slopes = torch.func.grad(loss_of(model, x, torch.tensor([1])))(state)
        return torch.stack([value.square().sum() for value in slopes.values()]).sum()

    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    slope, step = torch.func.grad(matched)(x), torch.zeros_like(x)
    step[0, 0, 1, 2] = 1e-6
    expected = (matched(x + step) - matched(x - step)) / 2e-6
    torch.testing.assert_close(slope[0, 0, 1, 2], expected, rtol=1e-5, atol=1e-7)


def test_stacked_clients_of_precode_learn_what_they_learn_alone(small_data: Dataset) -> None:
    net = precoded()
    sizes = [9, 6, 13, 4]
    together, jobs = cohort(small_data, lambda: net, LocalRule(), CONFIG, sizes)
    alone, _ = cohort(small_data, lambda: net, LocalRule(), CONFIG, sizes, stacked=False)
    for job, found in zip(jobs, together(jobs), strict=True):
        (single,) = alone([job])
        for name, value in found.state.items():
            torch.testing.assert_close(value, single.state[name], rtol=1e-4, atol=1e-6)


def test_a_replayed_step_of_precode_has_the_same_bits(small_data: Dataset) -> None:
    config = ClientConfig(batch_size=0, local_steps=1)
    training, jobs = cohort(small_data, precoded, LocalRule(), config, [5, 5])
    training._directions.calls_before = 1
    first, again = training(jobs), training(jobs)
    assert training._directions._recordings
    assert all(torch.equal(value, first.state[name]) for name, value in again.state.items())


def test_precode_trains_under_dp_sgd(small_data: Dataset) -> None:
    """A record's divergence is clipped with its loss: without noise, any step is at most C long."""
    net = precoded(beta=100.0)
    config = ClientConfig(batch_size=4, local_steps=1, sampling="poisson", learning_rate=1.0)
    rule = DPSGD(noise_multiplier=0.0, max_grad_norm=0.01).local_rule(
        LocalRule(), Federation((12, 12), 1, config)
    )
    training, jobs = cohort(small_data, lambda: net, rule, config, [12, 12])
    for job, found in zip(jobs, training(jobs), strict=True):
        moved = [found.state[name] - job.state[name] for name in found.state]
        length = torch.stack([value.square().sum() for value in moved]).sum().sqrt()
        assert 0.0 < float(length) <= 12 / 4 * 0.01 * 1.001


def test_an_attacker_leaves_the_bottlenecks_own_gradient_out() -> None:
    model = FunctionalModel(precoded(), (1, 4, 4))
    told = Precode().disclosure(model).distorted
    assert told == {
        f"4.bottleneck.{layer}.{kind}" for layer in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    assert sum(isinstance(one, Bottleneck) for one in model.net.modules()) == 1


def test_precode_wants_a_linear_classifier() -> None:
    conv = functools.partial(nn.Sequential, nn.Linear(4, 4), nn.Conv2d(1, 1, 1), nn.Flatten())
    with pytest.raises(UsageError, match=r"the last layer with parameters is 1 \(Conv2d\)"):
        Precode().network(conv)()
    with pytest.raises(UsageError, match="the network itself"):
        Precode().network(lambda: nn.Linear(4, 2))()
    for wrong in ({"size": 0}, {"beta": -1.0}, {"beta": float("nan")}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} = "):
            Precode(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("defense", "words"), [(Precode(size=2), "draws noise"), (FrozenFirstLayer(), "is frozen")]
)
def test_a_generated_network_neither_draws_nor_stands_still(defense: Any, words: str) -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))

    with pytest.raises(UsageError, match=words):
        GeneratedNetwork(defense.network(factory)(), 4, [4])


def test_padded_rows_change_neither_statistics_nor_divergence() -> None:
    torch.manual_seed(0)
    model = FunctionalModel(Precode(size=3, beta=0.3).network(batch_norm_mlp)(), (1, 4, 4))
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    state = model.parameters_of(model.state())
    padded = torch.func.grad(loss_of(model, x, y, rows=torch.tensor([1.0, 1.0, 1.0, 0.0])))(state)
    # The noise of the first three records is the same: it is drawn row by row.
    plain = torch.func.grad(loss_of(model, x[:3], y[:3]))(state)
    for name, value in plain.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-6)
