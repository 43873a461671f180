"""A comparison as a page: curves over each other, differences with intervals, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from fedlab.cli import main
from fedlab.errors import NewerRun, UsageError
from fedlab.report.compare import compare
from fedlab.report.compare_gains import recovered_limits
from fedlab.report.compare_page import render
from fedlab.report.export.comparison import csv_text, sheets


@pytest.fixture
def pair(run_dir: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run and a copy of it, to alter."""
    return run_dir, Path(shutil.copytree(run_dir, tmp_path / "other"))


def alter(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def untrain(run: Path) -> None:
    """Leave of a run what an interruption before its first cell leaves."""
    for name in ("metrics.json", "report.json", "report.html"):
        (run / name).unlink()
    for name in ("attacks", "truth", "privacy"):
        shutil.rmtree(run / name)
    alter(run / "manifest.json", status="interrupted", cells=[])


class Page(HTMLParser):
    """Tags that must not be there, addresses, headings."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]


def test_curves_are_those_of_the_runs(pair: tuple[Path, Path]) -> None:
    data = compare(pair)
    assert {one["defense"] for one in data["curves"]} == {"none", "dp-sgd", "no-first-bias"}
    metrics = json.loads((pair[0] / "metrics.json").read_text())["cells"]
    for row in data["curves"]:
        rounds = metrics[f"{row['defense']}-train-s7"]["rounds"]
        wanted = [{"seed": 7, "points": [[one["round"], one["accuracy"]] for one in rounds]}]
        assert row["runs"] == [wanted, wanted]
    none = next(one for one in data["tradeoff"] if one["defense"] == "none")
    assert [one["attack"] for one in none["runs"]] == ["linear-layer"] * 2 and none["runs"][0]["undefended"]


def test_what_only_one_run_has_is_drawn_alone(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", defenses=("none", "clip"))
    data = compare([run_dir, other])
    only = next(one for one in data["curves"] if one["defense"] == "clip")
    assert only["runs"][0] is None and only["runs"][1]
    assert "clip" in render(data)


def test_the_page_needs_nothing_but_itself(pair: tuple[Path, Path]) -> None:
    alter(pair[1] / "manifest.json", name="<script>alert(1)</script>")
    scenario = pair[1] / "scenario.toml"
    scenario.write_text(scenario.read_text().replace("learning_rate = 0.1", 'learning_rate = "<b>$x$"'))
    hostile = pair[1].rename(pair[1].with_name("<i>other"))
    data = compare([pair[0], hostile])
    text = render(data)
    assert text == render(data)  # the same bytes for the same runs
    page = Page()
    page.feed(text)
    assert not {"script", "i", "b", "iframe", "object", "img"} & set(page.tags)
    assert all(one.startswith(("#", "data:")) for one in page.addresses)
    assert "&lt;b&gt;$x$" in text and "default-src 'none'" in text and "script-src" not in text
    assert page.tags.count("svg") >= 4 and "The runs differ in one key: clients.learning_rate" in text
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    for title in ("Reconstruction", "Images recovered", "Accuracy", "Proved", "Weights"):
        assert f">{title}</h2>" in text


def test_a_difference_of_rates_is_newcombes() -> None:
    # His example (b): 56 of 70 and 48 of 80 with Wilson's limits give 0.0524 to 0.3339 (method 10).
    low, high = recovered_limits(56 / 70, (0.6919, 0.8770), 48 / 80, (0.4904, 0.7004))
    assert low == pytest.approx(0.0524, abs=2e-4) and high == pytest.approx(0.3339, abs=2e-4)


def test_recovered_images_and_areas_have_differences(pair: tuple[Path, Path]) -> None:
    data = compare(pair)
    row = next(one for one in data["attacks"] if one["attack"] == "linear-layer" and one["defense"] == "none")
    found = row["differences"][0]["recovered"]
    # 8 of 8 on both sides: exact limits are 0.025^(1/8) and 1, and only the lower ones have width.
    width = 1 - math.pow(0.025, 1 / 8)
    assert found["mean"] == 0.0 and found["ci95"] == pytest.approx([-width, width])
    (sheet,) = [one for one in sheets(data) if one.title == "Images recovered"]
    assert sheet.rows[0][-1] == "0.0 (-36.9 to 36.9)"
    assert "psnr_difference" in csv_text(data)


def test_a_sweep_is_no_run_to_compare(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sweep = tmp_path / "small-sweep-1"
    sweep.mkdir()
    (sweep / "sweep.json").touch()
    with pytest.raises(UsageError, match="is a sweep; expected runs, such as its cells"):
        compare([pair[0], sweep])


def test_what_is_not_there_is_no_run_to_compare(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="there is no such directory"):
        compare([pair[0], pair[1] / "nowhere"])
    with pytest.raises(UsageError, match="got 1 run; expected 2"):
        compare(pair[:1])


def test_runs_without_a_common_metric_are_refused(pair: tuple[Path, Path]) -> None:
    untrain(pair[1])
    with pytest.raises(UsageError, match="share no metric") as error:
        compare(pair)
    assert str(pair[1]) in str(error.value) and "measured nothing" in str(error.value)
    with pytest.raises(SystemExit) as exit:
        main(["compare", *map(str, pair)])
    assert exit.value.code == 2


def test_a_run_of_a_newer_fedlab_is_refused_by_name(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    alter(pair[1] / "manifest.json", schema=2, cells={"of": "another shape"})
    with pytest.raises(NewerRun, match="schema 2"):
        compare(pair)
    with pytest.raises(SystemExit) as exit:
        main(["compare", *map(str, pair)])
    assert exit.value.code == 3
    told = capsys.readouterr().err
    assert str(pair[1]) in told and "a newer fedlab wrote this run" in told


def test_the_page_is_written_where_it_is_asked_for(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["compare", *map(str, pair), "--format", "html"])
    assert exit.value.code == 2 and "--out" in capsys.readouterr().err
    out = tmp_path / "compared.html"
    with pytest.raises(SystemExit) as exit:
        main(["compare", *map(str, pair), "--format", "html", "--out", str(out)])
    assert exit.value.code == 0 and capsys.readouterr().out == f"{out}\n"
    assert out.read_text().startswith("<!DOCTYPE html>") or "<!DOCTYPE html>" in out.read_text()
