"""Hypernetworks: shapes, magnitudes, and the extractors that they generate."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlab import plugins
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.hypernetwork import (
    GeneratedNetwork,
    HyperNetwork,
    classifier,
    encoded,
    generated_network,
)

SHAPE = (1, 8, 8)
LIKE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7.0, 8.0])}


def mlp(**knobs: object) -> nn.Module:
    made: nn.Module = plugins.build("models", {"name": "mlp", "width": [5], **knobs}, SHAPE, 10)
    return made


def test_each_tensor_has_a_linear_head_of_its_own() -> None:
    """θ = W relu(U v + b) + c, tensor by tensor, by hand."""
    torch.manual_seed(0)
    net = HyperNetwork(LIKE, 4, [3]).double()
    v = torch.randn(4, dtype=torch.float64)
    own = net.state_dict()
    hidden = (own["hidden.0.weight"] @ v + own["hidden.0.bias"]).clamp(min=0)
    for name, value in net(v).items():
        key = name.replace(".", "-")
        expected = own[f"heads.{key}.weight"] @ hidden + own[f"heads.{key}.bias"]
        torch.testing.assert_close(value, expected.reshape(LIKE[name].shape))


def test_several_embeddings_give_what_each_gives_alone() -> None:
    net = HyperNetwork(LIKE, 4, [3, 6], mip=True).double()
    v = torch.randn(5, 4, dtype=torch.float64)
    together = net(v)
    for row in range(5):
        for name, value in net(v[row]).items():
            torch.testing.assert_close(together[name][row], value)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_encoding_has_a_constant_norm(values: list[float]) -> None:
    """‖E(γ)‖² = Σ cos² + sin² = the number of inputs."""
    code = encoded(torch.tensor(values, dtype=torch.float64))
    assert float(code.square().sum()) == pytest.approx(len(values), rel=1e-12)


def gradient_norm(net: HyperNetwork, embedding: Tensor) -> float:
    """Of the weights (not the biases), for a fixed slope of the loss by θ."""
    parameters = dict(net.named_parameters())
    slope = {name: torch.ones_like(value) for name, value in LIKE.items()}

    def generate(own: State) -> State:
        made: State = torch.func.functional_call(net, own, (embedding,))
        return made

    _, pull = torch.func.vjp(generate, parameters)  # type: ignore[misc]
    (gradient,) = pull(slope)
    return math.sqrt(
        sum(float(g.detach().square().sum()) for n, g in gradient.items() if n.endswith(".weight"))
    )


@pytest.mark.parametrize(("mip", "low", "high"), [(False, 80, 120), (True, 0.5, 2.0)])
def test_the_scale_of_the_embedding_is_a_hidden_learning_rate_unless_magnitudes_are_kept(
    mip: bool, low: float, high: float
) -> None:
    """Without biases θ and its gradients are linear in v: a hundredth of v gives a hundredth of both."""
    torch.manual_seed(1)
    net = HyperNetwork(LIKE, 16, [32], mip=mip)
    for name, value in net.named_parameters():
        if name.endswith("bias"):
            value.data.zero_()
    v = torch.randn(16)
    assert low < gradient_norm(net, v) / gradient_norm(net, 0.01 * v) < high


def test_an_invariant_hypernetwork_starts_at_the_networks_own_start() -> None:
    """θ⁰ is the bias of the heads."""
    net = HyperNetwork(LIKE, 4, [3], mip=True)
    for name, value in LIKE.items():
        assert torch.equal(net.heads[name.replace(".", "-")].bias.reshape(value.shape), value)
    assert all(not layer.bias.any() for layer in net.hidden if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet"])
@pytest.mark.parametrize("mip", [False, True])
def test_a_generated_network_computes_what_the_network_does_with_those_weights(name: str, mip: bool) -> None:
    factory = functools.partial(plugins.bind("models", name), SHAPE, 10)
    torch.manual_seed(2)
    net, plain = generated_network(factory, 6, [4], mip), factory()
    model, x = FunctionalModel(net, SHAPE), torch.rand(3, *SHAPE)
    last = classifier(dict(plain.named_parameters()))
    theta = net.generated() | {n: net.head[n.rpartition(".")[2]] for n in last}
    expected = torch.func.functional_call(plain, {n: v.detach() for n, v in theta.items()}, (x,))
    outputs, _ = model(model.state(), x, training=True)
    torch.testing.assert_close(outputs, expected)
    names = set(model.parameter_names)
    assert {n for n in names if not n.startswith("hypernetwork.")} == {
        "embedding",
        "head.bias",
        "head.weight",
    }
    assert not any(value.is_meta for value in model.state().values())


def test_gradients_go_through_the_generated_network_for_several_clients_at_once() -> None:
    """vmap of grad over three embeddings = torch's own backward, one by one."""
    torch.manual_seed(3)
    net = GeneratedNetwork(mlp(), 4, [3], mip=True).double()
    model = FunctionalModel(net, SHAPE)
    state, x = model.state(), torch.rand(3, 2, *SHAPE, dtype=torch.float64)
    embeddings = torch.randn(3, 4, dtype=torch.float64)

    def loss(embedding: Tensor, images: Tensor) -> Tensor:
        outputs, _ = model(state | {"embedding": embedding}, images, training=True)
        return outputs.square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(embeddings, x)
    for row in range(3):
        leaf = embeddings[row].clone().requires_grad_()
        loss(leaf, x[row]).backward()
        assert leaf.grad is not None
        torch.testing.assert_close(together[row], leaf.grad)


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (lambda: mlp(norm="batch"), "BatchNorm1d\\) keeps statistics"),
        (lambda: mlp(dropout=0.5), "drops units \\(p = 0.5\\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "nothing to generate"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3)), "expected the weight and the bias"),
    ],
)
def test_what_cannot_be_generated_is_refused(network: object, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        GeneratedNetwork(network(), 4, [3])  # type: ignore[operator]


def test_layers_without_units_are_refused() -> None:
    with pytest.raises(UsageError, match="embedding = 0"):
        HyperNetwork(LIKE, 0, [3])
    with pytest.raises(UsageError, match="hidden = 0"):
        HyperNetwork(LIKE, 2, [3, 0])
