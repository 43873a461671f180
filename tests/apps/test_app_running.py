"""Apps of others on our Grid: what is seen, what is recorded, and what they break or leave behind."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from app_in_folder import app, forgotten, legacy, ran
from flwr.app import Context, Message

from fedlab.apps.contract import Ran, Sight
from fedlab.apps.folder import read
from fedlab.apps.running import run
from fedlab.errors import AppFailed, UnknownName, UsageError


def replayed(found: Ran, sight: Sight) -> list[torch.Tensor]:
    """What SGD makes of the recorded network and batches."""
    recording = found.recordings[sight.round, sight.client]
    assert recording.network is not None and recording.optimizer is not None
    optimizer = torch.optim.SGD(recording.network.parameters(), lr=recording.optimizer.settings["lr"])
    for step in recording.steps:
        optimizer.zero_grad()
        F.cross_entropy(recording.network(step.inputs), step.targets).backward()
        optimizer.step()
    return [one.detach() for one in recording.network.state_dict().values()]


@pytest.mark.parametrize("make", [app, legacy])
def test_what_is_recorded_is_what_was_sent(make: Any, tmp_path: Path) -> None:
    """Recorded network, batches and optimizer reproduce each reply bit for bit, in every round."""
    found = ran(make(tmp_path, f"sent_{make.__name__}"), observe=(1, 2), rounds=2)
    assert (found.rounds, found.failed, found.configuration["num-server-rounds"]) == (2, 0, 2)
    last = [one for one in found.sights if one.round == 2]
    assert [one.client for one in last] == [0, 1, 2] and found.replies == len(found.sights)
    for sight in found.sights:
        assert len(found.recordings[sight.round, sight.client].steps) == 3
        for mine, theirs in zip(replayed(found, sight), sight.after.values(), strict=True):
            assert torch.equal(mine, torch.from_numpy(theirs))
    first = [one for one in found.sights if one.round == 1]
    for name, value in last[0].before.items():
        mean = np.mean([np.asarray(one.after[name], np.float64) for one in first], axis=0)
        assert np.abs(mean - value).max() < 1e-6


def test_messages_of_both_kinds(tmp_path: Path) -> None:
    new, old = ran(app(tmp_path / "a", "kind_new")), ran(legacy(tmp_path / "b", "kind_old"))
    assert list(new.sights[0].before) == ["weight", "bias"] == list(new.sights[0].after)
    assert list(old.sights[0].before) == ["0", "1"] == list(old.sights[0].after)
    assert new.sights[0].told == {"server-round": 1} and new.sights[0].metrics == {"num-examples": 6}
    assert old.sights[0].told == {"epochs": 1}
    assert (old.sights[0].metrics["num_examples"], old.sights[0].metrics["told"]) == (6, 1.5)
    assert {one.round for one in old.sights} == {1} and old.rounds == 2
    assert new.metrics == {0: {"accuracy": 0.0}, 1: {"accuracy": 0.25}, 2: {"accuracy": 0.5}}
    assert old.metrics[2] == {"loss": 0.25}, "the mean of 0, 1/4 and 1/2"


@pytest.mark.parametrize("make", [app, legacy])
def test_the_same_seed_gives_the_same_bits_and_draws_nothing_of_ours(make: Any, tmp_path: Path) -> None:
    """Though the app seeds globally, in clients and in the server."""
    folder = make(tmp_path, f"seeded_{make.__name__}")
    runs = []
    for mine, seed in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(mine)
        random.seed(mine)
        expected = torch.get_rng_state(), random.getstate()
        runs.append(ran(folder, observe=(2,), seed=seed))
        assert torch.equal(torch.get_rng_state(), expected[0]) and random.getstate() == expected[1]
    same, again, other = (one.sights[-1].after for one in runs)
    assert all(np.array_equal(same[name], again[name]) for name in same)
    assert not all(np.array_equal(same[name], other[name]) for name in same)


def test_what_an_app_sets_is_as_before(tmp_path: Path) -> None:
    lines = (
        "import os, sys, random; random.seed(0); torch.manual_seed(0); torch.set_num_threads(7);"
        " os.chdir('/'); os.environ['OF_THE_APP'] = 'x'; sys.path.append('/nowhere');"
        " torch.set_grad_enabled(False)"
    )
    folder = app(
        tmp_path, "setting", server_before=lines, server_after="torch.set_default_dtype(torch.float64)"
    )
    before = os.getcwd(), list(sys.path), torch.get_num_threads(), torch.get_rng_state()
    ran(folder, rounds=1)
    assert (os.getcwd(), sys.path, torch.get_num_threads()) == before[:3] and "OF_THE_APP" not in os.environ
    assert torch.equal(torch.get_rng_state(), before[3])
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled() and "setting.task" not in sys.modules


def test_what_an_app_prints_is_kept_and_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = "import sys; print('from client', partition); sys.stdout.buffer.write(b'10%\\r99%\\n')"
    folder = app(
        tmp_path,
        "printing",
        client_before=lines,
        server_after="print('x' * 5000); [print(i) for i in range(300)]",
    )
    (tmp_path / "printing" / "__init__.py").write_text("print('imported')\n")
    found = ran(folder, rounds=1)
    assert len(found.output) == 200 and found.output[-1] == "299"
    early = ran(app(tmp_path / "b", "early", client_before=lines), rounds=1).output
    assert "from client 0" in early and "99%" in early
    assert capfd.readouterr() == ("", "")


def test_a_client_that_exits_fails_alone(tmp_path: Path) -> None:
    folder = app(tmp_path, "exiting", client_before="partition == 1 and exit(3)")
    found = ran(folder, observe=(1, 2))
    assert found.failed and found.failure.splitlines()[-1] == "SystemExit: 3"
    assert {one.client for one in found.sights} == {0, 2} == {client for _, client in found.recordings}


def test_a_client_without_its_data_has_its_own_traceback(tmp_path: Path) -> None:
    folder = app(tmp_path, "missing", client_before="open('no/such/data.npz')")
    with pytest.raises(
        AppFailed, match=r"training replies failed; the first: FileNotFoundError: .*no/such"
    ) as caught:
        ran(folder)
    lines = caught.value.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and "missing/client_app.py" in lines[1]
    assert "/fedlab/" not in caught.value.traceback


def test_a_server_that_raises_or_exits(tmp_path: Path) -> None:
    raising = app(tmp_path / "a", "raising", server_after="{}['accuracy']")
    with pytest.raises(AppFailed, match=r"ServerApp failed in round 2: KeyError: 'accuracy'") as caught:
        ran(raising)
    assert (
        "server_app.py" in caught.value.traceback.splitlines()[1] and "/fedlab/" not in caught.value.traceback
    )
    with pytest.raises(AppFailed, match="ended the process with code 4 before the first round"):
        ran(app(tmp_path / "b", "leaving", server_before="exit(4)"))
    assert ran(app(tmp_path / "c", "done", server_after="exit()")).rounds == 2
    with pytest.raises(AppFailed, match="without any training reply"):
        ran(app(tmp_path / "d", "idle", server_before="return"))


def test_what_other_keys_than_were_sent_mean_the_apps_strategy_says(tmp_path: Path) -> None:
    """Flower's averages them if all clients agree; in the next round these clients miss a key."""
    after = (
        "arrays = ArrayRecord({'w2': arrays['weight'], 'bias': arrays['bias']}) if partition < %d else arrays"
    )
    with pytest.raises(AppFailed, match="in round 1: InconsistentMessageReplies: All ArrayRecords must have"):
        ran(app(tmp_path / "a", "one_wrong", client_after=after % 1))
    found = ran(app(tmp_path / "b", "all_other", client_after=after % 9), rounds=1)
    assert (found.failed, list(found.sights[0].after)) == (0, ["w2", "bias"])
    later = ran(app(tmp_path / "c", "all_later", client_after=after % 9), rounds=2)
    assert (later.failed, later.replies) == (3, 6)
    assert 'Missing key(s) in state_dict: "weight"' in later.failure


