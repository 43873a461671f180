"""Patches from learned positions: exact where the cotangents are independent, and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import Scene, scene, stream
from fedlab_attacks.exact.embedding import recognise
from fedlab_attacks.exact.patch_embedding import PatchEmbedding
from fedlab_attacks.exact.pixels import PixelMap, trial_images
from torch import Tensor, nn

from fedlab.audit.attack import Reconstruction
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.errors import NotApplicable
from fedlab.tasks.models.vit import Layer, vit

Network = Callable[[], nn.Module]


def ours(**knobs: object) -> Network:
    """16 patches of 2 x 2, width 32."""
    settings = {"patch": 2, "dim": 32, "depth": 1, "mlp_dim": 32, "dropout": 0.5} | knobs
    return functools.partial(vit, (1, 8, 8), 10, **settings)  # type: ignore[arg-type]


class Theirs(nn.Module):
    """A user's: a convolution embeds, a class token is put in front, and positions may be anywhere."""

    def __init__(
        self, stride: int = 2, channels_first: bool = False, between: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, stride, stride=stride)
        self.between = between or nn.Identity()
        tokens = (8 // stride) ** 2
        self.where = nn.Parameter(
            0.02 * torch.randn(*((32, tokens + 1) if channels_first else (1, tokens + 1, 32)))
        )
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 32))
        self.channels_first = channels_first
        self.drop = nn.Dropout(0.5)
        self.layer = Layer(32, 4, 32, "gelu", 0.5)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.between(self.stem(x).flatten(2).transpose(1, 2))
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.drop(tokens + (self.where.T if self.channels_first else self.where))
        out: Tensor = self.head(self.layer(tokens)[:, 0])
        return out


def frozen(net: Theirs) -> nn.Module:
    net.stem.requires_grad_(False)
    return net


def attack(one: Scene, observations: list[Observation] | None = None) -> list[Reconstruction]:
    return PatchEmbedding()(observations or one.observations, ThreatModel(), one.victim, generator=stream())


def only(answer: Reconstruction) -> Certificate:
    (certificate,) = answer.certificates
    return certificate


@pytest.mark.parametrize(
    "network",
    [
        ours(),
        ours(first_bias=False),
        Theirs,
        functools.partial(Theirs, channels_first=True),
    ],
)
def test_patches_are_exact_under_dropout_and_without_a_label(network: Network) -> None:
    one = scene(network, victims=3, learning_rate=1.0)
    answers = attack(one)
    assert float(one.psnr(answers).min()) > 90.0
    for answer in answers:
        found = only(answer)
        assert found.proves and found.rank == found.unknowns == 16 and found.null_space == 0
        assert found.residual < 1e-5 and answer.residual == found.residual


def test_patches_are_exact_in_evaluation_mode() -> None:
    one = scene(ours(), victims=2, mode="eval", learning_rate=1.0)
    answers = attack(one)
    assert float(one.psnr(answers).min()) > 60.0  # cotangents are nearly equal: worse conditioned
    assert all(only(answer).proves for answer in answers)


def test_more_tokens_than_width_leave_a_null_space_of_known_dimension() -> None:
    """64 tokens of one pixel, width 16: 16 equations for the 64 unknowns of the one column."""
    one = scene(ours(patch=1, dim=16), victims=2)
    for answer, truth in zip(attack(one), one.images, strict=True):
        found = only(answer)
        assert found.verdict == "not unique" and not found.proves
        assert found.null_space == 64 - 16 and found.rank == 16 and found.unknowns == 64
        assert answer.images is not None and answer.images.shape == truth.shape


def test_several_steps_on_one_record_obey_the_same_equations() -> None:
    one = scene(ours(), victims=1, learning_rate=1.0)
    (observation,) = one.observations
    model, parameters, generator = one.victim.model, dict(observation.before), stream(3)
    for _ in range(3):
        masks = model.draw_masks(1, generator)
        slope = one.victim.gradient(parameters, {}, one.images[0], one.labels[0], training=True, masks=masks)
        parameters = {name: value - 1.0 * slope[name] for name, value in parameters.items()}
    update = {name: value - observation.before[name] for name, value in parameters.items()}
    config = replace(observation.config, local_steps=3)
    answers = attack(one, [replace(observation, update=update, config=config)])
    assert only(answers[0]).proves and float(one.psnr(answers).min()) > 90.0


