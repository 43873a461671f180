"""Devices, deadlines, over-selection, quorum and the guard, as a scenario turns them on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedlab_defenses.none import NoDefense
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.serverapp.strategy import FedAvg, Strategy

import fedlab
from fedlab.audit import archive
from fedlab.clients import ClientConfig
from fedlab.clients.app import CohortApp
from fedlab.errors import FedlabError, Interrupted, UsageError
from fedlab.experiment.world import worked_through
from tests.experiment import crashes


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def train(out: Path, **changes: Any) -> dict[str, Any]:
    """Metrics of one undefended cell of 4 clients and 5 rounds."""
    base = {"attacks": [], "defenses": [{"name": "none"}], "audit": {"rounds": [1], "victims": 1}}
    fedlab.run(crashes.quick_scenario(**base | changes), out=out)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())["cells"]["none-train-s3"]
    return found


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Clients 0 to 3 take 1, 2, 5 and 9 virtual seconds."""
    path = tmp_path / "trace.csv"
    path.write_text("device,seconds\na,1\nb,2\nc,5\nd,9\n")
    return str(path)


def test_the_slowest_of_the_cohort_sets_the_pace(tmp_path: Path, trace: str) -> None:
    found = train(tmp_path / "x", devices={"trace": trace}, strategy={"rounds": 5, "cohort": 4})
    assert found["virtual_seconds"] == 5 * 9.0 and found["skipped_rounds"] == 0


def test_over_selection_goes_on_with_the_first(tmp_path: Path, trace: str) -> None:
    strategy = {"rounds": 5, "cohort": 2, "over_selection": 2.0}
    found = train(tmp_path / "x", devices={"trace": trace}, strategy=strategy)
    assert found["virtual_seconds"] == 5 * 2.0
    assert (found["asked"], found["late"], found["stopped"]) == (20, 0, 10)
    assert found["never_contributed"] == [2, 3]
    told = events(tmp_path / "x", "clients stopped")
    assert [(one["round"], one["count"], one["clients"]) for one in told] == [
        (round, 2, [2, 3]) for round in range(1, 6)
    ]


def test_a_deadline_cuts_the_stragglers_off(tmp_path: Path, trace: str) -> None:
    strategy = {"rounds": 5, "cohort": 4, "deadline": 6.0}
    found = train(tmp_path / "x", devices={"trace": trace}, strategy=strategy)
    assert found["virtual_seconds"] == 5 * 6.0
    assert found["skipped_rounds"] == 0 and found["failures"] == 0
    assert (found["asked"], found["late"], found["stopped"]) == (20, 5, 0)
    assert found["never_contributed"] == [3]
    told = events(tmp_path / "x", "clients late")
    assert [(one["round"], one["count"], one["clients"]) for one in told] == [
        (round, 1, [3]) for round in range(1, 6)
    ]
    limits = json.loads((tmp_path / "x/report.json").read_text())["limits"]
    assert any("came too late (none: 5 of 20)" in one for one in limits)
    assert any("never contributed" in one and "(none: client 3)" in one for one in limits)


def test_where_all_are_late_no_reason_is_promised(tmp_path: Path) -> None:
    strategy = {"rounds": 2, "cohort": 3, "deadline": 0.5}  # of the second that a device takes
    with pytest.raises(FedlabError, match="6 of 6 updates came too late; raise") as caught:
        train(tmp_path / "x", strategy=strategy)
    assert "events.jsonl" not in str(caught.value)
    assert [one["reason"] for one in events(tmp_path / "x", "skipped round")] == ["3 late"] * 2
    (failed,) = events(tmp_path / "x", "failed")
    assert failed["kind"] == "FedlabError" and "6 of 6 updates" in failed["error"]


