"""The audit adds attacks that know a defense, and attackers who do not, where there is something to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.errors import DataError
from fedlab.experiment.asked import attack_entry, threat_entries
from fedlab.experiment.pairing import facing, paired
from fedlab.experiment.setup import set_up
from fedlab.experiment.trials import trials_of
from fedlab.report import build
from fedlab.scenario import Scenario, load


def scenario(**sections: Any) -> dict[str, Any]:
    tables: dict[str, Any] = {
        "schema": 1,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8}},
        "clients": {"count": 2, "batch_size": 1, "local_steps": 1, "mode": "eval"},
        "strategy": {"rounds": 1},
        "runtime": {"executor": "inline"},
        "audit": {"victims": 1},
        "attacks": [{"name": "inverting-gradients", "iterations": 2}, {"name": "layer-peel"}],
        "defenses": [{"name": "none"}, {"name": "clipping"}, {"name": "gradient-pruning", "label": "pruned"}],
    }
    return tables | sections


def added(**sections: Any) -> list[tuple[str, str]]:
    return [(one.label, one.under) for one in trials_of(set_up(load(scenario(**sections)))) if one.added]


def test_what_is_added_and_when_it_is_not() -> None:
    assert added() == [("cascade", ""), ("inverting-gradients", "unaware")]  # layer peel refuses the same
    assert added(audit={"victims": 1, "adaptive": False}) == []
    assert added(threat={"defense": False}) == []
    assert added(attacks=[]) == []
    assert added(defenses=[{"name": "none"}]) == [("inverting-gradients", "unaware")]  # and meant for no cell
    mine = [{"name": "cascade", "iterations": 5, "label": "mine"}]
    assert added(attacks=mine) == [("mine", "unaware")]
    taken = [{"name": "layer-peel", "label": "cascade"}]
    assert added(attacks=taken) == [("cascade-adaptive", "")]
    own = [{"label": "unaware", "defense": False}]
    assert added(threats=own) == [("cascade", "")]


def test_the_unaware_attacker_is_the_runs_own_but_for_that() -> None:
    base: Scenario = load(scenario(threat={"labels": True}))
    threat = facing(base, "unaware").threat
    assert threat == base.threat.model_copy(update={"defense": False})
    assert facing(base, "") == base.facing("")


def test_what_is_asked_of_a_finished_run_keeps_clear_of_what_was_added() -> None:
    base = load(scenario())
    found = paired(base, set_up(base).defenses)
    assert found == {"cascade": "cascade"}
    assert attack_entry("cascade", base, found) == {"name": "cascade", "label": "cascade"}
    assert attack_entry("cascade:iterations=3", base, found)["label"] == "cascade-iterations-3"
    assert threat_entries("unaware", base) == [{"label": "unaware", "defense": False}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paired") / "run"
    fedlab.run(
        scenario(
            defenses=[{"name": "none"}, {"name": "gradient-pruning", "label": "pruned"}],
            attacks=[{"name": "inverting-gradients", "iterations": 2}, {"name": "cascade", "iterations": 0}],
        ),
        out=out,
    )
    return out


def answers(run: Path, cell: str) -> dict[str, dict[str, Any]]:
    folder = run / "attacks" / cell
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_files_say_whether_the_attack_knew(run: Path) -> None:
    plain, pruned = answers(run, "none-eval-s0"), answers(run, "pruned-eval-s0")
    assert list(plain) == ["cascade", "inverting-gradients"]
    assert list(pruned) == [
        "cascade",
        "cascade@unaware",
        "inverting-gradients",
        "inverting-gradients@unaware",
    ]
    assert {one["adaptive"] for one in plain.values()} == {False}
    assert [one["adaptive"] for one in pruned.values()] == [True, False, True, False]
    assert [one["threat"]["defense"] for one in pruned.values()] == [True, False, True, False]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["paired"] == {"pruned-eval-s0": ["inverting-gradients@unaware", "cascade@unaware"]}


def test_a_report_without_what_was_added_is_not_complete(run: Path) -> None:
    path = run / "attacks" / "pruned-eval-s0" / "cascade@unaware.json"
    kept = path.read_text()
    path.unlink()
    try:
        with pytest.raises(DataError, match=r"cascade@unaware\.json is missing"):
            build(run)
    finally:
        path.write_text(kept)
    build(run)


def test_asking_for_it_again_finds_it_done(run: Path) -> None:
    path = run / "attacks" / "pruned-eval-s0" / "cascade@unaware.json"
    before = path.stat().st_mtime_ns
    fedlab.attack(run, attacks=["cascade:iterations=0"], threats=["unaware"])
    assert path.stat().st_mtime_ns == before
    assert "cascade@unaware" in answers(run, "none-eval-s0")
