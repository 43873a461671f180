"""What is inferred about an app, from clients made by hand: every fact, its certainty, and every obstacle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from app_by_hand import as_named, batches, numbered, ran_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedlab.apps.facts import Facts, infer
from fedlab.apps.given import Adapter
from fedlab.apps.naming import match
from fedlab.apps.pixels import NORMALISATIONS, pixel_range
from fedlab.apps.replay import compare
from fedlab.apps.schedule import epochs_of
from fedlab.errors import MissingFacts, UsageError


def mlp(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=bias), nn.ReLU(), nn.Linear(8, 10))


SHAPE = (1, 4, 4)


def fact(facts: Facts, name: str) -> tuple[str, str]:
    (found,) = [one for one in facts.listed if one.name == name]
    return found.value, found.sure


def test_a_plain_app_is_read_whole() -> None:
    ran = ran_by_hand(mlp(), [batches([4, 4, 2], SHAPE, seed=seed) for seed in range(2)])
    facts = infer(ran, Adapter())
    assert not facts.obstacles
    assert facts.view is not None and facts.view.shape == SHAPE and facts.view.classes == 10
    assert fact(facts, "batch size") == ("4", "checked")  # the run config says batch-size = 4, too
    assert fact(facts, "local epochs") == ("1", "checked")
    assert fact(facts, "optimizer") == ("SGD, learning rate 0.1", "checked")
    assert fact(facts, "pixels")[1] == "checked"
    assert fact(facts, "update") == ("2 of 2 agree", "checked")
    told = facts.told[1, 0]
    assert (told.batch_size, told.local_epochs, told.local_steps, told.learning_rate) == (4, 1, None, 0.1)


def test_what_attackers_get_is_what_was_sent() -> None:
    """The network that takes pixels gives the app's own outputs on the app's own inputs."""
    net, given_ = mlp(), batches([4], SHAPE)
    inputs = given_[0][0] * 2.0 - 1.0  # mean 0.5, deviation 0.5
    facts = infer(ran_by_hand(net, [[(inputs, given_[0][1])]]), Adapter())
    assert facts.view is not None
    assert torch.allclose(facts.view.pixels.unit(inputs), given_[0][0], atol=1e-6)
    assert torch.allclose(facts.view.network(given_[0][0]), net(inputs), atol=1e-5)


class TestNames:
    @pytest.mark.parametrize("names", [as_named, numbered])
    def test_both_kinds_of_message(self, names: object) -> None:
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 10))
        ran = ran_by_hand(net, [batches([4], SHAPE)], names=names)  # type: ignore[arg-type]
        found = match(ran.sights[0].before, net.state_dict())
        assert found is not None and found.equal
        assert list(found.names.values()) == list(net.state_dict())

    def test_values_tell_layers_of_one_shape_apart_where_a_part_is_sent(self) -> None:
        """Of three equal layers the outer two are sent: shapes alone would take the first two."""
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        state = net.state_dict()
        sent = [name for name in state if not name.startswith("1.")]
        found = match({str(i): state[name].numpy() for i, name in enumerate(sent)}, state)
        assert found is not None and list(found.names.values()) == sent

    @pytest.mark.parametrize(("message", "network"), [("", "_orig_mod."), ("model.", "")])
    def test_prefixes(self, message: str, network: str) -> None:
        state = mlp().state_dict()
        arrays = {message + name: value.numpy() for name, value in state.items()}
        found = match(arrays, {network + name: value for name, value in state.items()})
        assert found is not None and found.equal
        assert found.names[message + "1.weight"] == network + "1.weight"

    def test_a_stranger_is_not_matched(self) -> None:
        assert match({"0": np.zeros((3, 7))}, mlp().state_dict()) is None

    def test_what_does_not_match_asks_for_an_adapter(self) -> None:
        ran = ran_by_hand(mlp(), [batches([2], SHAPE)])
        odd = replace(ran.sights[0], before={"x": np.zeros(3)}, after={"x": np.ones(3)})
        with pytest.raises(MissingFacts, match=r"adapter = .my_app.audit:adapter"):
            infer(replace(ran, sights=[odd]), Adapter())


class TestPersonal:
    def test_what_stays_with_a_client_is_drawn_anew(self) -> None:
        net = mlp()
        ran = ran_by_hand(net, [batches([4], SHAPE)], own=["3.weight", "3.bias"])
        facts = infer(ran, Adapter())
        assert facts.view is not None and facts.view.personal == {"3.weight", "3.bias"}
        client = ran.recordings[1, 0].network
        assert client is not None
        head = facts.view.network.network.state_dict()["3.weight"]
        assert not torch.isclose(head, client.state_dict()["3.weight"]).any()
        body = facts.view.network.network.state_dict()["1.weight"]
        assert torch.equal(body, client.state_dict()["1.weight"])


class TestPixels:
    @given(st.sampled_from(NORMALISATIONS), st.integers(0, 10))
    @settings(max_examples=30, deadline=None)
    def test_bytes_tell_every_usual_normalisation(
        self, usual: tuple[str, tuple[float, ...], tuple[float, ...]], seed: int
    ) -> None:
        """64 random bytes per channel, normalised: mapped back they are the same bytes."""
        _, mean, deviation = usual
        channels = len(mean)
        pixels = batches([4], (channels, 4, 4), seed=seed)[0][0]
        pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0.0, 1.0
        centre, spread = (torch.tensor(one).reshape(-1, 1, 1) for one in (mean, deviation))
        found = pixel_range([(pixels - centre) / spread])
        assert torch.allclose(found.unit((pixels - centre) / spread), pixels, atol=1e-4)
        assert found.sure == "checked"

    def test_features_of_any_range_are_taken_from_least_to_largest_and_marked_so(self) -> None:
        inputs = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(1)) * 7.0
        found = pixel_range([inputs])
        assert found.sure == "assumed"
        unit = found.unit(inputs)
        assert torch.equal(unit.amin((0, 2, 3)), torch.zeros(2))
        assert torch.equal(unit.amax((0, 2, 3)), torch.ones(2))

    def test_bytes_tell_a_normalisation_that_is_not_usual(self) -> None:
        pixels = batches([8], (1, 4, 4))[0][0]
        pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = 0.0, 1.0
        found = pixel_range([(pixels - 0.305) / 0.376])
        assert found.sure == "checked"
        assert torch.allclose(found.unit((pixels - 0.305) / 0.376), pixels, atol=1e-5)

    def test_the_authors_word_goes_before(self) -> None:
        ran = ran_by_hand(mlp(), [batches([4], SHAPE)])
        facts = infer(ran, Adapter(pixel_low=(-1.0,), pixel_high=(3.0,)))
        assert fact(facts, "pixels") == ("black is -1, white is 3", "stated")


class TestReplay:
    @pytest.mark.parametrize(
        "settings", [{}, {"momentum": 0.9, "weight_decay": 1e-3}, {"momentum": 0.9, "nesterov": True}]
    )
    def test_recorded_steps_give_the_update(self, settings: dict[str, float]) -> None:
        ran = ran_by_hand(mlp(), [batches([4, 4], SHAPE)], settings=settings)
        found = infer(ran, Adapter())
        assert fact(found, "update") == ("1 of 1 agree", "checked")

    def test_noise_behind_the_training_is_noticed(self) -> None:
        """Noise of a hundredth of the update's norm is ten times what is still taken for the same."""

        def noisy(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            draw = np.random.default_rng(0)
            return {k: v + draw.normal(0, 1e-4, v.shape).astype(v.dtype) for k, v in arrays.items()}

        facts = infer(ran_by_hand(mlp(), [batches([4], SHAPE)], after=noisy), Adapter())
        assert fact(facts, "update") == ("0 of 1 agree", "assumed")

    def test_dropout_cannot_be_compared_and_says_so(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 10))
        ran = ran_by_hand(net, [batches([4], SHAPE)])
        sight = ran.sights[0]
        names = {name: name for name in net.state_dict()}
        found = compare(ran.recordings[1, 0], sight.before, sight.after, names)
        assert found.distance is None and "dropout" in found.words