@pytest.mark.parametrize("make", [app, legacy])
def test_nobody_waits_for_clients_that_never_come(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda seconds: None)
    with pytest.raises(UsageError, match=r"1; give more with --num-supernodes"):
        ran(make(tmp_path, f"waiting_{make.__name__}"), supernodes=1)


def test_mods_stand_between_client_and_server(tmp_path: Path) -> None:
    def doubled(message: Message, context: Context, call: Any) -> Message:
        answer = call(message, context)
        answer.content["metrics"]["num-examples"] *= 2
        return answer

    def plus_one(message: Message, context: Context, call: Any) -> Message:
        answer = call(message, context)
        answer.content["metrics"]["num-examples"] += 1
        return answer

    found = ran(app(tmp_path, "behind"), rounds=1, mods=[doubled, plus_one])
    assert found.sights[0].metrics == {"num-examples": 2 * (6 + 1)} and len(found.recordings) == len(
        found.sights
    )


def test_clients_remember(tmp_path: Path) -> None:
    remember = (
        "seen = context.state['seen']['n'] + 1 if 'seen' in context.state else 1;"
        " context.state['seen'] = MetricRecord({'n': seen})"
    )
    tell = "arrays['bias'] = __import__('flwr').app.Array(__import__('numpy').full(3, seen, 'float32'))"
    found = ran(
        app(tmp_path, "remembering", client_before=remember, client_after=tell), observe=(2, 3), rounds=3
    )
    counts = {(one.round, one.client): float(one.after["bias"][0]) for one in found.sights}
    assert all(counts[3, client] == counts[2, client] + 1 for client in range(3))


