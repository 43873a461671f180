"""The figures of the fleet: which trips a timeline shows, and a page that stays inert and self-contained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fleet_run import BUFFERED, SYNC, TRIPS, write_fleet_run
from hypothesis import given
from hypothesis import strategies as st
from test_report_page import CHROMIUM, HOSTILE, Page, assert_self_contained, browse

from fedlab.report import AuditReport, build, fleet_figures
from fedlab.report.timeline import ROWS, _staleness, timeline


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return build(write_fleet_run(tmp_path_factory.mktemp("fleet") / "run"))


def figures_of(report: AuditReport) -> list[str]:
    return re.findall(r'<svg class="figure".*?</svg>', report.html.read_text(), re.DOTALL)


def test_strategies_share_the_shortest_window(fleet: AuditReport) -> None:
    """Sync kept trips for 4.5 s, FedBuff for 3.2 s: what starts later is not drawn."""
    sync, buffered = (row["timeline"] for row in fleet.data["fleet"]["rows"])
    assert sync["end"] == buffered["end"] == 3.2
    assert sync["versions"] == [0.0, 2.0] and buffered["versions"] == [0.0, 1.0, 2.0]
    assert sync["outcomes"] == {"aborted": 2, "counted": 4} and sync["devices"] == 3
    assert [row["device"] for row in sync["rows"]] == [0, 1, 2]
    assert sync["rows"][1] == {
        "device": 1,
        "seconds": 1.5,
        "trips": [
            {"start": 0.0, "end": 2.0, "round": 1, "outcome": "counted"},
            {"start": 2.0, "end": 4.0, "round": 2, "outcome": "counted"},
        ],
    }


def test_without_known_speeds_trips_tell_who_is_fast() -> None:
    """On a deployed Grid: 0 takes 1 s, 1 takes 1.5 s, 2 takes 3 s; 9 has not come back, and stands last."""
    trips = [*TRIPS[BUFFERED], [9, 0.5, None, 1, "under way"]]
    found = timeline({"trips": trips, "devices": []}, 4.0)
    assert found is not None
    assert [(row["device"], row["seconds"]) for row in found["rows"]] == [
        (0, None),
        (1, None),
        (2, None),
        (9, None),
    ]


def test_staleness_counts_versions_that_were_made_meanwhile() -> None:
    """Versions begin at 0, 1, 2 and 3 s. The trip whose arrival makes a version does not count that one."""
    versions = [0.0, 1.0, 2.0, 3.0]
    for start, back, stale in ((0.0, 1.0, 0), (0.0, 1.5, 1), (1.0, 3.0, 1), (1.0, 3.5, 2), (3.0, 9.0, 0)):
        assert _staleness({"start": start}, back, versions) == stale


window = st.lists(
    st.tuples(
        st.integers(0, 200), st.floats(0, 50), st.one_of(st.none(), st.floats(0, 9)), st.integers(1, 9)
    ),
    max_size=150,
)


@given(window, st.floats(0.001, 60))
def test_a_timeline_is_small_sorted_and_complete(trips: list[Any], end: float) -> None:
    """At most 40 devices, the fastest first, each with all its trips that start before the end."""
    kept = [
        [device, start, None if taken is None else start + taken, number, "counted"]
        for device, start, taken, number in trips
    ]
    speeds = [[device, float((device * 37) % 101)] for device in range(201)]
    found = timeline({"trips": kept, "devices": speeds}, end)
    inside = [one for one in kept if one[1] < end]
    if not inside:
        assert found is None
        return
    assert found is not None
    took_part = {one[0] for one in inside}
    assert found["devices"] == len(took_part) and len(found["rows"]) == min(ROWS, len(took_part))
    seconds = [row["seconds"] for row in found["rows"]]
    assert seconds == sorted(seconds) and sum(found["outcomes"].values()) == len(inside)
    for row in found["rows"]:
        assert len(row["trips"]) == sum(one[0] == row["device"] for one in inside)
    busiest = max(sum(one[0] == device for one in inside) for device in took_part)
    assert max(len(row["trips"]) for row in found["rows"]) == busiest


def test_every_figure_has_words_and_follows_light_and_dark(fleet: AuditReport) -> None:
    page = Page(fleet.html.read_text())
    svgs = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("class") == "figure"]
    words = [str(attrs["aria-label"]) for attrs in svgs]
    # Loss and accuracy against time, uploads and bytes; tenths; one histogram; two timelines; and three
    # figures of every report, of which leakage against accuracy comes once per strategy.
    assert len(words) == 6 + 1 + 1 + 2 + 2 + 2
    assert any("sync: 0.7 after 5 " in one and "fedbuff: 0.7 after " in one for one in words)
    assert "Staleness of 161 uploads under fedbuff: mean 1.25, expected 2, at most 3" in words
    assert any(one.startswith("Timeline of sync, 0 to 3.2 s: 3 of 3 devices") for one in words)
    for figure in figures_of(fleet):
        assert "var(--" in figure and "font-family" not in figure
        assert not re.search(r"#[0-9a-f]{6}", figure)
    names = page.attributes("id")
    assert len(names) == len(set(names))


def test_same_run_same_bytes(fleet: AuditReport) -> None:
    before = fleet.html.read_bytes()
    assert build(fleet.directory).html.read_bytes() == before


def test_more_strategies_than_colours_differ_in_dashes() -> None:
    looks = [(fleet_figures.colour(place), fleet_figures.dashes(place)) for place in range(18)]
    assert len(set(looks)) == 18


def hostile_run(directory: Path) -> Path:
    write_fleet_run(directory)
    for name in ("manifest.json", "metrics.json"):
        data = json.loads((directory / name).read_text())
        for cell in data["cells"] if name == "manifest.json" else data["cells"].values():
            if name == "manifest.json":
                cell["strategy"] = HOSTILE + cell["strategy"]
                continue
            cell["traffic"]["classes"][1]["name"] = HOSTILE
            for trip in cell["traffic"]["window"]["trips"]:
                trip[4] = HOSTILE
            if cell["schedule"]:
                cell["schedule"] |= {"weight": HOSTILE, "name": HOSTILE}
        (directory / name).write_text(json.dumps(data))
    return directory


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    report = build(hostile_run(tmp_path / "run"))
    page = assert_self_contained(report.html.read_text())
    shown = "".join(page.text).replace("\xa0", " ")
    assert f"{HOSTILE}{SYNC}" in shown and f"“{HOSTILE}” are 50 % of the devices" in shown
    assert f"Weight: {HOSTILE}" in shown and "49" not in {piece.strip() for piece in page.text}
    assert not [1 for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"]
    if CHROMIUM is not None:
        console, asked, document = browse(report.html, tmp_path / "browser")
        assert (console, asked) == ([], set()) and "The fleet at work" in document


def test_the_template_trusts_nothing() -> None:
    source = (Path(fleet_figures.__file__).parent / "fleet.html.j2").read_text()
    assert not re.search(r"\|\s*safe\b|autoescape", source.split("#}", 1)[1])
