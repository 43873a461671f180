"""The report of a sweep, from cells whose figures are known: PSNR 40 / batch + seed / 10."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from fedlab.report.sweep import build
from fedlab.report.sweep_figure import along, panels
from fedlab.report.sweep_page import render
from fedlab.sweeps import sweep
from tests.sweeps.conftest import tables

AXES = {"task.model.width": [8, 16], "clients.batch_size": [1, 2], "seed": [1, 2]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.sweeps.conftest import faked

    with pytest.MonkeyPatch.context() as patch:
        faked(patch)
        return sweep(tables(sweep=AXES), out=tmp_path_factory.mktemp("report") / "sweep").directory


@pytest.fixture
def data(swept: Path) -> dict[str, Any]:
    return build(swept).data


def test_rows_are_those_of_the_cells(data: dict[str, Any]) -> None:
    found = {cell["name"]: cell["rows"][0] for cell in data["cells"]}
    row = found["width-8__batch_size-2__seed-1"]
    assert (row["psnr_median"], row["recovered"], row["images"]) == (20.1, 2, 2)
    assert (row["accuracy"], row["accuracy_ci95"], row["control"]) == (0.52, [0.4, 0.7], 6.0)
    assert len(found) == 8


def test_the_headline_is_of_all_cells(data: dict[str, Any]) -> None:
    assert data["headline"] == (
        "8 of 8 cells finished. Every attacked image was recovered in every cell, whatever was turned: median"
        " 20.1 dB (width 8, batch_size 2, seed 1) to 40.2 dB (width 16, batch_size 1, seed 2), accuracy 51.0"
        " % to 52.0 %."
    )


def test_the_report_holds_no_path_and_no_clock(swept: Path) -> None:
    text = (swept / "report.json").read_text() + (swept / "report.html").read_text()
    assert str(swept) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d|\"time\"", text)


def test_one_row_per_cell_each_with_its_own_report(swept: Path, data: dict[str, Any]) -> None:
    page = render(data)
    links = re.findall(r'<a href="(cells/[^"]+)"', page)
    assert links == [f"cells/{cell['name']}/report.html" for cell in data["cells"]]
    assert all((swept / link).with_suffix(".json").is_file() for link in links)
    assert page.count("data-sortable") == 1 + page.count('"table[data-sortable]"')


def test_one_axis_runs_along_the_panels_and_seeds_share_them(data: dict[str, Any]) -> None:
    drawn, left_out = panels(data)
    assert (along(data["axes"]) or {})["key"] == "task.model.width"
    assert [title for title, _ in drawn] == ["batch_size 1", "batch_size 2"]
    assert left_out == 0
    assert "8: 40.1 dB, accuracy 51.0 %" in drawn[0][1]
    assert "8: 40.2 dB, accuracy 51.0 %" in drawn[0][1]


def test_seeds_run_along_if_nothing_else_does() -> None:
    axis = {"key": "seed", "values": [1, 2], "words": ["1", "2"], "numbers": True}
    assert along([axis]) == axis | {"words": ["1", "2"]}
    words = {"key": "task.model", "values": ["mlp", "lenet"], "numbers": False}
    assert along([axis, words]) is words


def test_numbers_grow_along_a_panel_in_whatever_order_they_were_swept() -> None:
    axis = {"key": "a", "values": [0.1, 10, 2], "words": ["0.1", "10", "2"], "numbers": True}
    turned = along([axis]) or {}
    assert (turned["values"], turned["words"]) == ([0.1, 2, 10], ["0.1", "2", "10"])


def test_text_of_a_cell_is_inert(data: dict[str, Any]) -> None:
    hostile = copy.deepcopy(data)
    evil = "<script>alert(1)</script>"
    hostile["name"] = hostile["claim"] = hostile["axes"][0]["name"] = evil
    hostile["cells"][0] |= {"status": "failed", "error": evil, "rows": []}
    hostile["cells"][1]["rows"][0]["attack"] = evil
    page = render(hostile)
    assert evil not in page
    assert "&lt;script&gt;alert(1)" in page


def test_unfinished_cells_are_told(data: dict[str, Any], swept: Path, tmp_path: Path) -> None:
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(swept, copied)
    (copied / "cells" / "width-8__batch_size-1__seed-1" / "manifest.json").unlink()
    found = build(copied).data
    assert found["cells"][0]["status"] == "interrupted"
    assert found["cells"][0]["rows"] == []
    assert found["headline"].startswith("7 of 8 cells finished.")
    assert "width-8__batch_size-1__seed-1" in found["limits"][0]
