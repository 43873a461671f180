"""`fedlab sweep --dry-run`: what each cell and all of them would take, before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedlab.cli import main
from fedlab.errors import DataError, UsageError
from fedlab.experiment.forecast import Attacks, Forecast, Load, Memory, Seconds
from fedlab.experiment.spending import Spending
from fedlab.scenario import Scenario
from fedlab.sweeps import forecast as module
from fedlab.sweeps import sweep
from fedlab.sweeps.forecast import forecast
from fedlab.sweeps.room import Room
from tests.sweeps.conftest import tables

LOADING = 4.0
AXES = {"strategy.rounds": [2, 3], "seed": [1, 2]}


def figures(scenario: Scenario) -> Forecast:
    """A second for each round of training, half of one for attacks, ε of the number of rounds."""
    rounds, seed = scenario.strategy.rounds, scenario.seeds[0]
    return Forecast(
        name=scenario.name,
        clients=4,
        cohorts=(4,),
        records=(9, 10, 11),
        models=(Load(f"none-train-s{seed}", rounds, 4 * rounds),),
        attacks=Attacks(("linear-layer",), 2, 1, 2),
        points=1,
        memory=Memory(1000, 1, 10**6 * rounds, 1),
        observations=3000,
        limit=10**6,
        weights=1000,
        seconds=Seconds(float(rounds), 0.5, ("the report",)),
        private=(Spending("dp-sgd", "", float(rounds), 1e-5, "record", "RDP", 0, rounds, True),),
    )


def tried(scenario: Scenario) -> Forecast:
    """What `figures` says; batch size 8 is refused, 3 cannot be tried."""
    if scenario.clients.batch_size == 8:
        raise DataError("digits are not here\nfetch them")
    found = figures(scenario)
    if scenario.clients.batch_size == 3:
        return replace(found, seconds=Seconds(None, None, ("several tasks",)))
    return found


@pytest.fixture(autouse=True)
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "forecast_run", tried)
    monkeypatch.setattr(module, "_loading", lambda: LOADING)
    monkeypatch.setattr(module, "machine", lambda: Room(2))


def test_what_it_comes_to() -> None:
    found = forecast(tables(sweep=AXES))
    assert [one.seconds for one in found.cells] == [2.5, 2.5, 3.5, 3.5]
    # Two at a time: both of 2.5 s, then both of 3.5 s, each after it is loaded.
    assert (found.at_once, found.wall) == (2, (4.0 + 2.5) + (4.0 + 3.5))
    assert found.memory == 2 * 3 * 10**6  # the two largest at the same time
    alone = forecast(tables(sweep=AXES), workers=1)
    assert (alone.at_once, alone.wall, alone.memory) == (1, 4 * 4.0 + 12.0, 3 * 10**6)


def test_a_cell_that_cannot_be_tried_leaves_the_whole_unknown() -> None:
    found = forecast(tables(sweep={"clients.batch_size": [1, 3]}))
    assert [one.seconds for one in found.cells] == [2.5, None]
    assert found.wall is None and found.to_dict()["wall"] is None


@pytest.mark.usefixtures("fake")
def test_cells_that_are_finished_take_nothing(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": [1, 2]}), out=out)
    before = sorted(tmp_path.rglob("*"))
    found = forecast(tables(sweep={"seed": [1, 2, 3]}), out=out)
    assert ([one.name for one in found.cells], found.finished) == (["seed-3"], 2)
    assert forecast(tables(sweep={"seed": [1, 2]}), out=out).wall == 0.0
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(UsageError, match="holds another sweep"):
        forecast(tables(sweep={"seed": [3]}), out=out)


def test_what_a_process_loads_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(module, "LOADED", "sum(range(3_000_000))")
    assert module._loading() > 0.0


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """said(axes, *words) -> exit code, stdout, stderr of `fedlab sweep tiny.toml --dry-run`."""
    monkeypatch.chdir(tmp_path)

    def call(axes: dict[str, Any], *words: str) -> tuple[int, str, str]:
        Path("tiny.toml").write_text(tomli_w.dumps(tables(sweep=axes)))
        with pytest.raises(SystemExit) as exit:
            main(["sweep", "tiny.toml", "--dry-run", *words])
        told = capsys.readouterr()
        assert [one.name for one in tmp_path.iterdir()] == ["tiny.toml"]
        return int(str(exit.value.code)), told.out, told.err

    return call


def test_what_all_cells_share_is_told_once(said: Any) -> None:
    code, out, err = said(AXES)
    assert code == 0 and "nothing was started" in err
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert ["cell", "rounds", "messages", "time", "ε", "dp-sgd"] in rows
    assert ["rounds-3__seed-2", "3", "12", "8", "s", "3.00"] in rows
    assert sum(line.startswith("clients") for line in out.splitlines()) == 1
    assert ["models", "1"] in rows  # their names differ by seed, their number does not
    assert ["work", *"4 models, 40 training messages, 8 answers of attacks".split()] in rows
    assert "4 cells to run, 2 at a time" in out and "about 14 s until all have ended, 28 s one after" in out
    assert "dp-sgd: at δ = 0.00001" in out and "at most 6 MB at a time" in out


def test_epsilon_is_told_once_where_it_is_the_same(said: Any) -> None:
    _, out, _ = said({"seed": [1, 2]})
    assert out.count("ε") == 1 and "dp-sgd: 2.00 at δ = 0.00001" in out


def test_what_would_be_refused_is_told_beside_what_would_not(said: Any) -> None:
    code, out, err = said({"clients.batch_size": [1, 8]})
    assert code == 1 and "batch_size-8  refused" in out
    assert "1 of 2 cells would be refused:\n  batch_size-8: digits are not here\nThe others would run" in err
    code, _, err = said({"clients.batch_size": [8], "seed": [1, 2]})
    assert code == 3 and "error: digits are not here\nfetch them" in err
    code, out, err = said({"clients.batchsize": [1, 8]})
    assert code == 2 and out == "" and 'Did you mean "batch_size"?' in err


def test_json_has_all_of_it(said: Any) -> None:
    import json

    code, out, _ = said({"clients.batch_size": [1, 8]}, "--json", "--quiet")
    told = json.loads(out)
    assert code == 1 and [one["refused"] for one in told["cells"]] == [
        None,
        "digits are not here\nfetch them",
    ]
    assert told["cells"][0]["forecast"]["messages"] == 8 and told["wall"] == LOADING + 2.5
