"""Makes docs/gallery.md: short runs of shipped scenarios, the headline and figures of each report.

    python docs/hooks/gallery.py

takes some minutes. What is shown comes from the displays of `AuditReport`; the page holds each command.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedlab.report import AuditReport
    from fedlab.report.notebook import Display

PAGE = Path(__file__).resolve().parent.parent / "gallery.md"
Entry = tuple[str, tuple[str, ...], str, "Callable[[AuditReport], list[Display]]"]
INLINE = "runtime.executor=inline"
ENTRIES: list[Entry] = [
    (
        "quickstart",
        (
            INLINE,
            "strategy.rounds=10",
            "audit.victims=4",
            "audit.adaptive=false",
            "attacks.cascade.iterations=30",
            "attacks.dropout-inversion.iterations=60",
            "attacks.inverting-gradients.iterations=60",
            "privacy.check=false",
        ),
        "One record per step, dropout live: reconstructions beneath the originals, with their controls;"
        " and what each defense leaves to the strongest attack, at which accuracy.",
        lambda report: [report.gallery(defense="none"), report.frontier()],
    ),
    (
        "papaya",
        (INLINE, "strategy.target.loss=1.2"),
        "Two servers on one fleet: how much sooner the one that waits for nobody gets to the same loss.",
        lambda report: [report.curve("loss", against="seconds")],
    ),
]
HEAD = """# Gallery

What reports look like, from short runs of shipped scenarios: the first sentence of each, and some of its
figures. The whole report has more, and says how far its evidence reaches. Runs as short as these show what a
report *shows*; they are no evidence about a defense. (Made by `docs/hooks/gallery.py`.)
"""


def command(name: str, settings: tuple[str, ...]) -> str:
    """What a reader types for the same run."""
    return shlex.join(["fedlab", "run", name, *(part for one in settings for part in ("--set", one))])


def section(name: str, settings: tuple[str, ...], words: str, markup: str, headline: str) -> str:
    """One entry of the page."""
    return f"## {name}\n\n{words}\n\n```\n{command(name, settings)}\n```\n\n> {headline}\n\n{markup}\n"


def page(reports: dict[str, AuditReport]) -> str:
    """The whole page, from a report per entry."""
    parts = [HEAD]
    for name, settings, words, choose in ENTRIES:
        markup = "\n\n".join(display._repr_html_() for display in choose(reports[name]))
        parts.append(section(name, settings, words, markup, reports[name].data["verdict"]["headline"]))
    # The style is the same everywhere: once on a page is enough.
    first, style, rest = "\n".join(parts).partition("</style>\n")
    return first + style + re.sub(r"<style>.*?</style>\n", "", rest, flags=re.DOTALL)


def main() -> None:
    """Run what is shown, and write the page."""
    import fedlab
    from fedlab.scenario import load

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        reports = {name: fedlab.run(load(name, settings), out=name) for name, settings, _, _ in ENTRIES}
        PAGE.write_text(page(reports), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
