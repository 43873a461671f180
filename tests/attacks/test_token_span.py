"""What a deeper layer was fed lies in the span of its gradient, and that sharpens a solution for patches."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from attack_scene import Scene, scene, stream
from fedlab_attacks.exact.embedding import recognise
from fedlab_attacks.exact.patch_embedding import PatchEmbedding, solved
from fedlab_attacks.exact.pixels import doubled
from fedlab_attacks.exact.token_span import _normal, _Span
from torch import Tensor, nn

from fedlab.audit.attack import Reconstruction
from fedlab.audit.observation import random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.tasks import State
from fedlab.tasks.models.vit import vit

NEARLY_EQUAL = functools.partial(
    vit, (1, 8, 8), 10, patch=2, dim=128, depth=1, heads=8, mlp_dim=128, dropout=0.0
)


class Separate(nn.Module):
    """A class token in front, one norm, and queries, keys and values as layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 2, stride=2)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 64))
        self.where = nn.Parameter(0.02 * torch.randn(1, 17, 64))
        self.norm = nn.LayerNorm(64)
        self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.where
        fed = self.norm(tokens)
        seen = (4.0 * self.query(fed) @ self.key(fed).transpose(1, 2)).softmax(-1) @ self.value(fed)
        out: Tensor = self.head((tokens + seen).tanh().mean(1))
        return out


def both(one: Scene, observation_of: int = 0) -> tuple[Reconstruction, Reconstruction]:
    """Without and with the deeper layer."""
    found = recognise(one.victim, stream())
    observation = one.observations[observation_of]
    plain = solved(observation, one.victim, replace(found, normed=None), 1)
    return plain, solved(observation, one.victim, found, 1)


def test_the_norm_behind_the_attention_is_read() -> None:
    found = recognise(scene(NEARLY_EQUAL, victims=1).victim, stream()).normed
    assert found is not None and (found.norm, found.layers) == ("layers.0.norm2", ("layers.0.linear1",))
    found = recognise(scene(Separate, victims=1).victim, stream()).normed
    assert found is not None and (found.norm, found.layers) == ("norm", ("query", "key", "value"))


def test_at_the_truth_the_gradient_lies_in_the_span_of_the_tokens() -> None:
    one = scene(NEARLY_EQUAL, victims=1)
    state = doubled(one.victim.model.state())
    image = one.images[0].double()
    slope = one.victim.gradient(state, {}, image, one.labels[0], training=True)["layers.0.linear1.weight"]
    true = _Span.of(
        slope,
        _normal(one.victim, state, image[0], "layers.0.norm2")[1],
        torch.zeros(128, dtype=torch.float64),
    )
    other = _Span.of(
        slope,
        _normal(one.victim, state, 1.0 - image[0], "layers.0.norm2")[1],
        torch.zeros(128, dtype=torch.float64),
    )
    assert float(true.off.norm()) < 1e-13 < 1e-6 < float(other.off.norm())


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_images_are_sharper_and_as_unique(rate: float) -> None:
    one = scene(NEARLY_EQUAL, victims=6, learning_rate=rate)
    pairs = [both(one, victim) for victim in range(6)]
    plain, sharper = (one.psnr(answers) for answers in zip(*pairs, strict=True))
    assert float((sharper - plain).median()) > 0.5
    assert all(answer.certificates[0].proves for pair in pairs for answer in pair)


def test_tokens_beside_the_patches_are_left_in_place() -> None:
    one = scene(Separate, victims=6)
    pairs = [both(one, victim) for victim in range(6)]
    plain, sharper = (one.psnr(answers) for answers in zip(*pairs, strict=True))
    assert float((sharper - plain).mean()) > 0.0 and not torch.equal(plain, sharper)


def test_a_gain_and_shift_of_the_norm_are_known() -> None:
    def trained() -> nn.Module:
        net = NEARLY_EQUAL()
        norm = net.get_submodule("layers.0.norm2")
        nn.init.uniform_(norm.get_parameter("weight"), 0.5, 2.0)
        nn.init.uniform_(norm.get_parameter("bias"), -0.5, 0.5)
        return net

    one = scene(trained, victims=6)
    pairs = [both(one, victim) for victim in range(6)]
    plain, sharper = (one.psnr(answers) for answers in zip(*pairs, strict=True))
    assert float((sharper - plain).median()) > 0.5


def test_a_layer_that_tells_nothing_is_not_believed() -> None:
    """Noise in place of the layer's gradient fits no image, weighs little, and moves little."""
    one = scene(NEARLY_EQUAL, victims=1)
    name = "layers.0.linear1.weight"

    def spoiled(update: State) -> State:
        return update | {name: 1e-2 * torch.randn(update[name].shape, generator=stream(1))}

    lone = replace(one, observations=[one.with_update(spoiled)])
    plain, sharper = both(lone)
    assert abs(float(one.psnr([sharper])) - float(one.psnr([plain]))) < 0.1


@pytest.mark.parametrize("change", [{"local_steps": 2}, {"mode": None}])
def test_several_steps_and_unknown_masks_close_it(change: dict[str, object]) -> None:
    dropout = 0.0 if "local_steps" in change else 0.5
    one = scene(functools.partial(NEARLY_EQUAL, dropout=dropout), victims=1, learning_rate=1.0)
    (observation,) = one.observations
    config = replace(observation.config, **change)  # type: ignore[arg-type]
    plain, sharper = both(replace(one, observations=[replace(observation, config=config)]))
    assert plain.images is not None and sharper.images is not None
    assert torch.allclose(plain.images, sharper.images, rtol=0.0, atol=1e-7)


def test_evaluation_mode_has_no_masks() -> None:
    one = scene(functools.partial(NEARLY_EQUAL, dropout=0.5), victims=1, mode="eval")
    plain, sharper = both(one)
    assert plain.images is not None and sharper.images is not None
    assert not torch.allclose(plain.images, sharper.images, rtol=0.0, atol=1e-7)


def test_noise_is_not_certified() -> None:
    one = scene(NEARLY_EQUAL, victims=3)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(one.observations)]
    answers = PatchEmbedding()(twins, ThreatModel(), one.victim, generator=stream())
    assert not any(answer.certificates[0].proves for answer in answers)
