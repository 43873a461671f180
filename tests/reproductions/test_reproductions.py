"""The reproductions: every variant is a scenario, cells run once, and the page shows what the JSON says."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from fedlab.scenario import load, shipped
from reproductions import document, harness
from reproductions.__main__ import main, shown
from reproductions.fedprox import spread
from reproductions.harness import RESULTS, Result, cached, collect, read, run_cell, study_named
from reproductions.hypernetworks import rounds_to
from reproductions.robustness import FRACTIONS, ROBUST, _many, breakdown
from reproductions.study import Bar, Outcome, Study, Variant, interval, paired

STUDIES = (*document.NAMES, *document.FULL)


@pytest.fixture(autouse=True)
def packages_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario looks up each of its plugins, and there are a hundred scenarios here."""
    monkeypatch.setattr(metadata, "entry_points", functools.cache(metadata.entry_points))


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_is_a_sound_scenario_of_its_own(name: str) -> None:
    study = study_named(name)
    scenarios = {variant: load(study.scenario, study.changes(variant, 1)) for variant in study.variants}
    assert study.name == name and len(study.seeds) >= 3
    assert all(one.seeds == [1] and one.runtime.executor == "inline" for one in scenarios.values())
    told = {(one.model_dump_json(), repr(study.variants[variant].rule)) for variant, one in scenarios.items()}
    assert len(told) == len(scenarios)


@pytest.mark.parametrize("name", STUDIES)
def test_every_scenario_is_headed_by_its_claim(name: str) -> None:
    text = study_named(name).scenario.read_text()
    assert text.startswith("# Claim: ") and load(study_named(name).scenario).claim
    assert study_named(name).scenario.stem not in shipped()


def test_the_page_shows_the_results_as_they_are_on_disk() -> None:
    text = document.PAGE.read_text().split(document.BEGIN)[1].split(document.END)[0]
    assert text.strip() == document.tables().strip(), "run python -m reproductions.document"


def test_every_result_is_of_a_study_and_has_its_variants_and_bars() -> None:
    for path in RESULTS.glob("*.json"):
        result = read(path)
        assert path.stem in STUDIES
        assert [row[0] for row in result.table[1:]] == list(study_named(path.stem).variants)
        assert json.loads(path.read_text())["met"] is all(bar.met for bar in result.bars)


@pytest.mark.parametrize(
    ("bar", "met", "shows"),
    [
        (Bar("a", (0.1, 0.3), at_least=0.2), True, "0.2 (-1.07 to 1.47)"),
        (Bar("a", (0.1, 0.2), at_least=0.2), False, "0.15 (-0.485 to 0.785)"),
        (Bar("a", (0.3,), at_most=0.2), False, "0.3"),
        (Bar("a", (float("nan"),), at_most=0.2), False, "nan"),
        (Bar("a", (7.0,)), True, "7"),
    ],
)
def test_a_bar_is_met_by_the_mean_over_seeds(bar: Bar, met: bool, shows: str) -> None:
    """t(0.975, 1) = 12.706; of 0.1 and 0.3 the standard error is 0.1, hence 0.2 ± 1.27."""
    assert bar.met is met and bar.figure == shows
    assert bar.result == ("" if bar.bound == "" else "met" if met else "MISSED")


def test_an_interval_is_students() -> None:
    """1, 2, 3: mean 2, standard error 1/√3, t(0.975, 2) = 4.303, so 2 ± 2.484."""
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(-0.484, abs=1e-3), pytest.approx(4.484, abs=1e-3))


