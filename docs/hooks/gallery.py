"""Makes docs/gallery.md and docs/gallery/*.html: short runs, what their reports say first, and all of it.

    python docs/hooks/gallery.py [NAME...]

takes some minutes; with names, only those are made again. Each entry is a command that a reader can give in
the folder of this repository. What the page shows comes from the displays of `AuditReport`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedlab.report import AuditReport
    from fedlab.report.notebook import Display

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "gallery.md"
REPORTS = PAGE.with_suffix("")
LARGEST = 10**6
"""Bytes of one report."""
CELL = re.compile(rb'<a [^>]*href="cells/[^>]*>(.*?)</a>', re.DOTALL)
"""A sweep's links to the reports of its cells, which stay where they were made."""


class Entry(NamedTuple):
    """One report.

    Attributes:
        command: what makes it, after `fedlab`; words: what to see in it; shown: figures on the page itself.
    """

    name: str
    command: tuple[str, ...]
    words: str
    shown: Callable[[AuditReport], list[Display]] = lambda report: []


def _set(*settings: str) -> Iterator[str]:
    for one in ("runtime.executor=inline", *settings):
        yield from ("--set", one)


ENTRIES = [
    Entry(
        "quickstart",
        (
            "run",
            "quickstart",
            *_set(
                "strategy.rounds=10",
                "audit.victims=4",
                "audit.adaptive=false",
                "attacks.cascade.iterations=30",
                "attacks.dropout-inversion.iterations=60",
                "attacks.inverting-gradients.iterations=60",
                "privacy.check=false",
            ),
        ),
        "One record per step, dropout live: reconstructions beneath the originals, with their controls;"
        " and what each defense leaves to the strongest attack, at which accuracy.",
        lambda report: [report.gallery(defense="none"), report.frontier()],
    ),
    Entry(
        "defenses",
        (
            "run",
            "audit",
            *_set(
                "strategy.rounds=20",
                "audit.victims=4",
                'clients.mode=["train"]',
                "attacks.cascade.iterations=40",
                "attacks.inverting-gradients.iterations=40",
                "privacy.canaries.count=200",
            ),
        ),
        "Seven defenses side by side, each against attackers who know it: the table of every attack against"
        " every defense, which ε is proved of which, and what it costs in accuracy.",
        lambda report: [report.frontier()],
    ),
    Entry(
        "flower-app",
        (
            "audit-app",
            "examples/pytorch-cnn",
            "--rounds",
            "10",
            "--num-supernodes",
            "4",
            "--run-config",
            'model="mlp" batch-size=1 max-steps=1',
            "--attack",
            "cascade:iterations=30",
            "--try",
            "no-bias,dropout,dp-sgd",
            "--include-samples",
        ),
        "A Flower app that knows nothing of fedlab: what was found out about it and how surely, the records"
        " that its clients gave away, what three changes would alter, and the lines that make them.",
        lambda report: [report.gallery(defense="none")],
    ),
    Entry(
        "sweep",
        (
            "sweep",
            "quickstart",
            "--sweep",
            "clients.batch_size=1,2,4",
            "--sweep",
            "task.model.width=32,128",
            *_set(
                "strategy.rounds=10",
                "audit.victims=4",
                "audit.adaptive=false",
                "attacks.cascade.iterations=30",
                "attacks.dropout-inversion.iterations=30",
                "attacks.inverting-gradients.iterations=30",
                "privacy.check=false",
            ),
        ),
        "One scenario at six settings: what leaks as batches and networks grow, a row per cell, the axes as"
        " facets. (The report of a sweep links to those of its cells; here it does not.)",
    ),
    Entry(
        "papaya",
        ("run", "papaya", *_set("strategy.target.loss=1.2")),
        "Two servers on one fleet: how much sooner the one that waits for nobody gets to the same loss.",
        lambda report: [report.curve("loss", against="seconds")],
    ),
]
HEAD = """# Gallery

What reports look like, from short runs: the first sentence of each, some of its figures, and the whole
report, one file that needs nothing else. Runs as short as these show what a report *shows*; they are no
evidence about a defense. (Made by `docs/hooks/gallery.py`, from the folder of the repository.)
"""


def section(entry: Entry, headline: str, markup: str) -> str:
    """One entry of the page."""
    command = shlex.join(["fedlab", *entry.command])
    whole = f"[The whole report](gallery/{entry.name}.html)"
    parts = [f"## {entry.name}", f"{entry.words} {whole}.", f"```\n{command}\n```", f"> {headline}", markup]
    return "\n\n".join(filter(None, parts)) + "\n"


def page(sections: list[str]) -> str:
    """The whole page."""
    # The style is the same everywhere: once on a page is enough.
    first, style, rest = "\n".join([HEAD, *sections]).partition("</style>\n")
    return first + style + re.sub(r"<style>.*?</style>\n", "", rest, flags=re.DOTALL)


def made(entry: Entry, out: Path) -> str:
    """Give the command and keep its report; the entry's section.

    Raises:
        SystemExit: the command failed, or its report is too large.
    """
    from fedlab.cli.app import execute
    from fedlab.report import AuditReport

    code = execute([*entry.command, "--out", str(out), "--quiet"])
    if code:
        sys.exit(f"{entry.name}: exit code {code}")
    report = (out / "report.html").read_bytes()
    if len(report) > LARGEST:
        sys.exit(f"{entry.name}: a report of {len(report)} bytes; expected at most {LARGEST}")
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{entry.name}.html").write_bytes(CELL.sub(rb"\1", report))
    data = json.loads((out / "report.json").read_text(encoding="utf-8"))
    if "headline" in data:  # a sweep has no displays
        return section(entry, data["headline"], "")
    shown = entry.shown(AuditReport.load(out))
    markup = "\n\n".join(display._repr_html_() for display in shown)
    return section(entry, data["verdict"]["headline"], markup)


def kept(entry: Entry) -> str:
    """The entry's section as it stands on the page."""
    found = re.search(rf"^## {entry.name}\n.*?(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return found[0] if found else ""


def main(names: list[str]) -> None:
    """Make what is asked for, or all, and write the page."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        sections = [
            made(entry, Path(folder) / entry.name) if not names or entry.name in names else kept(entry)
            for entry in ENTRIES
        ]
    PAGE.write_text(page(sections), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
