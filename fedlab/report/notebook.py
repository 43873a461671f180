"""What a notebook shows of a report: the overview, reconstructions beside originals, figures.

The markup is the page's own: its macros, its figures, its colours, under a class of its own so that the
notebook around it keeps its looks. Text from the run is escaped as on the page, and there is no script. A
notebook that is not trusted shows the words instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup

from fedlab.errors import DataError, UnknownName
from fedlab.report import reading
from fedlab.report.build import AuditReport
from fedlab.report.curve_figure import AXES, LABELS
from fedlab.report.curve_figure import curve as curve_of
from fedlab.report.frontier_figure import frontiers, told
from fedlab.report.gallery import Sheet, Strip, collect
from fedlab.report.page import environment
from fedlab.report.rundir import malformed, read_run

_HERE = Path(__file__).parent
_NO_PIXELS = (
    "No images: this run kept no pixels of its records. Set include_samples = true under [audit] and run"
    " again; the run directory then contains private data."
)


@dataclass(frozen=True)
class Display:
    """Something to look at: markup where there is a page, words where there is a terminal."""

    words: str
    markup: Markup = field(repr=False)

    def __repr__(self) -> str:
        return self.words

    def _repr_html_(self) -> str:
        return str(self.markup)


def overview(report: AuditReport) -> Display:
    """Headline, the pictures of the strongest leak's defense, a line per defense, and the limits."""
    try:
        sheets, note = collect(read_run(report.directory)), ""
    except DataError as error:  # a report outlives its run directory
        sheets, note = [], f"No images: {error}"
    with malformed("report.json"):
        headline = str(report.data["verdict"]["headline"])
        first = _strongest_first(report.data, sheets)[:1]
    return _display(report, headline, overview=True, sheets=first, note=note, path=_path(report.html))


def gallery(report: AuditReport, *, defense: str | None = None, attack: str | None = None) -> Display:
    """Originals above what each attack made of them; see `AuditReport.gallery`."""
    sheets = collect(read_run(report.directory))
    if not sheets:
        return _display(report, _NO_PIXELS, note=_NO_PIXELS)
    if defense is not None:
        _known("defense", defense, (one.defense for one in sheets))
        sheets = [one for one in sheets if one.defense == defense]
    if attack is not None:
        _known("attack", attack, (strip.attack for one in sheets for strip in one.strips))
        sheets = [replace(one, strips=_of(one.strips, attack)) for one in sheets]
    words = "\n".join(_in_words(one, strip) for one in sheets for strip in one.strips)
    return _display(report, words or "no attack was scored", sheets=sheets)


def frontier(report: AuditReport) -> Display:
    """Leakage against accuracy; see `AuditReport.frontier`."""
    with malformed("report.json"):
        panels = [one["picture"] for one in frontiers(report.data)]
        words = told(report.data["frontier"])
    nothing = "no defense was both trained and attacked with an answer in images"
    return _display(report, words or nothing, figures=panels, note="" if panels else nothing)


def curve(report: AuditReport, of: str, against: str) -> Display:
    """How training went; see `AuditReport.curve`."""
    _known("curve", of, LABELS)
    _known("axis", against, AXES)
    run = read_run(report.directory)
    with malformed("report.json"):
        figure, words = curve_of(run, report.data, of, against)
    return _display(report, words, figures=[figure] if figure else [], note="" if figure else words)


def _display(report: AuditReport, words: str, **shown: Any) -> Display:
    nothing = {"overview": False, "sheets": [], "figures": [], "note": "", "path": ""}
    try:
        with malformed("report.json"):
            cells = report.data["run"]["cells"]
            markup = (
                environment(cells)
                .get_template("notebook.html.j2")
                .render(
                    data=report.data,
                    run=report.data["run"],
                    several_modes=reading.several(cells, "client_mode"),
                    several_strategies=reading.several(cells, "strategy"),
                    untried=reading.UNTRIED,
                    style=Markup(_style()),
                    **nothing | shown,
                )
            )
    except TemplateError as error:
        raise DataError(
            f"report.json: {error}; the file is damaged or of another version, build it with"
            f" `fedlab report {report.directory}`"
        ) from error
    # Some pages that embed a display end a block of markup at the first empty line.
    return Display(words, Markup("\n".join(line for line in markup.splitlines() if line.strip())))


def _style() -> str:
    """The display's own rules, in the colours of the page; dark where the notebook says that it is."""
    page = (_HERE / "style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]
    own = (_HERE / "notebook.css").read_text(encoding="utf-8")
    return own.replace("/* light */", " ".join(light.split())).replace("/* dark */", " ".join(dark.split()))


def _strongest_first(data: dict[str, Any], sheets: list[Sheet]) -> list[Sheet]:
    """The sheet of the defense that lost most, then the others as they come."""
    findings = data["verdict"]["findings"]
    ranks = {reading.key(one): reading.LEVELS[one["level"]].rank for one in findings}
    place = {reading.key(one): -int(one["recovered"] or 0) for one in findings}

    def rank(sheet: Sheet) -> tuple[int, int]:
        axes = (sheet.strategy, sheet.defense, sheet.client_mode)
        return -ranks.get(axes, 0), place.get(axes, 0)

    return sorted(sheets, key=rank)


def _of(strips: Sequence[Strip], attack: str) -> tuple[Strip, ...]:
    return tuple(one for one in strips if one.attack == attack)


def _in_words(sheet: Sheet, strip: Strip) -> str:
    """none: linear-layer made 8 images, median PSNR 146.3 dB, best 151.0 dB"""
    scores = [one.psnr for one in strip.answers if one.psnr is not None]
    if not scores:
        return f"{sheet.defense}: {strip.attack}: {strip.note or 'no image'}"
    return (
        f"{sheet.defense}: {strip.attack} made {reading.plural(len(scores), 'image')},"
        f" median PSNR {reading.decibel(median(scores))}, best {reading.decibel(max(scores))}"
    )


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    names = set(known)
    if name not in names:
        raise UnknownName(kind, name, names)


def _path(html: Path) -> str:
    """As short as it can be written from here."""
    return str(html.relative_to(Path.cwd()) if html.is_relative_to(Path.cwd()) else html)
