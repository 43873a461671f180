"""report.html: one page that needs nothing but itself.

Autoescape is on and stays on: the only markup that is let through is the package's own style sheet, its own
script and the figures, which matplotlib and ElementTree have escaped. A content security policy in the page
forbids every request and every script but that one, which it knows by its hash, in case something slips. The
script sorts tables and enlarges images; without it the page says the same.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedlab import glossary
from fedlab.report import course, figures, fleet_figures, formal_figures, map_figures, membership, reading
from fedlab.report.deployment import Tiles
from fedlab.report.frontier_figure import frontiers
from fedlab.report.gallery import Sheet, Strip
from fedlab.report.knowledge import CEILING_DB, answered, idle, sets_apart
from fedlab.report.verdict import strongest_of

_HERE = Path(__file__).parent
_STYLES = ("style.css", "sections.css")
MOST_COLUMNS = 4
"""Defenses that one table of full figures holds."""
MOST_SHEETS = 6
"""Contact sheets that are shown at once; the others unfold."""
_UNIT = re.compile(r"(\d) (dB|%)")


def environment(cells: Sequence[Mapping[str, Any]]) -> Environment:
    """How figures and names are printed, on the page and in a notebook; `cells` are those of the run."""
    found = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_keep_together,
    )
    found.filters.update(
        decibel=reading.decibel,
        percent=reading.percent,
        epsilon=reading.epsilon,
        interval=reading.interval,
        protects=reading.protects,
        small=reading.small,
        span=reading.span,
        mode_word=reading.mode_word,
        duration=course.duration,
        quantity=course.quantity,
        meaning=course.meaning,
        plain=_plain,
        key=_sort_key,
        figure=_figure,
        rate=_rate,
        bytes=_bytes,
        turned=_turned,
        place=reading.key,
        called=reading.namer(cells),
    )
    return found


def dress() -> dict[str, str]:
    """The style sheet, the script, and the script's hash for the content security policy."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return {
        "style": Markup("".join((_HERE / name).read_text(encoding="utf-8") for name in _STYLES)),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def render(data: dict[str, Any], sheets: list[Sheet], claimed: Sequence[Tiles] = ()) -> str:
    """The page for report.json's `data`, the contact sheets of the gallery, and what was claimed of records
    that nobody knows."""
    cells = data["run"]["cells"]
    return (
        environment(cells)
        .get_template("template.html.j2")
        .render(
            data=data,
            words=glossary.WORDS,
            numbers=glossary.NUMBERS,
            run=data["run"],
            sheets=sheets,
            claimed=claimed,
            most_sheets=MOST_SHEETS,
            matrices=_matrices(data),
            several_modes=reading.several(cells, "client_mode"),
            several_strategies=reading.several(cells, "strategy"),
            notes=course.notes(data["utility"], reading.namer(cells)),
            untried=reading.UNTRIED,
            timed=_timed(data),
            from_python=" (passed from Python)" if "task" in data["run"]["objects"] else "",
            hero=_hero(data, sheets),
            **dress(),
            figure={
                "images": figures.every_image(data),
                "clients": figures.clients(data),
            },
            frontiers=frontiers(data),
            proofs={reading.key(row): row for row in data["proofs"]},
            formal=formal_figures.formal_figures(data),
            bare=_without_mechanism(data),
            bounds=formal_figures.bounds(data),
            fleet=fleet_figures.panels(data["fleet"]),
            map_panels=map_figures.panels(data["map"], data["threshold_db"]),
            map_basin=map_figures.basin(data["map"], data["threshold_db"]),
            membership=membership.shown(data),
            knowledge_ceiling=CEILING_DB,
            knowledge_tables=[group for group in data["knowledge"] if answered(group)],
            knowledge_idle=idle(data["knowledge"], reading.namer(cells)),
            threats_apart=sets_apart(data["knowledge"]),
            near_identical=reading.NEAR_IDENTICAL_DB,
            ceiling=figures.CEILING_DB,
            most_clients=figures.MOST_CLIENTS,
        )
    )