def test_known_weight_decay_is_taken_out() -> None:
    one = scene(ours(), victims=1, learning_rate=1.0)
    (observation,) = one.observations
    update = {name: value - 0.01 * observation.before[name] for name, value in observation.update.items()}
    decayed = replace(
        observation, update=update, config=replace(observation.config, learning_rate=1.0, weight_decay=0.01)
    )
    answers = attack(one, [decayed])
    assert only(answers[0]).proves and float(one.psnr(answers).min()) > 80.0


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (ours(positions="fixed"), "no parameter has the cotangents"),
        (lambda: frozen(Theirs()), "the weights of stem are frozen"),
        (functools.partial(Theirs, between=nn.Dropout(0.5)), "no parameter has the cotangents"),
        (functools.partial(Theirs, between=nn.LayerNorm(32)), "no parameter has the cotangents"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no parameter has the cotangents"),
        (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)), "not fed with the pixels"),
    ],
)
def test_other_networks_are_not_applicable_and_say_why(network: Network, reason: str) -> None:
    (answer,) = attack(scene(network, victims=1))
    assert answer.images is None and answer.refusal is not None and reason in answer.refusal
    assert only(answer).verdict == "not applicable" and reason in str(only(answer))


def test_a_batch_is_not_taken_for_one_record() -> None:
    for answer in attack(scene(ours(), victims=3, batch=2, learning_rate=1.0)):
        assert answer.images is None and only(answer).verdict == "not applicable"
        assert "not explained up to rounding" in str(answer.refusal)
    for answer in attack(scene(ours(patch=1, dim=16), victims=2, batch=2)):
        assert answer.images is None and "anything would fit" in str(answer.refusal)


@pytest.mark.parametrize("network", [ours(), ours(dim=16), ours(dim=16, first_bias=False)])
def test_noise_is_never_certified(network: Network) -> None:
    """Also with as many equations as unknowns (dim 16), where any update has a solution."""
    one = scene(network, victims=4)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(one.observations)]
    for answer in attack(one, twins):
        assert not only(answer).proves


def test_a_noisy_update_is_never_certified() -> None:
    one = scene(ours(), victims=1, learning_rate=1.0)
    noisy = one.with_update(
        lambda update: {n: v + 1e-3 * torch.randn(v.shape, generator=stream(1)) for n, v in update.items()}
    )
    (answer,) = attack(one, [noisy])
    assert only(answer).verdict == "not applicable"


def test_the_embedding_is_found_by_trying() -> None:
    one = scene(Theirs, victims=1)
    found = recognise(one.victim, stream())
    assert (found.layer, found.positions, found.width) == ("stem", "where", 32)
    assert found.rows.tolist() == list(range(1, 17))  # row 0 is the class token's


def test_a_pixel_map_reads_scale_shift_and_place() -> None:
    shape = (1, 2, 3)
    order = torch.tensor([5, 0, 3, 1, 4, 2, 2])
    fed = torch.cat([2.0 * trial_images(shape).flatten(1)[:, order] - 1.0, torch.full((4, 1), 7.0)], dim=1)
    found = PixelMap.read(fed, shape)
    assert found.index[:7].tolist() == order.tolist() and found.scale.tolist() == [2.0] * 7 + [0.0]
    image = torch.rand(shape, dtype=torch.float64)
    entries = torch.cat([2.0 * image.flatten()[order] - 1.0, torch.tensor([7.0])])
    assert torch.allclose(found.image(entries), image)
    with pytest.raises(NotApplicable, match="does not see 1 of 6 pixels"):
        PixelMap.read(fed[:, 1:], shape)
    with pytest.raises(NotApplicable, match="not fed with the pixels themselves"):
        PixelMap.read(fed.square(), shape)
