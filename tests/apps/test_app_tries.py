"""Defenses on Flower apps whose code stays as it is: each kind really acts, and what cannot act says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_in_folder import app
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import nn

from fedlab import plugins
from fedlab.apps.audit import audit_app, opened, tries_of, witnessed
from fedlab.apps.contract import Arrays, Ran
from fedlab.apps.defended import trial
from fedlab.apps.defended.network import Surgery, make_room
from fedlab.apps.defended.plan import Seen, plan
from fedlab.apps.defended.probing import refusal
from fedlab.apps.defended.settings import changed, keys
from fedlab.apps.defended.wishes import Wish, wishes
from fedlab.apps.loading import forget, load
from fedlab.apps.running import run
from fedlab.audit import Defense
from fedlab.clients import ClientConfig
from fedlab.errors import UsageError
from fedlab.progress import Quiet

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CNN, LEGACY = EXAMPLES / "pytorch-cnn", EXAMPLES / "numpyclient"
TWO_STEPS = "batch-size=4 max-steps=2"
FEW_STEPS = "batch-size=300"
ONE_RECORD = 'batch-size=1 max-steps=1 model="mlp"'


def under(
    words: str,
    *,
    path: Path = CNN,
    config: str = TWO_STEPS,
    clients: int = 2,
    rounds: int = 1,
    observe: Sequence[int] = (1,),
) -> tuple[Ran, list[trial.Tried]]:
    """An app as it is, and under what is asked for."""
    audit = opened(
        path,
        run_config=config,
        supernodes=clients,
        rounds=rounds,
        observe=observe,
        tries=[words],
        progress=Quiet(),
    )
    ran, facts = witnessed(audit, Quiet())
    return ran, list(tries_of(audit, ran, facts, Quiet()))


def alone(words: str, **options: Any) -> tuple[Ran, Ran]:
    """The same of one defense that can be tried."""
    ran, (one,) = under(words, **options)
    assert one.seen is not None, one.why
    return ran, one.seen.ran


def updates(ran: Ran) -> list[np.ndarray]:
    """What clients sent less what they got, flat."""
    return [
        np.concatenate(
            [(one.after[key].astype(float) - one.before[key].astype(float)).ravel() for key in one.before]
        )
        for one in ran.sights
    ]


def close(one: Arrays, other: Arrays) -> bool:
    same = one.keys() == other.keys()
    return same and all(np.allclose(one[key], other[key], rtol=1e-5, atol=1e-7) for key in one)


class Own(Wish):
    """A defense that is no plugin."""

    defense: Defense

    @classmethod
    def of(cls, defense: Defense) -> Own:
        made = cls("own", "own", {})
        object.__setattr__(made, "defense", defense)
        return made

    def built(self) -> Defense:
        return self.defense


def with_own(defense: Defense, *, path: Path = CNN, rounds: int = 1, observe: Sequence[int] = (1,)) -> Any:
    """An app as it is, and under a defense that is no plugin."""
    audit = opened(
        path,
        run_config=TWO_STEPS if path == CNN else FEW_STEPS,
        supernodes=2,
        rounds=rounds,
        observe=observe,
        progress=Quiet(),
    )
    apps = audit.apps
    ran, facts = witnessed(audit, Quiet())

    def again(changes: Mapping[str, Any], mods: Any, on_step: Any) -> Ran:
        nonlocal apps
        forget(apps, audit.app)
        apps = load(audit.app)
        config = {**audit.changes, **changes}
        options = {"run_config": config, "supernodes": 2, "rounds": rounds, "observe": observe}
        return run(apps, audit.app, **options, mods=mods, on_step=on_step)  # type: ignore[arg-type]

    first = Seen("none", plugins.build("defenses", {"name": "none"}), ran, facts)
    return ran, trial.tried(Own.of(defense), first, again, audit.adapter, audit.app, 2, 0)


class TestUpdates:
    def test_clipping_scales_each_update_to_its_norm(self) -> None:
        """min(1, C / ‖Δ‖) Δ, over the parameters of the network."""
        plain, clipped = alone("clipping:clip=0.01")
        for before, after in zip(updates(plain), updates(clipped), strict=True):
            assert np.linalg.norm(before) > 0.02
            assert np.linalg.norm(after) == pytest.approx(0.01, rel=1e-4)
            cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
            assert cosine == pytest.approx(1.0, abs=1e-5)

    def test_a_client_remembers_what_it_did_not_send(self) -> None:
        """Top-k sends k coordinates; what was left out of round 1 is owed in round 2."""
        _, (one,) = under("top-k:share=0.05", rounds=2, observe=(1, 2))
        assert one.seen is not None and one.plan is not None and one.plan.actor is not None
        for update in updates(one.seen.ran):
            assert 0 < np.count_nonzero(update) <= round(0.05 * update.size) + 1
        owed = [float(state["top-k/unsent"].norm()) for state in one.plan.actor._memories.values()]
        assert len(owed) == 2 and min(owed) > 0.0

    def test_an_older_client_too(self) -> None:
        _, clipped = alone("clipping:clip=0.01", path=LEGACY, config=FEW_STEPS)
        assert [np.linalg.norm(one) for one in updates(clipped)] == pytest.approx([0.01] * 2, rel=1e-4)

    def test_statistics_of_batch_norm_stay_with_the_clients(self, tmp_path: Path) -> None:
        body = "model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))"
        folder = app(tmp_path, "normed_try_app", client_before="pass")
        for name in ("client_app", "server_app"):
            file = folder.path / "normed_try_app" / f"{name}.py"
            file.write_text(file.read_text().replace("model = nn.Linear(4, 3)", body))
        plain, discreet = alone("protocol:share_buffers=false", path=folder.path, config="")
        key = "1.running_mean"
        for one, other in zip(plain.sights, discreet.sights, strict=True):
            assert not np.array_equal(one.after[key], one.before[key])
            assert np.array_equal(other.after[key], other.before[key])
            assert np.array_equal(other.after["0.weight"], one.after["0.weight"])

    @pytest.mark.parametrize("sign", ["", "-"])
    def test_answers_that_hold_the_change_of_the_weights(self, tmp_path: Path, sign: str) -> None:
        """min(1, C / ‖Δ‖) Δ of the change itself, not of what would be the change if it were weights."""
        package = f"changes_try_app{len(sign)}"
        start = "message.content['arrays'].to_torch_state_dict()[key]"
        changes = f"{{key: {sign}(one - {start}) for key, one in model.state_dict().items()}}"
        folder = app(tmp_path, package, client_after=f"arrays = ArrayRecord({changes})")
        plain, clipped = alone("clipping:clip=0.01", path=folder.path, config="")
        for one, other in zip(plain.sights, clipped.sights, strict=True):
            before, after = (np.concatenate([x.ravel() for x in s.after.values()]) for s in (one, other))
            assert np.linalg.norm(before) > 0.02
            assert np.allclose(after, before * 0.01 / np.linalg.norm(before), atol=1e-7)

    def test_it_needs_no_network_that_can_be_attacked(self, tmp_path: Path) -> None:
        """Records of four numbers are no images; their updates are clipped all the same."""
        folder = app(tmp_path, "flat_try_app")
        _, clipped = alone("clipping:clip=0.01", path=folder.path, config="")
        assert [np.linalg.norm(one) for one in updates(clipped)] == pytest.approx([0.01] * 2, rel=1e-4)


class TestSteps:
    def test_no_noise_and_a_bound_that_nothing_reaches_change_nothing(self) -> None:
        """The mean of the records' own gradients is the gradient of their mean."""
        plain, private = alone("dp-sgd:noise_multiplier=0.0,max_grad_norm=1e6", rounds=2, observe=(1, 2))
        assert len(plain.sights) == len(private.sights) == 4
        for one, other in zip(plain.sights, private.sights, strict=True):
            assert close(one.before, other.before) and close(one.after, other.after)

    def test_one_clipped_record_moves_the_model_by_rate_times_bound(self) -> None:
        """‖Δ‖ = η C in one step on one record whose gradient is longer than C."""
        _, private = alone("dp-sgd:noise_multiplier=0.0,max_grad_norm=0.01", config=ONE_RECORD)
        assert [np.linalg.norm(one) for one in updates(private)] == pytest.approx([0.3 * 0.01] * 2, rel=1e-4)

    def test_noise_has_the_size_that_was_asked_for_and_repeats(self) -> None:
        """Δ = −η (clip(g) + σ C ξ) / B: of d numbers of ξ, the deviation is 1 ± 5 / √(2d)."""
        words = "dp-sgd:noise_multiplier=2.0,max_grad_norm=0.001"
        _, private = alone(words, config=ONE_RECORD)
        _, again = alone(words, config=ONE_RECORD)
        for one, other in zip(updates(private), updates(again), strict=True):
            unit = one / (0.3 * 2.0 * 0.001)
            assert abs(float(unit.std()) - 1.0) < 5.0 / np.sqrt(2.0 * unit.size)
            assert np.array_equal(one, other)
        first, second = updates(private)
        assert not np.allclose(first, second)

    def test_an_older_client_too(self) -> None:
        plain, private = alone("dp-sgd:noise_multiplier=0.0,max_grad_norm=1e6", path=LEGACY, config=FEW_STEPS)
        for one, other in zip(plain.sights, private.sights, strict=True):
            assert close(one.after, other.after)

    def test_records_that_are_moved(self) -> None:
        """Inverted pixels: operation 29 of ATS; the pixels that clients use are those of the records."""
        plain, moved = alone('ats:policy="29"')
        assert torch.equal(plain.recordings[1, 0].steps[0].inputs, moved.recordings[1, 0].steps[0].inputs)
        assert not np.allclose(updates(plain)[0], updates(moved)[0], rtol=0.1)

    def test_a_guarantee_is_not_claimed_of_batches_that_are_the_apps_own(self) -> None:
        _, (one, other) = under("dp-sgd,local-dp")
        told = one.to_dict(opened(CNN, progress=Quiet()).app)
        assert told["acts"] == "clients' steps" and "not Poisson samples" in told["guarantee"]
        told = other.to_dict(opened(CNN, progress=Quiet()).app)
        assert told["acts"] == "updates" and "train-loss" in told["guarantee"]

    def test_steps_are_known_where_they_give_the_update(self, tmp_path: Path) -> None:
        """Records of four numbers cannot be attacked; that each step is one of cross entropy was checked."""
        folder = app(tmp_path, "flat_steps_app")
        words = "dp-sgd:noise_multiplier=0.0,max_grad_norm=1e6"
        plain, private = alone(words, path=folder.path, config="")
        for one, other in zip(plain.sights, private.sights, strict=True):
            assert close(one.after, other.after)

    def test_steps_that_are_not_known_are_not_taken(self, tmp_path: Path) -> None:
        folder = app(tmp_path, "unknown_steps_app")
        task = folder.path / "unknown_steps_app" / "task.py"
        task.write_text(
            task.read_text().replace(
                "F.cross_entropy(model(inputs[rows]), targets[rows])",
                "F.multi_margin_loss(model(inputs[rows]), targets[rows])",
            )
        )
        _, (one,) = under("dp-sgd", path=folder.path, config="")
        assert one.seen is None and "whose own are not known" in one.why

    def test_an_app_that_goes_on_after_an_error_is_not_taken_for_defended(self, tmp_path: Path) -> None:
        """The optimizer also steps a layer that is no part of the network; the app catches what comes."""
        stubborn = {
            "            optimizer.step()\n": "            try:\n                optimizer.step()\n"
            "            except Exception:\n                pass\n",
            "torch.optim.SGD(model.parameters(), lr=lr)": "torch.optim.SGD([*model.parameters(),"
            " nn.Parameter(torch.zeros(1))], lr=lr)",
        }
        _, (one,) = under("dp-sgd", path=varied(tmp_path, "stubborn_try_app", stubborn))
        assert one.seen is None and "no part of the recorded network" in one.why

    def test_gradients_that_add_up_are_those_of_one_batch(self, tmp_path: Path) -> None:
        """Two halves of a batch, whose losses are halved: the gradient is that of the whole."""
        halves = {
            "            loss = criterion(model(images), labels)\n            loss.backward()\n": (
                "            for x, y in zip(images.chunk(2), labels.chunk(2)):\n"
                "                loss = criterion(model(x), y) / 2\n                loss.backward()\n"
            )
        }
        folder = varied(tmp_path, "halving_try_app", halves)
        plain, private = alone("dp-sgd:noise_multiplier=0.0,max_grad_norm=1e6", path=folder)
        for one, other in zip(plain.sights, private.sights, strict=True):
            assert close(one.after, other.after)

    def test_what_the_app_adds_to_its_steps_is_said_to_be_left_out(self, tmp_path: Path) -> None:
        clip = {
            "            optimizer.step()\n": "            torch.nn.utils.clip_grad_norm_(model.parameters(),"
            " 0.01)\n            optimizer.step()\n"
        }
        folder = varied(tmp_path, "clipping_try_app", clip)
        _, (one, other) = under("dp-sgd,clipping", path=folder)
        told = opened(folder, progress=Quiet()).app
        assert "else; a clip or a penalty of the app's own is left out" in one.to_dict(told)["notes"][0]
        assert other.to_dict(told)["notes"] == []

    def test_what_cannot_be_compared_may_be_left_out(self, tmp_path: Path) -> None:
        """Masks of dropout cannot be drawn again, so that a clip of the app's own would not show."""
        dropped = {
            "self.fc2(F.relu(": "self.fc2(self.drop(",
            "        self.fc2 =": "        self.drop = nn.Dropout(0.1)\n        self.fc2 =",
        }
        _, (one,) = under("dp-sgd", path=varied(tmp_path, "dropping_try_app", dropped))
        assert one.plan is not None and "of the app's own, if it has one, is left out" in one.plan.notes[0]


