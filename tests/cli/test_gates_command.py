"""`--fail-on`, `--format` and `fedlab compare`, on two small runs that were really trained."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlab.cli import main

SCENARIO = """
schema = 1
name = "gated"
seeds = [1, 2]
[task]
dataset = "digits"
model = { name = "mlp", width = 8 }
[clients]
count = 3
batch_size = 1
local_steps = 1
[strategy]
rounds = 1
[runtime]
executor = "inline"
[audit]
victims = 3
adaptive = false
fail_on = ["attack.linear-layer.psnr_median < 0"]
[[attacks]]
name = "linear-layer"
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that differ in one key; read only."""
    folder = tmp_path_factory.mktemp("gated")
    (folder / "gated.toml").write_text(SCENARIO)
    changed = ("--set", "clients.learning_rate=0.05", "--fail-on", "utility.accuracy > 0.99")
    for name, more in (("one", ()), ("two", changed)):
        with pytest.raises(SystemExit) as exit:
            main(["run", str(folder / "gated.toml"), "-q", "--out", str(folder / name), *more])
        assert exit.value.code == 0
    return folder / "one", folder / "two"


@pytest.fixture
def copied(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[0], tmp_path / "run"))


def test_gates_of_scenario_and_command_are_kept_with_the_run(runs: tuple[Path, Path]) -> None:
    first, second = (json.loads((run / "report.json").read_text()) for run in runs)
    own = ["attack.linear-layer.psnr_median < 0"]
    assert [one["expression"] for one in first["gates"]] == own
    assert [one["expression"] for one in second["gates"]] == [*own, "utility.accuracy > 0.99"]
    assert [one["source"] for one in second["gates"]] == ["scenario", "scenario"]
    assert second["run"]["command"].endswith("--fail-on 'utility.accuracy > 0.99'")
    assert "accuracy > 0.99" in (runs[1] / "scenario.toml").read_text()


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        ("attack.linear-layer.psnr_median > 20", 4),  # one record per step: it finds them all
        ("attack.linear-layer[seed=2].fraction_recovered < 1", 0),
        ("privacy.epsilon > 100", 4),  # there is no guarantee at all
        ("privacy.epsilon_hat > 100", 4),  # nobody measured it
        ("attack.liner-layer.psnr_median > 20", 2),
        ("attack.linear-layer.psnr > 20", 2),
        ("attack.linear-layer", 2),
    ],
)
def test_the_exit_code_is_the_verdict(fedlab: Callable[..., Any], copied: Path, gate: str, code: int) -> None:
    answer = fedlab("report", copied, "--fail-on", gate)
    assert answer.code == code
    if code == 2:
        assert answer.out == "" and "^" in answer.err
        assert "expected" in answer.err or "Did you mean" in answer.err
        return
    data = json.loads((copied / "report.json").read_text())
    found = data["gates"][-1]
    assert found["source"] == "command" and found["passed"] is (code == 0)
    (line,) = [line for line in answer.out.splitlines() if found["expression"] in line]
    assert line.split()[0] == found["verdict"]
    assert ("error: 1 of 2 gates failed" in answer.err) is (code == 4)
    assert answer.out.splitlines()[-1] == str(copied / "report.html")


def test_of_several_gates_one_that_fails_is_enough(fedlab: Callable[..., Any], copied: Path) -> None:
    gates = ("--fail-on", "utility.accuracy < 0", "--fail-on", "attack.*.psnr_max > 20")
    answer = fedlab("report", copied, *gates, "--json")
    assert answer.code == 4
    assert [one["verdict"] for one in answer.json["report"]["gates"]] == ["passed", "passed", "failed"]
    assert fedlab("report", copied).code == 0  # those of the command line are not kept


def test_a_run_that_is_gated_later_keeps_its_exit_code(fedlab: Callable[..., Any], copied: Path) -> None:
    data = json.loads((copied / "report.json").read_text())
    data["gates"][0] |= {"passed": False, "verdict": "failed"}
    (copied / "report.json").write_text(json.dumps(data))
    assert fedlab("resume", copied).code == 4


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("attack.cascade.psnr_max > 3", 'there is no attack "cascade"'),
        ("utility[defense=dp-sgd].accuracy < 1", "There is: none"),
        ("utility[seed=3].accuracy < 1", "There is: 1, 2"),
        ("utility[mode=eval].accuracy < 1", "There is: train"),
        ("attack.linear-layer[threat=oracle].psnr_max > 3", 'There is: ""'),
        ("utility.acuracy < 1", 'Did you mean "accuracy"'),
    ],
)
def test_a_gate_that_names_nothing_stops_before_the_run(
    fedlab: Callable[..., Any], runs: tuple[Path, Path], fake_run: Any, gate: str, told: str
) -> None:
    file = runs[0].parent / "gated.toml"
    answer = fedlab("run", file, "--fail-on", gate)
    assert answer.code == 2 and told in answer.err and "^" in answer.err
    # In the file it is a mistake like any other, with its line.
    answer = fedlab("validate", file, "--set", f"audit.fail_on=['utility.loss > 9', '{gate}']")
    assert answer.code == 2 and told in answer.err and "audit.fail_on.1" in answer.err
    assert not fake_run.calls


def test_a_scenario_may_have_one_gate_without_a_list(
    fedlab: Callable[..., Any], runs: tuple[Path, Path]
) -> None:
    file = runs[0].parent / "gated.toml"
    answer = fedlab("validate", file, "--resolved", "--set", "audit.fail_on=utility.accuracy < 0.5")
    assert answer.code == 0 and '"utility.accuracy < 0.5"' in answer.out
    answer = fedlab("validate", file, "--set", "audit.fail_on=utility.accuracy")
    assert answer.code == 2 and "audit.fail_on" in answer.err


def test_formats_go_to_stdout_alone_or_to_a_file(
    fedlab: Callable[..., Any], copied: Path, tmp_path: Path
) -> None:
    markdown = fedlab("report", copied, "--format", "md")
    assert markdown.code == 0 and markdown.out.startswith("# Privacy audit: gated\n") and markdown.err == ""
    table = fedlab("report", copied, "--format", "csv", "--table", "utility")
    (line,) = csv.DictReader(io.StringIO(table.out, newline=""))
    assert line["defense"] == "none" and line["seeds"] == "1; 2"
    assert fedlab("report", copied, "--format", "json").json == json.loads(
        (copied / "report.json").read_text()
    )
    there = tmp_path / "new" / "report.md"
    answer = fedlab("report", copied, "--format", "md", "--out", there, "--fail-on", "privacy.epsilon > 1")
    assert (answer.code, answer.out) == (4, f"{there}\n") and "privacy.epsilon" in there.read_text()
    page = tmp_path / "page.html"
    assert fedlab("report", copied, "--out", page).out == f"{page}\n"
    assert page.read_bytes() == (copied / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--format", "pdf"), "html"),
        (("--format", "csv", "--table", "utilty"), 'Did you mean "utility"'),
        (("--table", "utility"), "--format csv"),
        (("--format", "md", "--json"), "leave it out"),
    ],
)
def test_options_that_do_not_go_together(
    fedlab: Callable[..., Any], runs: tuple[Path, Path], options: tuple[str, ...], told: str
) -> None:
    answer = fedlab("report", runs[0], *options)
    assert answer.code == 2 and answer.out == "" and told in answer.err


def test_two_runs_side_by_side(fedlab: Callable[..., Any], runs: tuple[Path, Path]) -> None:
    data = fedlab("compare", *runs, "--json").json
    assert data["settings"] == [{"key": "clients.learning_rate", "values": [0.1, 0.05]}]
    (attack,) = data["attacks"]
    (gain,) = attack["differences"]
    # Both find every record, beyond what an eye can tell: in pairs there is no difference at all.
    assert (gain["mean"], gain["ci95"], gain["paired"], gain["victims"]) == (0.0, [0.0, 0.0], True, 6)
    assert [one["recovered"] for one in attack["runs"]] == [6, 6]
    assert [one["equal"] for one in data["weights"]] == [False, False]
    (utility,) = data["utility"]
    assert utility["differences"][0]["seeds"] == 2 and utility["runs"][0]["sent"] > 0
    shown = fedlab("compare", *runs).out
    assert "clients.learning_rate" in shown and "none, seed 1" in shown
    assert fedlab("compare", *runs, "--format", "md").out.startswith("# Runs side by side\n")
    assert fedlab("compare", *runs, "--format", "csv").out.startswith("attack,threat_label,")


def test_a_comparison_needs_two_runs(
    fedlab: Callable[..., Any], runs: tuple[Path, Path], tmp_path: Path
) -> None:
    answer = fedlab("compare", runs[0])
    assert answer.code == 2 and "expected 2 to 26" in answer.err
    answer = fedlab("compare", runs[0], tmp_path)
    assert answer.code == 3 and "no manifest.json" in answer.err
    assert fedlab("compare", *runs, "--out", tmp_path / "x").code == 2
    out = tmp_path / "x.json"
    assert fedlab("compare", *runs, "--json", "--out", out).out == f"{out}\n"
    assert json.loads(out.read_text())["runs"][0]["letter"] == "A"