def test_counts_of_late_clients_are_those_of_a_run_that_was_left_alone(tmp_path: Path, trace: str) -> None:
    base = {"attacks": [], "defenses": [{"name": "none"}], "audit": {"rounds": [1], "victims": 1}}
    strategy = {"rounds": 5, "cohort": 3, "deadline": 4.0}
    scenario = crashes.quick_scenario(**base, devices={"trace": trace}, strategy=strategy)

    def act(what: str, done: int) -> None:
        if what.startswith("train") and done == 2:
            signal.raise_signal(signal.SIGINT)

    fedlab.run(scenario, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fedlab.run(scenario, out=tmp_path / "cut", progress=crashes.Steps(act))
    assert len(events(tmp_path / "cut", "interrupted")) == 1
    fedlab.resume(tmp_path / "cut")
    whole, cut = (json.loads((tmp_path / one / "metrics.json").read_text()) for one in ("whole", "cut"))
    assert whole == cut and whole["cells"]["none-train-s3"]["late"] > 0


def test_valid_updates_of_a_round_without_a_quorum_are_observed_and_attacked(
    tmp_path: Path, trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 1 is given up: the server holds three valid updates (and a failure) all the same."""
    fails_in(monkeypatch, {1}, {3})
    strategy = {"rounds": 2, "cohort": 4, "quorum": 4}
    audit = {"rounds": [1], "victims": 1}
    attacks = [{"name": "linear-layer"}]
    found = train(tmp_path / "x", strategy=strategy, audit=audit, attacks=attacks)
    assert found["skipped_rounds"] == 1 and found["rejected"] == {"quorum": 3}
    seen = archive.load(tmp_path / "x/observations/none-train-s3")
    assert [(one.round, one.client) for one in seen] == [(1, 0), (1, 1), (1, 2)]
    scores = json.loads((tmp_path / "x/attacks/none-train-s3/linear-layer.json").read_text())
    assert len(scores["victims"]) == 1 and not scores["failed"]
    (skipped,) = events(tmp_path / "x", "skipped round")
    assert skipped["round"] == 1 and skipped["reason"] == "1 failed, 3 rejected (3 quorum)"


@pytest.mark.parametrize("guard", [True, False])
def test_rounds_below_the_quorum_leave_the_model_and_a_run_of_them_fails(
    tmp_path: Path, trace: str, guard: bool
) -> None:
    strategy = {"rounds": 5, "cohort": 4, "deadline": 6.0, "quorum": 4}
    with pytest.raises(FedlabError, match="not one of the first 5 rounds had enough usable updates"):
        train(tmp_path / "x", devices={"trace": trace}, strategy=strategy, guard={"enabled": guard})


def test_time_spent_per_record(tmp_path: Path) -> None:
    # Everybody takes 1 s and 0.5 s for each of 2 records of one step.
    devices = {"time": {"name": "constant", "seconds": 1.0}, "per_example": 0.5}
    assert train(tmp_path / "x", devices=devices)["virtual_seconds"] == 5 * 2.0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ClientConfig(batch_size=4, local_epochs=3), 30),
        (ClientConfig(batch_size=4, local_steps=5), 20),
        (ClientConfig(batch_size=0, local_steps=5), 50),
        (ClientConfig(batch_size=16, local_steps=2), 20),
        (ClientConfig(batch_size=4, local_epochs=1, sampling="poisson"), 12),  # 3 steps of 4
    ],
)
def test_records_that_ten_are_worked_through(config: ClientConfig, expected: int) -> None:
    assert worked_through(10, config) == expected


def fails_in(monkeypatch: pytest.MonkeyPatch, rounds: set[int], clients: set[int] | None = None) -> None:
    """Let these clients, or every one, fail in these rounds."""
    real = CohortApp.run_cohort

    def run_cohort(self: CohortApp, messages: Any, contexts: Any) -> list[Message]:
        if int(str(messages[0].content["config"]["server-round"])) in rounds:
            if clients is None:
                raise ZeroDivisionError("no luck")
            return [
                Message(Error(2, "no luck"), reply_to=message)
                if message.metadata.dst_node_id - 2 in clients
                else reply
                for message, reply in zip(messages, real(self, messages, contexts), strict=True)
            ]
        return real(self, messages, contexts)

    monkeypatch.setattr(CohortApp, "run_cohort", run_cohort)


def test_a_round_in_which_all_fail_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_in(monkeypatch, {1, 2, 4})
    found = train(tmp_path / "x")
    assert found["skipped_rounds"] == 3 and found["failures"] == 3 * 3


def test_a_run_in_which_all_fail_from_the_start_ends_after_three_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_in(monkeypatch, {1, 2, 3})
    with pytest.raises(
        FedlabError,
        match=r"first 3 rounds .*client \d failed first.*: no luck\n.*events.jsonl",
    ):
        train(tmp_path / "x")
    assert len(events(tmp_path / "x", "skipped round")) == 3


def test_divergence_after_good_rounds_is_told_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CohortApp.run_cohort

    def run_cohort(self: CohortApp, messages: Any, contexts: Any) -> list[Message]:
        replies = real(self, messages, contexts)
        if int(str(messages[0].content["config"]["server-round"])) >= 3:
            for reply in replies:
                arrays = reply.content.array_records["arrays"]
                name = next(iter(arrays))
                arrays[name] = Array(np.full_like(arrays[name].numpy(), np.nan))
        return replies

    monkeypatch.setattr(CohortApp, "run_cohort", run_cohort)
    found = train(tmp_path / "x")
    assert found["skipped_rounds"] == 3 and found["rejected"] == {"not-finite": 9}
    assert found["never_contributed"] == []
    limits = json.loads((tmp_path / "x/report.json").read_text())["limits"]
    (text,) = (one for one in limits if "brought nothing" in one)
    assert text.startswith("3 of 5 rounds") and "training probably diverged" in text
    skipped = events(tmp_path / "x", "skipped round")
    assert [one["reason"] for one in skipped] == ["3 rejected (3 not-finite)"] * 3


def test_updates_that_are_turned_away_are_counted_by_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CohortApp.run_cohort

    def run_cohort(self: CohortApp, messages: Any, contexts: Any) -> list[Message]:
        replies = real(self, messages, contexts)
        for reply in replies:
            if int(reply.metadata.src_node_id) == messages[0].metadata.dst_node_id:
                arrays = reply.content["arrays"]
                assert isinstance(arrays, ArrayRecord)
                del arrays[next(iter(arrays))]
        return replies

    monkeypatch.setattr(CohortApp, "run_cohort", run_cohort)
    out = tmp_path / "x"
    found = train(out, runtime={"executor": "inline", "chunk": 3})
    assert found["rejected"] == {"keys": 5} and found["skipped_rounds"] == 0  # the first of each chunk
    told = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [one["round"] for one in told if one["event"] == "update rejected"] == [1, 2, 3, 4, 5]


def test_flowers_own_strategy_gives_the_same_bits_each_time_and_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flowers(self: NoDefense, inner: Strategy) -> Strategy:
        return FedAvg(fraction_train=0.75, fraction_evaluate=0.0)

    monkeypatch.setattr(NoDefense, "strategy", flowers)
    changes = {"attacks": [], "defenses": [{"name": "none"}]}
    scenario = crashes.quick_scenario(**changes)
    fedlab.run(scenario, out=tmp_path / "one")
    fedlab.run(scenario, out=tmp_path / "two")
    assert crashes.result(tmp_path / "one") == crashes.result(tmp_path / "two")

    class Stopper(crashes.Steps):
        def advance(self, job: str, done: int, note: str = "") -> None:
            if done == 3:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fedlab.run(scenario, out=tmp_path / "three", progress=Stopper())
    fedlab.resume(tmp_path / "three")
    assert crashes.result(tmp_path / "three") == crashes.result(tmp_path / "one")


def test_a_strategy_that_does_not_know_what_is_asked_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedlab import plugins

    real = plugins.load

    def old(*, aggregator: Any, optimizer: Any, cohort: int, seed: int, parameters: Any) -> Strategy:
        return FedAvg()

    monkeypatch.setattr(plugins, "load", lambda kind, name: old if kind == "strategies" else real(kind, name))
    with pytest.raises(UsageError, match="the strategy fedavg has no over_selection; leave it out"):
        train(tmp_path / "own", strategy={"rounds": 2, "cohort": 2, "over_selection": 1.5})
    monkeypatch.setattr(plugins, "provider", lambda kind, name: "somebody else's")  # not tried beforehand
    with pytest.raises(UsageError, match=r"'fedavg' .*cannot be called with .*unexpected keyword.*over_sel"):
        train(tmp_path / "x", strategy={"rounds": 2, "cohort": 2, "over_selection": 1.5})