LOOP = """
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import ServerApp
from loop.task import nn

app = ServerApp()

@app.main()
def main(grid, context):
    arrays = ArrayRecord(nn.Linear(4, 3).state_dict())
    for _ in range(3):
        content, got = RecordDict({"model": arrays}), []
        ids = [
            grid.push_messages([grid.create_message(content, "train", node, "")])[0]
            for node in grid.get_node_ids()
        ]
        while len(got) < len(ids):
            got += grid.pull_messages(ids)
        arrays = got[-1].content["arrays"]
"""


def test_a_server_without_a_strategy(tmp_path: Path) -> None:
    """It pushes and pulls by itself, calls its records as it likes, and heeds no run config."""
    folder = app(tmp_path, "loop", {"server_app": LOOP}, client_before="pass")
    client = tmp_path / "loop" / "client_app.py"
    client.write_text(client.read_text().replace('content["arrays"]', 'content["model"]'))
    found = ran(folder, observe=(2,))
    assert (found.rounds, found.replies, found.failed, found.metrics) == (3, 9, 0, {})
    assert [(one.round, one.client, list(one.after)) for one in found.sights] == [
        (2, client, ["weight", "bias"]) for client in range(3)
    ]
    with pytest.raises(UsageError, match=r"observe round 5; the app trains for 3 rounds \(then it ended\)"):
        ran(folder, observe=(5,), rounds=5)


def test_an_older_server_asks_a_client_for_the_first_model(tmp_path: Path) -> None:
    legacy(tmp_path, "asking")
    client, server = (tmp_path / "asking" / f"{side}_app.py" for side in ("client", "server"))
    own = (
        "def get_parameters(self, config):\n        return [torch.ones(3, 4).numpy(), torch.ones(3).numpy()]"
    )
    client.write_text(client.read_text().replace("def evaluate", f"{own}\n    def evaluate"))
    server.write_text(server.read_text().replace("initial_parameters=ndarrays_to_parameters(initial),", ""))
    found = ran(read(tmp_path))
    assert (found.failed, found.rounds) == (0, 2)
    assert np.array_equal(found.sights[0].before["0"], np.ones((3, 4)))


def test_options(tmp_path: Path) -> None:
    folder = app(tmp_path, "options")
    with forgotten(folder) as apps:
        with pytest.raises(UnknownName, match=r'"lR".*Did you mean "lr"'):
            run(apps, folder, run_config={"lR": 1.0})
        with pytest.raises(
            UsageError, match=r"observe round 3; .* 2 rounds \(its run config says num-server"
        ):
            run(apps, folder, observe=(1, 3))
        with pytest.raises(UsageError, match="observe round 0; rounds are counted from 1"):
            run(apps, folder, observe=(0,))
        with pytest.raises(UsageError, match="rounds = 0"):
            run(apps, folder, rounds=0)
        with pytest.raises(UsageError, match="supernodes = 0"):
            run(apps, folder, supernodes=0)
        found = run(apps, folder, run_config={"lr": 0.0}, rounds=1, supernodes=2)
    assert found.configuration == {"num-server-rounds": 1, "lr": 0.0}
    assert all(np.array_equal(one.before["weight"], one.after["weight"]) for one in found.sights)


def test_training_that_diverged_is_told_from_a_fault(tmp_path: Path) -> None:
    after = "arrays['weight'] = type(arrays['weight'])(arrays['weight'].numpy() * float('nan'))"
    with pytest.raises(AppFailed, match=r"not-finite.*Training diverged"):
        ran(app(tmp_path, "diverged", client_after=after))