def _timed(data: dict[str, Any]) -> bool:
    """Whether virtual time says more than the number of rounds, which it is unless devices differ."""
    seconds = {row["virtual_seconds"] for row in data["utility"]} - {None}
    return any(f"{one:g}" != data["run"]["setup"].get("rounds") for one in seconds)


def _matrices(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Attacks down, a few defenses across, for each strategy and client mode; a cell is a row or None."""
    scored = reading.assumed(data["attacks"])
    names = list(dict.fromkeys(row["attack"] for row in scored))
    cells = {(row["attack"], *reading.key(row)): row for row in scored}
    tables = []
    for strategy, mode in dict.fromkeys((row["strategy"], row["client_mode"]) for row in data["guarantees"]):
        pools = [
            row for row in data["guarantees"] if (row["strategy"], row["client_mode"]) == (strategy, mode)
        ]
        count = -(-len(pools) // MOST_COLUMNS)
        for few in (
            pools[part * len(pools) // count : (part + 1) * len(pools) // count] for part in range(count)
        ):
            scored_here = [name for name in names if any((name, *reading.key(row)) in cells for row in few)]
            rows = [
                (name, [(row["defense"], cells.get((name, *reading.key(row)))) for row in few])
                for name in scored_here
            ]
            columns = [row["defense"] for row in few]
            tables.append({"strategy": strategy, "mode": mode, "columns": columns, "rows": rows})
    return tables


def _without_mechanism(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Who has no noise at all, together by reason; by the defense alone where it is true of all its modes."""
    bare = [row for row in data["guarantees"] if not row["mechanism"] and row["epsilon"] is None]
    rest = [row for row in data["guarantees"] if row not in bare]
    called = reading.namer(data["run"]["cells"])
    groups: dict[str, list[str]] = {}
    for row in bare:
        whole = not any(one["defense"] == row["defense"] and one["reason"] != row["reason"] for one in bare)
        whole = whole and not any(one["defense"] == row["defense"] for one in rest)
        groups.setdefault(row["reason"], []).append(row["defense"] if whole else called(row))
    return [{"reason": reason, "names": list(dict.fromkeys(names))} for reason, names in groups.items()]


def _hero(data: dict[str, Any], sheets: list[Sheet]) -> tuple[Sheet, Strip] | None:
    """The strongest leak in pictures, for the first screen; None without pixels or without a leak."""
    strongest = strongest_of(reading.reached(data["attacks"]))
    if strongest is None or not strongest["recovered"]:
        return None
    for sheet in sheets:
        for strip in sheet.strips:
            place = sheet.strategy, sheet.defense, sheet.client_mode
            if strip.attack == strongest["attack"] and place == reading.key(strongest):
                return sheet, strip
    return None


def _keep_together(value: Any) -> Any:
    """No line break between a number and its unit. Markup passes as it is."""
    if type(value) is str:
        return _UNIT.sub("\\1\u00a0\\2", value)
    return value


def _plain(value: Any) -> str:
    """A number, a list or a name as people write it; nothing as a dash."""
    if value is None or value == "":
        return reading.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or reading.DASH
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return str(value)


def _sort_key(value: float | None) -> str:
    """What a column is sorted by; empty for what was not measured."""
    return "" if value is None else f"{value:.6g}"


def _figure(value: float | None) -> str:
    """A statistic or a p-value, to three digits."""
    return reading.DASH if value is None else f"{value:.3g}"


def _rate(value: float | None) -> str:
    """A probability, to three digits: 0.1 %, 12.3 %."""
    return reading.DASH if value is None else f"{100 * value:.3g} %"


def _bytes(value: float | None) -> str:
    """332.0 kB."""
    if value is None:
        return reading.DASH
    power = 0 if value < 1e3 else 1 if value < 1e6 else 2 if value < 1e9 else 3
    return f"{value / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB')[power]}"


def _turned(bounds: list[float]) -> str:
    """The interval of a cost as that of a change, in points."""
    return f"{-100 * bounds[1]:+.1f} to {-100 * bounds[0]:+.1f}".replace("-", "−")