class TestObstacles:
    def test_optimizers_whose_steps_are_no_gradients_are_not_attacked(self) -> None:
        facts = infer(ran_by_hand(mlp(), [batches([4], SHAPE)], optimizer=torch.optim.Rprop), Adapter())
        assert facts.view is None and "Rprop" in facts.obstacles[0]

    def test_a_loss_that_is_no_cross_entropy(self) -> None:
        ran = ran_by_hand(mlp(), [batches([4], SHAPE)], called="MultiMarginLoss")
        assert "MultiMarginLoss" in infer(ran, Adapter()).obstacles[0]

    def test_nll_of_log_probabilities_is_cross_entropy(self) -> None:
        net = nn.Sequential(mlp(), nn.LogSoftmax(1))
        ran = ran_by_hand(net, [batches([4], SHAPE)], loss=nn.functional.nll_loss, called="nll_loss")
        facts = infer(ran, Adapter())
        assert not facts.obstacles and fact(facts, "update")[1] == "checked"

    def test_features_that_are_no_images_unless_somebody_says_so(self) -> None:
        net = nn.Linear(16, 10)
        rows = [[(inputs.flatten(1), labels) for inputs, labels in batches([4], SHAPE)]]
        ran = ran_by_hand(net, rows)
        assert "input-shape" in infer(ran, Adapter()).obstacles[0]
        facts = infer(ran, Adapter(input_shape=SHAPE))
        assert facts.view is not None and facts.view.shape == SHAPE
        assert torch.allclose(facts.view.network(rows[0][0][0].reshape(-1, *SHAPE)), net(rows[0][0][0]))
        with pytest.raises(UsageError, match="input-shape"):
            infer(ran, Adapter(input_shape=(1, 5, 5)))

    def test_token_ids(self) -> None:
        net = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(12, 10))
        tokens = torch.randint(20, (4, 3))
        facts = infer(ran_by_hand(net, [[(tokens, torch.randint(10, (4,)))]]), Adapter())
        assert facts.view is None and "no pixels" in facts.obstacles[0]

    def test_randomness_that_nobody_can_hold_still(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Linear(16, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(nn.functional.dropout(x.flatten(1), 0.5, self.training))  # type: ignore[no-any-return]

        facts = infer(ran_by_hand(Net(), [batches([4], SHAPE)]), Adapter())
        assert facts.view is None and "randomness of its own" in facts.obstacles[0]
        assert infer(ran_by_hand(Net(), [batches([4], SHAPE)], training=False), Adapter()).view is not None

    def test_nothing_recorded(self) -> None:
        ran = ran_by_hand(mlp(), [batches([4], SHAPE)])
        facts = infer(replace(ran, recordings={}), Adapter())
        assert facts.view is None and "no client was seen" in facts.obstacles[0]

    def test_labels_that_are_mixed(self) -> None:
        inputs, labels = batches([4], SHAPE)[0]
        soft = nn.functional.one_hot(labels, 10).float()
        facts = infer(ran_by_hand(mlp(), [[(inputs, soft)]]), Adapter())
        assert facts.view is None and "float32" in facts.obstacles[0]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_epochs_are_told_from_sizes(records: int, batch: int, passes: int) -> None:
    size = min(batch, records)
    epoch = [min(size, records - start) for start in range(0, records, size)]
    assert epochs_of(epoch * passes, records) == passes
    assert epochs_of([*epoch * passes, size], records) in (None, passes + 1)


def test_no_copy_of_a_client_is_changed_by_reading() -> None:
    ran = ran_by_hand(mlp(), [batches([4], SHAPE)])
    network = ran.recordings[1, 0].network
    assert network is not None
    before = copy.deepcopy(network.state_dict())
    infer(ran, Adapter())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_loss_with_settings_of_its_own_is_no_plain_cross_entropy() -> None:
    def smooth(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, labels, label_smoothing=0.1)

    ran = ran_by_hand(mlp(), [batches([4], SHAPE)], loss=smooth)
    place, recording = next(iter(ran.recordings.items()))
    smoothed = replace(recording, loss_settings={"label_smoothing": 0.1})
    facts = infer(replace(ran, recordings={place: smoothed}), Adapter())
    assert facts.view is None and "label_smoothing = 0.1" in facts.obstacles[0]
    (update,) = [one for one in facts.listed if one.name == "update"]
    assert update.value == "not compared" and "label_smoothing = 0.1" in update.source


@pytest.mark.parametrize("settings", [{"reduction": "none"}, {"ignore_index": -1}])
def test_settings_that_leave_the_gradient_as_it_is(settings: dict[str, object]) -> None:
    ran = ran_by_hand(mlp(), [batches([4], SHAPE)])
    place, recording = next(iter(ran.recordings.items()))
    facts = infer(replace(ran, recordings={place: replace(recording, loss_settings=settings)}), Adapter())
    assert not facts.obstacles and facts.view is not None


def test_clients_that_were_not_recorded_to_the_end_are_left_out() -> None:
    """Their batches are not all known: neither would their steps be, nor what was to be recovered."""
    ran = ran_by_hand(mlp(), [batches([4, 4], SHAPE), batches([4, 4], SHAPE, seed=1)])
    cut = replace(ran.recordings[1, 0], dropped=3, notes=("only 1 MB of batches are kept",))
    facts = infer(replace(ran, recordings={(1, 0): cut, (1, 1): ran.recordings[1, 1]}), Adapter())
    assert set(facts.told) == {(1, 1)}
    assert fact(facts, "left out") == ("1 of 2 updates", "recorded")
    assert fact(facts, "noted") == ("only 1 MB of batches are kept", "recorded")
    every = infer(replace(ran, recordings={(1, 0): cut, (1, 1): cut}), Adapter())
    assert every.view is None and "from beginning to end" in every.obstacles[0]


def test_what_acts_unseen_puts_scores_in_doubt() -> None:
    plain = ran_by_hand(mlp(), [batches([4], SHAPE)])
    assert not infer(plain, Adapter()).doubts

    def doubled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: value * np.float32(2.0) for key, value in arrays.items()}

    (doubt,) = infer(ran_by_hand(mlp(), [batches([4], SHAPE)], after=doubled), Adapter()).doubts
    assert "does not give the update" in doubt and "may recover more" in doubt


def test_a_frozen_part_is_public_only_where_all_clients_have_the_same() -> None:
    """A frozen body that all share is in the app's code; a frozen head of one's own is a client's secret."""
    net = mlp()
    net[3].weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    for own, public in ((["3.weight"], False), ([], True)):
        ran = ran_by_hand(net, [batches([4], SHAPE), batches([4], SHAPE, seed=1)], own=own)
        kept = [replace(one, before=less(one.before), after=less(one.after)) for one in ran.sights]
        facts = infer(replace(ran, sights=kept), Adapter())
        client = ran.recordings[1, 0].network
        assert facts.view is not None and client is not None
        held = facts.view.network.network.state_dict()["3.weight"]
        assert torch.equal(held, client.state_dict()["3.weight"]) == public


def less(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if key != "3.weight"}
