"""The map in the report: every point is drawn and told, and no difference is claimed that was not shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from fedlab.errors import DataError
from fedlab.report import AuditReport, build
from fedlab.report.client_map import interval, median
from fedlab.report.map_words import called, of_basin, setting, written

LABELS = ("inverting", "running")
VICTIMS = 8


def attack(values: list[float | None], control: float = 6.0, **more: Any) -> dict[str, Any]:
    def one(client: int, value: float | None) -> dict[str, Any]:
        refusal = "no buffers" if value is None else None
        return {"round": 1, "client": client, "psnr": [value], "refusal": refusal}

    scores = [one(client, value) for client, value in enumerate(values)]
    return {
        "error": None,
        "failed": False,
        "victims": scores,
        "control": [one(0, control), one(1, control)],
    } | more


def cell(mode: str, inverting: list[float | None], running: list[float | None]) -> dict[str, Any]:
    attacks = {"inverting": attack(inverting), "running": attack(running, control=8.0)}
    return {
        "client_mode": mode,
        "seed": 7,
        "accuracy": 0.5,
        "records": [[i] for i in range(VICTIMS)],
        "attacks": attacks,
    }


def spread(middle: float, step: float = 0.1) -> list[float | None]:
    """Eight values around `middle`."""
    return [middle + step * (i - 3.5) for i in range(VICTIMS)]


def mapped() -> dict[str, Any]:
    silent: list[float | None] = [None] * VICTIMS
    points = {
        "base": ({}, [cell("eval", spread(40.0), silent), cell("train", spread(9.0), spread(25.0))], None),
        'task.model.norm="group"': (
            {"task.model.norm": "group"},
            [cell("eval", spread(30.0, 4.0), silent), cell("train", spread(30.0, -4.0), silent)],
            None,
        ),
        "task.model.skip=false": (
            {"task.model.skip": False},
            [cell("eval", spread(12.0), silent), cell("train", spread(14.0), silent)],
            None,
        ),
        "clients.batch_size=4": ({"clients.batch_size": 4}, [], "the training <came> to nothing"),
    }
    curve = [(0.0, 200.0, 60.0), (0.5, 12.0, 30.0), (1.0, 6.0, 8.0)]
    return {
        "schema": 1,
        "design": "one-at-a-time",
        "axes": [
            {
                "key": "task.model.norm",
                "values": ["batch", "group"],
                "base": "batch",
                "points": ["base", 'task.model.norm="group"'],
            },
            {
                "key": "task.model.skip",
                "values": [True, False],
                "base": True,
                "points": ["base", "task.model.skip=false"],
            },
            {
                "key": "clients.batch_size",
                "values": [1, 4],
                "base": 1,
                "points": ["base", "clients.batch_size=4"],
            },
        ],
        "modes": ["eval", "train"],
        "attacks": list(LABELS),
        "listed": list(points),
        "points": [
            {"name": name, "overrides": overrides, "cells": cells, "failure": failure}
            for name, (overrides, cells, failure) in points.items()
        ],
        "basin": {
            "attack": "inverting",
            "shares": [share for share, _, _ in curve],
            "refusal": None,
            "curves": [
                {
                    "client_mode": mode,
                    "seed": 7,
                    "share": share,
                    "error": None,
                    "start": [[start]] * 3,
                    "victims": [[end if mode == "eval" else 7.0]] * 3,
                    "control": [[5.0]] * 3,
                }
                for mode in ("eval", "train")
                for share, start, end in curve
            ],
        },
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    run = write_run(tmp_path_factory.mktemp("map"), modes=("eval", "train"))
    (run / "map.json").write_text(json.dumps(mapped()))
    return build(run)


@pytest.fixture
def page(report: AuditReport) -> str:
    return report.html.read_text(encoding="utf-8")


def test_the_best_attack_of_each_point_and_mode(report: AuditReport) -> None:
    base, group, skip, _ = report.data["map"]["points"]
    assert [one["best"]["attack"] for one in base["modes"]] == ["inverting", "running"]
    assert [one["best"]["psnr_median"] for one in base["modes"]] == pytest.approx([40.0, 25.0])
    assert [one["control"] for one in base["modes"]] == [8.0, 8.0]  # the strongest control of any attack
    assert [one["best"]["recovered"] for one in skip["modes"]] == [0, 0]
    refused = base["modes"][0]["attacks"][1]
    assert (refused["psnr_median"], refused["reason"], refused["victims"]) == (None, "no buffers", VICTIMS)
    assert [one["best"]["psnr_median"] for one in group["modes"]] == pytest.approx([30.0, 30.0])


def test_differences_are_taken_victim_by_victim(report: AuditReport) -> None:
    base, group, skip, broken = report.data["map"]["points"]
    # Same order in both modes: every victim differs by exactly 15, whatever victims have among themselves.
    assert base["difference"] == {
        "median": pytest.approx(15.0),
        "ci95": pytest.approx([15.0, 15.0]),
        "victims": 8,
    }
    low, high = group["difference"]["ci95"]
    assert low < 0 < high and group["difference"]["median"] == pytest.approx(0.0)
    assert skip["difference"]["median"] == pytest.approx(-2.0)
    assert skip["against_base"]["eval"]["median"] == pytest.approx(-28.0)
    assert base["against_base"] == {} and broken["difference"] is None


def test_sentences_claim_what_was_shown_and_no_more(report: AuditReport) -> None:
    text = "\n".join(report.data["map"]["findings"])
    assert (
        "In inference mode the best attack's median reaches 20 dB at 2 of 3 points: base and norm group."
        " At the base the highest median is inverting's: 40.0 dB." in text
    )
    assert (
        "At the base, inference mode gives 15.0 dB more than training mode (+15.0 dB, 95 % interval" in text
    )
    assert "Training mode leaks more at skip off (−2.0 dB, −2.0 to −2.0)." in text
    assert "No difference between the modes is shown at norm group: the interval includes 0." in text
    assert "Against the base, in inference mode: less leaks with skip off (−28.0 dB" in text
    assert "batch size 4 could not be measured: the training <came> to nothing" in text


def test_the_basin_in_words(report: AuditReport) -> None:
    basin = report.data["map"]["basin"]
    seen, gone = basin["findings"]
    assert seen.startswith(
        "In inference mode the attack reaches 20 dB with up to 50 % of the pixels replaced (30.0 dB"
    )
    assert "from a start of 12.0 dB" in seen and "not from further away" in seen
    assert "the attack drifts away, to 7.0 dB: update and prior" in gone
    assert [one["control_median"] for one in basin["curves"][0]["points"]] == [5.0] * 3


def test_two_starts_do_not_tell_what_lies_between() -> None:
    def point(share: float, start: float, end: float) -> dict[str, Any]:
        return {"share": share, "start": start, "psnr_median": end, "reason": None}

    points = [point(0.0, 200.0, 200.0), point(1.0, 5.0, 6.0)]
    data = {"attack": "x", "refusal": None, "curves": [{"client_mode": "eval", "points": points}]}
    (text,) = of_basin(data, 20.0)
    assert "stays there (200.0 dB); from pure noise it ends at 6.0 dB" in text
    assert "Nothing between was tried" in text and "from a start" not in text


def test_intervals_over_a_handful_of_victims_come_with_a_warning(tmp_path: Path, report: AuditReport) -> None:
    run = write_run(tmp_path / "run", modes=("eval", "train"))
    data = mapped()
    for point in data["points"]:
        for one in point["cells"]:
            for tried in one["attacks"].values():
                tried["victims"] = tried["victims"][:3]
    (run / "map.json").write_text(json.dumps(data))
    assert any("rests on 3 victims" in text for text in build(run).data["map"]["findings"])
    assert not any("rests on" in text for text in report.data["map"]["findings"])


def test_the_figure_has_every_point(page: str, report: AuditReport) -> None:
    for number, axis in enumerate(report.data["map"]["axes"], start=1):
        picture = re.search(rf'<svg[^>]*aria-label="PSNR by {axis["name"]}\.[^"]*".*?</svg>', page, re.DOTALL)
        assert picture and f'id="map-{number}-' in picture[0]
        label = re.search(r'aria-label="([^"]*)"', picture[0])
        assert label
        for one in axis["values"]:
            ticks = re.findall(r"<text[^>]*>([^<]*)</text>", picture[0])
            assert one["value"] in ticks and "(base)" in ticks
    assert "on, inference mode: 40.0 dB; on, training mode: 25.0 dB; off, inference mode: 12.0 dB" in page
    assert page.count("not measured") >= 3  # in the panel, and in both columns of the table
    assert 'aria-label="Basin of attraction.' in page and "A diagnosis of the attack, not an attack" in page


def test_what_a_point_says_is_text(page: str) -> None:
    assert "<came>" not in page and "&lt;came&gt;" in page
    assert "http" not in re.sub(
        r"https?://\S*(arxiv|doi)\S*", "", page.split('id="map"')[1].split("</section>")[0]
    )


def test_a_finished_run_has_its_map(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    axes = '\n[map.axes]\n"clients.batch_size" = [1, 2]\n'
    (run / "scenario.toml").write_text((run / "scenario.toml").read_text() + axes)
    with pytest.raises(DataError, match=r"map\.json is missing"):
        build(run)


def test_a_run_that_stopped_tells_how_far_its_map_came(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", status="interrupted", modes=("eval", "train"))
    data = mapped()
    data["points"], data["basin"] = data["points"][:1], None
    (run / "map.json").write_text(json.dumps(data))
    found = build(run)
    assert "3 points of 4 had not been reached." in found.data["map"]["findings"]
    assert "Basin of attraction" not in found.html.read_text(encoding="utf-8")


def test_a_damaged_map_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    data = mapped()
    del data["points"][0]["cells"][0]["attacks"]["running"]
    (run / "map.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"map\.json"):
        build(run)


def test_without_a_map_there_is_no_section(tmp_path: Path) -> None:
    found = build(write_run(tmp_path / "run"))
    assert found.data["map"] is None and 'id="map"' not in found.html.read_text(encoding="utf-8")


def test_values_in_words() -> None:
    values = [True, False, 0.25, 4, "batch", None, {"name": "vit", "depth": 2, "skip": True}]
    told = ["on", "off", "0.25", "4", "batch", "not set", "vit (depth 2, skip on)"]
    assert [written(value) for value in values] == told
    assert called("task.model.first_bias") == "first bias" and setting({}) == "base"
    assert setting({"clients.batch_size": 4, "task.model.norm": "group"}) == "batch size 4, norm group"


def test_the_interval_of_a_median() -> None:
    assert interval([3.0]) is None and median([]) is None
    assert interval([5.0] * 4) == (5.0, 5.0) and median([1.0, 2.0, 9.0]) == 2.0
    low, high = interval([float(i) for i in range(9)]) or (0.0, 0.0)
    assert 0.0 < low < 4.0 < high < 8.0