def varied(folder: Path, package: str, edits: Mapping[str, str]) -> Path:
    """The example app with another task.py, under a name of its own."""
    (folder / package).mkdir(parents=True)
    for file in (CNN / "pytorch_cnn").glob("*.py"):
        text = file.read_text().replace("pytorch_cnn", package)
        for old, new in edits.items() if file.name == "task.py" else ():
            assert old in text
            text = text.replace(old, new)
        (folder / package / file.name).write_text(text)
    (folder / "pyproject.toml").write_text(
        (CNN / "pyproject.toml").read_text().replace("pytorch_cnn", package)
    )
    return folder


class TestNetwork:
    def test_no_bias_in_any_message(self) -> None:
        plain, changed = alone("no-bias")
        assert "conv.bias" in plain.sights[0].before
        for one in changed.sights:
            assert "conv.bias" not in one.before.keys() | one.after.keys()
            assert {"conv.weight", "fc1.bias"} <= one.after.keys()
        assert 0.0 < changed.metrics[1]["accuracy"] < 1.0

    @pytest.mark.parametrize("path", [CNN, LEGACY])
    def test_dropout_where_there_was_none(self, path: Path) -> None:
        plain, changed = alone("dropout", path=path, config=TWO_STEPS if path == CNN else FEW_STEPS)
        network = changed.recordings[1, 0].network
        assert network is not None
        layers = [one for one in network.modules() if isinstance(one, nn.Dropout)]
        assert layers and all(one.p == 0.5 for one in layers)
        assert not any(isinstance(one, nn.Dropout) for one in plain.recordings[1, 0].network.modules())  # type: ignore[union-attr]
        for one, other in zip(plain.sights, changed.sights, strict=True):
            assert one.before.keys() == other.before.keys()
            assert all(np.array_equal(one.before[key], other.before[key]) for key in one.before)
            assert not np.allclose(updates(plain)[0], updates(changed)[0])

    def test_dropout_in_evaluation_mode_is_told_to_drop_nothing(self) -> None:
        audit = opened(CNN, run_config=TWO_STEPS, supernodes=2, rounds=1, progress=Quiet())
        ran, facts = witnessed(audit, Quiet())
        (wish,) = wishes(["dropout"])
        for mode, notes in (("train", []), ("eval", ["evaluation mode, in which dropout drops nothing"])):
            seen = Seen("none", plugins.build("defenses", {"name": "none"}), ran, replace(facts, mode=mode))  # type: ignore[arg-type]
            found = plan(wish, seen, 2, audit.app.path, 0).notes
            assert [one.partition(" in ")[2] for one in found] == notes

    def test_networks_of_torchs_own_classes(self) -> None:
        plain, (one,) = under("no-bias,dropout", config=ONE_RECORD)[0], under("no-bias", config=ONE_RECORD)[1]
        assert one.seen is not None
        assert plain.sights[0].before.keys() - one.seen.ran.sights[0].before.keys() == {"1.bias"}
        told = one.to_dict(opened(CNN, progress=Quiet()).app)["network"]
        assert (told["class"], told["file"]) == ("Sequential", "pytorch_cnn/task.py")
        line = (CNN / told["file"]).read_text().splitlines()[told["line"] - 1]
        assert "nn.Sequential(" in line
        (change,) = told["changes"]
        assert change["layer"] == "1" and change["after"].endswith("bias=False)")

    def test_where_the_class_is_written(self) -> None:
        told = under("no-bias")[1][0].to_dict(opened(CNN, progress=Quiet()).app)["network"]
        line = (CNN / told["file"]).read_text().splitlines()[told["line"] - 1]
        assert line == "class Net(nn.Module):"

    def test_only_networks_like_the_recorded_one(self, tmp_path: Path) -> None:
        defense = plugins.build("defenses", {"name": "architecture", "first_bias": False})
        surgery = Surgery("no-bias", defense, nn.Sequential(nn.Linear(4, 3)), tmp_path)
        with surgery.active():
            same, wider = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 5))
            assert list(same.state_dict()) == ["0.weight"]
            assert list(wider.state_dict()) == ["0.weight", "0.bias"]
        assert list(nn.Sequential(nn.Linear(4, 3)).state_dict()) == ["0.weight", "0.bias"]

    def test_each_network_is_operated_on_once(self, tmp_path: Path) -> None:
        """A second time would drop twice; a copy is not operated on again."""
        defense = plugins.build("defenses", {"name": "architecture", "dropout": 0.5})
        like = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        surgery = Surgery("dropout", defense, like, tmp_path, room=0.5)
        with surgery.active():
            made = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
            made.state_dict()
            list(made.parameters())
            made.train()(torch.ones(1, 4))
        assert sum(isinstance(one, nn.Dropout) for one in made.modules()) == 1
        assert len(made[2]._forward_pre_hooks) == 1

    def test_dropped_inputs_are_those_of_the_layer(self) -> None:
        """With rate p a kept input counts 1 / (1 − p): a linear layer of ones sums 2 times those kept."""
        first, last = nn.Linear(1, 1000), nn.Linear(1000, 1, bias=False)
        nn.init.zeros_(first.weight)
        nn.init.ones_(first.bias)
        nn.init.ones_(last.weight)
        network = nn.Sequential(first, last)
        make_room(network, 0.5)
        total = float(network.train()(torch.ones(1, 1)).detach())
        assert total % 2.0 == 0.0 and abs(total - 1000.0) < 5.0 * np.sqrt(1000.0)
        assert float(network.eval()(torch.ones(1, 1)).detach()) == 1000.0

    def test_layers_that_wait_for_our_draws_are_refused(self) -> None:
        _, (one,) = under("precode")
        assert one.seen is None and "only fedlab's own training" in one.why

    def test_another_network_in_its_place_is_refused(self) -> None:
        class Around(Defense):
            def network(self, factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
                return lambda: nn.Sequential(factory())

        _, one = with_own(Around())
        assert one.seen is None and "another network in the place" in one.why

    def test_torch_is_as_before_whatever_happens(self) -> None:
        before = {name: getattr(nn.Module, name) for name in ("state_dict", "__call__", "_apply")}
        init = nn.Sequential.__init__
        under("no-bias", config=ONE_RECORD)
        assert all(getattr(nn.Module, name) is value for name, value in before.items())
        assert nn.Sequential.__init__ is init


class TestRunConfig:
    def test_a_smaller_batch(self) -> None:
        plain, (one,) = under("protocol:batch_size=2")
        assert one.seen is not None
        assert [len(step.inputs) for step in plain.recordings[1, 0].steps] == [4, 4]
        assert [len(step.inputs) for step in one.seen.ran.recordings[1, 0].steps] == [2, 2]
        told = one.to_dict(opened(CNN, progress=Quiet()).app)
        assert (told["acts"], told["config"]) == ("run config", {"batch-size": [4, 2]})

    def test_a_rate_by_another_name(self) -> None:
        _, slower = alone("protocol:learning_rate=0.01", path=LEGACY, config=FEW_STEPS)
        optimizer = slower.recordings[1, 0].optimizer
        assert optimizer is not None and optimizer.settings["lr"] == 0.01

    def test_no_key_for_it(self, tmp_path: Path) -> None:
        folder = app(tmp_path, "keyless_try_app")
        _, (one,) = under("protocol:batch_size=1", path=folder.path, config="")
        assert one.seen is None and "no key of the run config" in one.why

    def test_a_key_that_clients_do_not_read(self, tmp_path: Path) -> None:
        folder = app(tmp_path, "deaf_try_app")
        project = folder.path / "pyproject.toml"
        project.write_text(project.read_text() + "batch-size = 2\n")
        _, (one,) = under("protocol:batch_size=1", path=folder.path, config="")
        assert one.seen is None and "trained as before" in one.why

    def test_one_key_of_two_that_clients_do_not_read(self, tmp_path: Path) -> None:
        """The rate is read: all the same, what was asked for is not what ran."""
        folder = app(tmp_path, "half_deaf_try_app")
        project = folder.path / "pyproject.toml"
        project.write_text(project.read_text() + "batch-size = 2\n")
        _, (one,) = under("protocol:batch_size=1,learning_rate=0.1", path=folder.path, config="")
        assert (
            one.seen is None
            and one.why == "the run config said batch-size = 1, and clients trained as before"
        )

    def test_what_changes_nothing(self) -> None:
        _, (one,) = under("protocol:batch_size=4")
        assert one.seen is None and "changes nothing" in one.why

    def test_keys_are_found_by_name_and_by_what_was_seen(self) -> None:
        config = ClientConfig(batch_size=8, local_steps=3)
        defense = plugins.build("defenses", {"name": "protocol", "batch_size": 2, "learning_rate": 1.0})
        wanted = changed("protocol", defense, config)
        found = keys("protocol", wanted, config, {"clients.my-batch": 8, "LR": 0.5, "rounds": 8})
        assert found == {"clients.my-batch": 2, "LR": 1.0}
        with pytest.raises(UsageError, match="rounds"):
            keys("protocol", wanted, config, {"rounds": 3})


class Doubled(FedAvg):
    """A strategy of one's own around another; it sends twice the model that the other made."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.inner = inner

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = self.inner.aggregate_train(server_round, replies)
        assert arrays is not None
        return ArrayRecord({key: 2.0 * value for key, value in arrays.to_torch_state_dict().items()}), metrics


class Server(Defense):
    def strategy(self, inner: Strategy) -> Strategy:
        return Doubled(inner)


class TestServerAndMods:
    def test_a_strategy_around_the_apps_own(self) -> None:
        """In the second round clients are sent twice what they would have been."""
        plain, one = with_own(Server(), rounds=2, observe=(2,))
        assert one.seen is not None, one.why
        assert one.plan.acts == "server"
        for sight, other in zip(plain.sights, one.seen.ran.sights, strict=True):
            for key, value in sight.before.items():
                assert np.allclose(2.0 * value, other.before[key], rtol=1e-5)

    def test_an_older_server_starts_no_such_strategy(self) -> None:
        _, one = with_own(Server(), path=LEGACY)
        assert one.seen is None and "no strategy of flwr.serverapp" in one.why

    def test_mods_are_around_the_app(self) -> None:
        seen: list[str] = []

        class Halved(Defense):
            def mods(self) -> Any:
                def mod(message: Message, context: Any, call_next: Any) -> Message:
                    seen.append(message.metadata.message_type)
                    return call_next(message, context)  # type: ignore[no-any-return]

                return [mod]

        plain, one = with_own(Halved())
        assert one.seen is not None and one.plan.acts == "around clients"
        assert seen == ["train", "train"]
        for sight, other in zip(plain.sights, one.seen.ran.sights, strict=True):
            assert all(np.array_equal(sight.after[key], other.after[key]) for key in sight.after)

    def test_model_inspection_lets_an_honest_app_pass(self) -> None:
        plain, inspected = alone("model-inspection")
        assert inspected.failed == 0 and np.array_equal(updates(plain)[0], updates(inspected)[0])


class TestWishes:
    def test_commas_divide_names_and_parameters(self) -> None:
        first, second, third = wishes(
            ["dropout,dp-sgd:noise_multiplier=1.5,max_grad_norm=2.0,no-bias"],
        )
        assert first == Wish("dropout", "architecture", {"dropout": 0.5})
        assert second.params == {"noise_multiplier": 1.5, "max_grad_norm": 2.0}
        assert third.label == "no-bias"

    def test_a_short_name_takes_parameters_and_two_of_one_kind_get_labels(self) -> None:
        found = wishes(["clipping:clip=0.1", "clipping:clip=0.2", "dropout:dropout=0.2,first_bias=false"])
        assert [one.label for one in found] == ["clipping", "clipping-clip-0.2", "dropout"]
        assert found[2].params == {"dropout": 0.2, "first_bias": False}

    def test_tables_in_brackets(self) -> None:
        (one,) = wishes(['stack:of=[{name="clipping", clip=0.1}, {name="noise", relative=1.0}]'])
        assert one.params["of"][1] == {"name": "noise", "relative": 1.0}

    def test_without_parameters_those_of_the_example(self) -> None:
        assert wishes(["dp-sgd"])[0].params == {"noise_multiplier": 1.0}

    def test_none_alone_is_no_wish(self) -> None:
        assert [one.label for one in wishes(["none,no-bias"])] == ["no-bias"]
        with pytest.raises(UsageError, match="in any case"):
            wishes(["none"])

    def test_all_mistakes_at_once_before_anything_runs(self, tmp_path: Path) -> None:
        words = "dp-sdg,secagg-plus,user-dp,clipping:clip=-1.0,hyperfl,dp-sgd:max_grad_norm=1.0,no-bias"
        with pytest.raises(UsageError) as caught:
            audit_app(CNN, tries=[words, "sign:name=noise"], out=tmp_path / "run", rounds=1)
        told = str(caught.value)
        assert told.startswith("--try: 7 mistakes")
        for part in (
            'Did you mean "dp-sgd"?',
            "secagg-plus is a protocol between clients and server",
            "user-dp changes how the server combines updates",
            "clip: got -1.0",
            "hyperfl has clients train another network",
            "either noise_multiplier or epsilon",
            "sign:name=noise: name stands in front",
        ):
            assert part in told
        assert not (tmp_path / "run").exists()

    def test_every_defense_of_ours_is_tried_or_refused_with_a_reason(self) -> None:
        refused = {
            one.name
            for name in plugins.names("defenses")
            if name != "none"
            for one in wishes([name])
            if refusal(one.name, one.built())
        }
        assert refused >= {
            "secagg-plus",
            "secure-aggregation",
            "user-dp",
            "dp-ftrl",
            "distributed-dp",
            "hyperfl",
        }
        assert not refused & {
            "dp-sgd",
            "local-dp",
            "clipping",
            "architecture",
            "protocol",
            "soteria",
            "oasis",
        }


class TestOneAfterTheOther:
    def test_one_that_fails_hurts_no_other(self) -> None:
        plain, (first, second, third) = under('soteria:layer="fc9",no-bias,clipping:clip=0.01')
        assert first.seen is None and "fc9" in first.why
        assert second.seen is not None and third.seen is not None
        assert "conv.bias" in third.seen.ran.sights[0].before  # of the try before it nothing is left
        assert plain.sights[0].before.keys() == third.seen.ran.sights[0].before.keys()

    def test_the_apps_own_error_under_a_defense_is_told(self, tmp_path: Path) -> None:
        folder = app(tmp_path, "naming_try_app", client_before="model.bias.sum()")
        _, (one, other) = under("no-bias,clipping", path=folder.path, config="")
        assert one.seen is None and "NoneType" in one.why
        assert other.seen is not None

    def test_what_an_app_keeps_in_its_modules_does_not_leak(self, tmp_path: Path) -> None:
        """Each run finds the app as it was imported."""
        folder = app(tmp_path, "keeping_try_app", server_before="main.calls = getattr(main, 'calls', 0) + 1")
        file = folder.path / "keeping_try_app" / "server_app.py"
        file.write_text(
            "COUNT = []\n" + file.read_text().replace('"accuracy": number / 4', '"accuracy": len(COUNT) / 4')
        )
        file.write_text(file.read_text().replace("model = nn.Linear", "COUNT.append(1); model = nn.Linear"))
        plain, clipped = alone("clipping", path=folder.path, config="")
        assert plain.metrics == clipped.metrics

    def test_side_by_side(self, tmp_path: Path) -> None:
        """The exact attack reads dW / db of a first layer with a bias: without one it has nothing to divide
        by, dropout behind the layer leaves it, and noise drowns it."""
        report = audit_app(
            CNN,
            run_config=ONE_RECORD,
            supernodes=3,
            rounds=1,
            attacks=("cascade:iterations=0",),
            tries=["clipping:clip=0.01", "no-bias", "dp-sgd", 'soteria:layer="fc9"'],
            out=tmp_path / "run",
        )
        rows = {
            one["defense"]: one["recovered"] for one in report.data["attacks"] if one["attack"] == "cascade"
        }
        assert rows == {"none": 3, "clipping": 3, "no-bias": 0, "dp-sgd": 0}
        assert report.data["attacks"][0]["certificates"][-1]["unique"] == 3
        accuracies = {one["defense"]: one["accuracy"] for one in report.data["utility"]}
        assert accuracies.keys() == rows.keys() and None not in accuracies.values()
        told = json.loads((report.directory / "app.json").read_text())["tried"]
        assert [(one["label"], one["status"]) for one in told] == [
            ("clipping", "tried"),
            ("no-bias", "tried"),
            ("dp-sgd", "tried"),
            ("soteria", "failed"),
        ]
        assert {one["where"]["client"] for one in told} == {"pytorch_cnn/client_app.py"}


class TestMistakesThatShowLate:
    def test_no_directory_is_left(self, tmp_path: Path) -> None:
        for options in ({"rounds": 0}, {"observe": (9,)}, {"rounds": 1, "observe": (2,)}):
            with pytest.raises(UsageError):
                audit_app(CNN, out=tmp_path / "run", supernodes=2, **options)  # type: ignore[arg-type]
            assert not (tmp_path / "run").exists()

    def test_not_even_where_only_the_run_shows_it(self, tmp_path: Path) -> None:
        folder = app(tmp_path, "late_mistake_app")
        project = folder.path / "pyproject.toml"
        project.write_text(project.read_text().replace("num-server-rounds", "how-often"))
        server = folder.path / "late_mistake_app" / "server_app.py"
        server.write_text(server.read_text().replace("num-server-rounds", "how-often"))
        own = tmp_path / "own"
        own.mkdir()
        for out in (tmp_path / "run", own):
            with pytest.raises(UsageError, match="then it ended"):
                audit_app(folder.path, out=out, supernodes=2, observe=(9,))
        assert not (tmp_path / "run").exists()
        assert own.is_dir() and not list(own.iterdir())


def test_without_tries_nothing_is_said_of_them(tmp_path: Path) -> None:
    folder = app(tmp_path, "plain_try_app")
    report = audit_app(folder.path, supernodes=2, rounds=1, out=tmp_path / "run")
    assert "tried" not in json.loads((report.directory / "app.json").read_text())
    assert "tries" not in json.loads((report.directory / "manifest.json").read_text())["asked"]
