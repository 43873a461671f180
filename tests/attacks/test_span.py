"""The affine space that a biased linear first layer confines a batch to, and steps within it."""

from __future__ import annotations

import functools

import torch
from fedlab_attacks.optimise.optimisers import Adam
from fedlab_attacks.optimise.span import Span, Within, spans
from torch import Tensor, nn

from benchmarks.attacks.scene import observe
from fedlab.audit.observation import random_twin
from fedlab.clients import ClientConfig
from fedlab.tasks import Dataset
from tests.attacks.attack_scene import IMAGES, LABELS, Scene, mlp, stream

STEPS = ClientConfig(batch_size=2, local_epochs=2, learning_rate=0.05, momentum=0.9, weight_decay=0.01)


def trained(*, first_bias: bool = True, victims: int = 2, records: int = 4) -> Scene:
    data = Dataset("digits", IMAGES.numpy(), LABELS.numpy(), 10, source="scikit-learn")
    network = functools.partial(mlp, 0.5, 32, first_bias)
    seen = observe(network, data, STEPS, victims=victims, records=records, seed=0)
    return Scene(seen.victim, seen.observations, seen.images, seen.labels)


def found(seen: Scene, records: int = 4) -> Span | None:
    generators = [stream(one.client) for one in seen.observations]
    return spans(seen.victim, seen.observations, records, generators)


def test_holds_the_records_of_several_steps_and_no_others() -> None:
    """With momentum, weight decay and dropout; four records leave three directions."""
    seen = trained()
    span = found(seen)
    assert span is not None and span.basis.shape == (2, 3, 64)
    images = torch.stack(seen.images)
    assert torch.allclose(span.nearest(images), images, atol=1e-4)
    assert float((span.nearest(images.flip(0)) - images.flip(0)).abs().max()) > 0.1
    assert torch.allclose(span.basis @ span.basis.mT, torch.eye(3), atol=1e-5)


def test_a_pixels_scale_and_shift_are_undone() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.25) / 0.5

    data = Dataset("digits", IMAGES.numpy(), LABELS.numpy(), 10, source="scikit-learn")
    seen = observe(lambda: nn.Sequential(Scaled(), *mlp(0.0, 32)), data, STEPS, victims=1, records=3, seed=0)
    span = spans(seen.victim, seen.observations, 3, [stream()])
    assert span is not None
    images = torch.stack(seen.images)
    assert torch.allclose(span.nearest(images), images, atol=1e-4)


def test_is_unknown_without_a_bias_with_noise_and_for_more_records_than_units() -> None:
    assert found(trained(first_bias=False)) is None
    seen = trained()
    noisy = [random_twin(one, stream(one.client)) for one in seen.observations]
    assert found(Scene(seen.victim, noisy, seen.images, seen.labels)) is None
    assert found(trained(victims=1, records=40), 40) is None


def test_a_record_too_few_is_noise_and_one_too_many_changes_nothing() -> None:
    seen = trained()
    assert found(seen, 3) is None
    more, span = found(seen, 5), found(seen)
    assert more is not None and span is not None and more.basis.shape == (2, 4, 64)
    images = torch.rand(2, 5, 64, generator=stream())
    assert torch.allclose(more.nearest(images), span.nearest(images), atol=1e-5)


def test_steps_are_the_inner_optimisers_in_coordinates() -> None:
    """A line in the plane: (0, 1) + c (1, 0); Adam's first step is its length against the slope's sign."""
    span = Span(torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0, 0.0]]]))
    optimiser = Within(Adam(0.5), span, images=2)
    flat = torch.tensor([[0.25, 1.0, 0.5, 1.0, 7.0]])
    slope = torch.tensor([[2.0, 9.0, -3.0, 9.0, 1.0]])
    state = optimiser.start(flat)
    assert state["mean"].shape == (1, 3)
    moved = optimiser.move(state, flat, torch.zeros(1), slope, i=0, factor=1.0, pixels=4)
    assert torch.allclose(moved, torch.tensor([[-0.25, 1.0, 1.0, 1.0, 6.5]]), atol=1e-5)


def test_rows_leave_with_their_spans() -> None:
    """What is remembered has one row per row of the variables."""
    span = Span(torch.zeros(3, 2), torch.eye(2)[None, :1].repeat(3, 1, 1))
    state = Within(Adam(0.1), span, images=1).start(torch.zeros(3, 2))
    assert {len(value) for value in state.values()} == {3}