def test_figures_are_taken_by_hand() -> None:
    found = {"a": [{"x": 3.0}, {"x": 5.0}], "b": [{"x": 1.0}, {"x": 6.0}]}
    assert paired(found, "a", "b", lambda one: one["x"]) == (2.0, -1.0)
    assert rounds_to({"loss": [3.0, 2.0, 1.0]}, 2.0) == 2 and rounds_to({"loss": [3.0]}, 2.0) == 2
    assert spread({"accuracy": [9.0] * 5 + [0.0, 1.0] * 15}) == pytest.approx(math.sqrt(7.5 / 29))
    holds = dict(zip(FRACTIONS, (0.9, 0.9, 0.8, 0.9), strict=True))  # a gap ends it
    runs = {_many(ROBUST[0], fraction): [{"accuracy": value}] for fraction, value in holds.items()}
    assert breakdown(runs, ROBUST[0]) == (0.2,)


def _tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    file = tmp_path / "tiny.toml"
    file.write_text(
        '# Claim: none\nschema = 1\nclaim = "none"\n[task]\ndataset = "digits"\nmodel = "softmax"\n'
        '[clients]\ncount = 2\nlocal_steps = 1\n[strategy]\nrounds = 1\n[runtime]\nexecutor = "inline"\n'
    )

    def measure(outcome: Outcome) -> dict[str, float]:
        return {"accuracy": outcome.metrics["accuracy"], "tensors": len(outcome.state)}

    class Tiny(Study):
        scenario = file  # type: ignore[assignment]

    study = Tiny(
        name="tiny",
        title="Tiny",
        paper="nobody's",
        work="one step",
        variants={"slow": Variant(("clients.learning_rate=0.01",)), "fast": Variant()},
        seeds=(0, 1),
        measure=measure,
        columns={"accuracy": lambda one: one["accuracy"], "nothing": lambda one: float("nan")},
        bars=lambda found: [Bar("tensors", tuple(one["tensors"] for one in found["slow"]), at_least=2.0)],
    )
    monkeypatch.setattr(harness, "study_named", lambda name: study)
    return study


def test_a_cell_is_run_once_and_again_when_its_scenario_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _tiny(tmp_path, monkeypatch)
    for variant in study.variants:
        for seed in study.seeds:
            run_cell("tiny", variant, seed, tmp_path)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == [
        f"{variant}-s{seed}.json" for variant in ("fast", "slow") for seed in (0, 1)
    ]
    result = collect(study, tmp_path)
    assert result.met and result.table[0] == ["", "accuracy", "nothing"] and result.table[1][2] == "–"
    assert read(result.write(tmp_path)) == result
    assert "tensors" in document.section(result) and "Tiny" in shown(result)
    changed = replace(study, variants={"slow": Variant(("clients.learning_rate=0.02",))})
    assert cached(changed, "slow", 0, tmp_path) is None
    with pytest.raises(SystemExit, match="no runs yet of slow"):
        collect(changed, tmp_path)


def test_an_interrupted_cell_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, and in its run directory; the process died before the figures were written."""
    study = _tiny(tmp_path, monkeypatch)
    broken = replace(study, measure=lambda outcome: 1 / 0)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(harness, "study_named", lambda name: broken)
    with pytest.raises(ZeroDivisionError):
        run_cell("tiny", "slow", 0, tmp_path)
    manifest = tmp_path / "tiny" / "slow-s0" / "manifest.json"
    started = json.loads(manifest.read_text())["started"]
    monkeypatch.setattr(harness, "study_named", lambda name: study)
    seen = []
    monkeypatch.setattr(harness.shutil, "rmtree", lambda path, **_: seen.append(path))
    run_cell("tiny", "slow", 0, tmp_path)
    assert json.loads(manifest.read_text())["started"] == started and len(seen) == 1
    assert cached(study, "slow", 0, tmp_path) is not None


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(SystemExit, match="no reproduction fedprx; expected fedprox"):
        main(["fedprx"])


def test_a_study_without_result_says_how_to_get_one(tmp_path: Path) -> None:
    assert document.tables(tmp_path).count("No result yet: run `python -m reproductions ") == len(
        document.NAMES
    )
    Result("fedprox", "A", "b", "c", [0], [["", "x"], ["v", "1"]], [Bar("w", (1.0,))]).write(tmp_path)
    assert "| v | 1 |" in document.tables(tmp_path)
