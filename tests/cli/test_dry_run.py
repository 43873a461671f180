"""`fedlab run --dry-run`: what it counts is what a run does, and the ε is that of the run's own ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedlab import experiment
from fedlab.experiment.forecast import forecast
from fedlab.experiment.pace import _extrapolated

TINY: dict[str, Any] = {
    "schema": 1,
    "name": "tiny",
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8}},
    "clients": {"count": 6, "batch_size": 4, "local_steps": 2},
    "strategy": {"rounds": 5, "cohort": 3},
    "runtime": {"executor": "inline"},
    "audit": {"rounds": [1, 2], "victims": 2},
    "attacks": [{"name": "linear-layer"}],
    "defenses": [
        {"name": "none"},
        {"name": "dp-sgd", "noise_multiplier": 2.0},
        {"name": "user-dp", "noise_multiplier": 3.0},
    ],
}


def test_it_counts_what_the_scenario_decides() -> None:
    found = forecast(TINY)
    assert [one.cell for one in found.models] == ["none-train-s0", "dp-sgd-train-s0", "user-dp-train-s0"]
    assert [one.messages for one in found.models] == [15, 15, 15] and found.messages == 45
    assert found.clients == 6 and found.cohorts == (3,)
    assert found.attacks.victims == 2 and found.attacks.answers == 2 * found.attacks.trials
    assert found.memory.workers == 1 and found.memory.model == 4 * (64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10)
    # Two rounds of three updates and one model each, in each of three cells, four bytes a value.
    assert found.observations == 3 * 2 * (3 + 1) * found.memory.model
    assert found.weights == 3 * found.memory.model
    assert found.seconds.training is not None and found.seconds.training > 0.0
    assert found.seconds.attacks is not None and "linear-layer" not in found.seconds.uncounted


def test_the_epsilon_is_what_the_run_ends_with(tmp_path: Path) -> None:
    found = {one.defense: one for one in forecast(TINY).private}
    experiment.run({**TINY, "attacks": []}, out=tmp_path)
    assert set(found) == {"dp-sgd", "user-dp"} and all(one.exact for one in found.values())
    for name, one in found.items():  # as accounted; whether noise looks as it should is found out in the run
        spent = json.loads((tmp_path / "privacy" / f"{name}-train-s0.json").read_text())
        assert one.epsilon == pytest.approx(max(spent["per_client"].values()), rel=1e-9)
        assert spent["participations"][str(one.client)] == one.rounds


def test_an_asynchronous_server_counts_everybody_in_each_round() -> None:
    strategy = {"name": "fedbuff", "rounds": 3, "cohort": 2, "options": {"concurrency": 4}}
    (one,) = forecast(
        {**TINY, "strategy": strategy, "attacks": [], "defenses": TINY["defenses"][1:2]}
    ).private
    assert not one.exact and one.rounds == 3


@pytest.mark.parametrize(
    ("reports", "seconds"),
    [([(1.0, 0.25)], 4.0), ([(1.0, 0.2), (2.0, 0.4)], 5.0), ([(3.0, 0.0), (4.0, 0.5)], 5.0)],
)
def test_the_whole_is_extrapolated_from_its_beginning(
    reports: list[tuple[float, float]], seconds: float
) -> None:
    assert _extrapolated(reports) == pytest.approx(seconds)


def test_the_command_tells_it_and_starts_nothing(
    fedlab: Any, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = fedlab("run", scenario, "--dry-run", "--set", "runtime.executor=inline")
    assert answer.code == 0 and "nothing was started" in answer.err
    for word in ("1 model to train: none-train-s0", "100 training messages", "not counted: the report", "ε"):
        assert word in answer.out
    assert list(tmp_path.iterdir()) == [scenario]
    told = fedlab("run", scenario, "--dry-run", "--json", "--set", "runtime.executor=inline").json
    assert told["messages"] == 100 and told["private"] == []
    assert fedlab("run", scenario, "--dry-run", "--set", "privacy.budget=1").code == 2
