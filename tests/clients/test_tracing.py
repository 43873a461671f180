"""Recorded operations: the same bits as the function itself, for every built-in network, or none at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedlab import seeds
from fedlab.clients.tracing import RECORDINGS, Traced
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.models.convnet import convnet
from fedlab.tasks.models.lenet import lenet
from fedlab.tasks.models.mlp import mlp
from fedlab.tasks.models.resnet import resnet
from fedlab.tasks.models.vit import vit

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp((1, 8, 8), 10, width=32, depth=2, dropout=0.5), (1, 8, 8)),
    "lenet": (lambda: lenet((1, 12, 12), 10), (1, 12, 12)),
    "convnet": (lambda: convnet((3, 8, 8), 10, width=4, depth=2), (3, 8, 8)),
    "resnet": (lambda: resnet((3, 8, 8), 10), (3, 8, 8)),
    "vit": (lambda: vit((3, 8, 8), 10), (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recorded_step_has_the_bits_of_the_step_itself(name: str) -> None:
    network, shape = NETWORKS[name]
    model = FunctionalModel(network(), shape)

    def step(state: State, x: Tensor, y: Tensor, masks: State) -> tuple[State, State]:
        def loss(values: State) -> tuple[Tensor, State]:
            outputs, buffers = model(values, x, training=True, masks=masks)
            return nn.functional.cross_entropy(outputs, y), buffers

        return grad(loss, has_aux=True)(state)

    traced = Traced(vmap(step), calls_before=2)
    generator = seeds.torch_generator(0, "test")
    for _ in range(4):  # the second call records, the last two replay other numbers
        state = {
            n: v.expand(3, *v.shape) + 0.01 * torch.rand(3, *v.shape, generator=generator)
            for n, v in model.state().items()
        }
        x = torch.rand(3, 2, *shape, generator=generator)
        y = torch.randint(10, (3, 2), generator=generator)
        drawn = [model.draw_masks(2, generator) for _ in range(3)]
        masks = {n: torch.stack([one[n] for one in drawn]) for n in drawn[0]}
        gradient, buffers = traced(state, x, y, masks)
        expected, after = vmap(step)(state, x, y, masks)
        assert all(torch.equal(gradient[n], expected[n]) for n in expected)
        assert all(torch.equal(buffers[n], after[n]) for n in after)
    assert len(traced._recordings) == 1


def test_a_function_that_is_not_pure_is_never_replayed() -> None:
    calls = 0

    def impure(x: Tensor) -> tuple[Tensor]:
        nonlocal calls
        calls += 1
        return (x + calls,)

    traced = Traced(impure, calls_before=2)
    # Calls: 1st, 2nd, and a 3rd one while recording, whose answer differs from the 2nd.
    assert [float(traced(torch.zeros(1))[0]) for _ in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert not traced._recordings


def test_what_cannot_be_recorded_runs_the_long_way() -> None:
    def branching(x: Tensor) -> tuple[Tensor]:
        return (x if x.sum().item() > 0 else -x,)

    traced = Traced(branching, calls_before=1)
    assert [float(traced(torch.tensor([v]))[0]) for v in (1.0, -2.0, 3.0)] == [1.0, 2.0, 3.0]


def test_each_shape_has_a_recording_and_there_is_a_limit() -> None:
    traced = Traced(lambda x: {"twice": 2 * x}, calls_before=1)
    for size in range(1, RECORDINGS + 3):
        assert traced(torch.ones(size))["twice"].tolist() == [2.0] * size
    assert len(traced._recordings) == RECORDINGS
    assert all(traced(torch.full((n,), 3.0))["twice"].tolist() == [6.0] * n for n in (1, 5, 20))


def test_not_a_number_is_the_same_as_itself() -> None:
    traced = Traced(lambda x: (x / x,), calls_before=1)
    for value in (0.0, 2.0):
        assert torch.equal(traced(torch.tensor([value]))[0].isnan(), torch.tensor([value == 0.0]))
    assert len(traced._recordings) == 1


def test_a_number_beside_tensors_is_never_a_constant() -> None:
    calls = 0

    def counting(x: Tensor) -> tuple[Tensor, int]:
        nonlocal calls
        calls += 1
        return x, calls

    traced = Traced(counting, calls_before=1)
    assert [traced(torch.zeros(1))[1] for _ in range(3)] == [1, 2, 3]


def test_memory_that_runs_out_is_not_a_reason_to_go_the_long_way() -> None:
    full = False

    def greedy(x: Tensor) -> tuple[Tensor]:
        if full:
            raise MemoryError
        return (x,)

    traced = Traced(greedy, calls_before=2)
    traced(torch.zeros(1))
    full = True
    with pytest.raises(MemoryError):
        traced(torch.zeros(1))


def test_one_tensor_that_came_in_twice_is_two_arguments_all_the_same() -> None:
    """As in a round's first step of FedProx, where the model still is its anchor."""
    traced = Traced(torch.sub, calls_before=1)
    one, other = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0])
    assert torch.equal(traced(one, one), torch.zeros(2))
    assert len(traced._recordings) == 1
    assert torch.equal(traced(one, other), torch.tensor([2.0, 4.0]))
