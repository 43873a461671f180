"""The tables of docs/reproductions.md, out of reproductions/results/*.json.

`python -m reproductions.document` writes them between the markers; a test checks that they are what the JSON
says.
"""

from __future__ import annotations

from pathlib import Path

from reproductions.harness import RESULTS, Result, read
from reproductions.study import ROOT

PAGE = ROOT / "docs" / "reproductions.md"
BEGIN, END = "<!-- results: written by the reproductions -->", "<!-- end of results -->"
NAMES = (
    "fedprox",
    "momentum",
    "hypernetworks",
    "hypernetworks_fashion",
    "robustness",
    "adversarial",
    "fedbuff",
    "fedbuff_fashion",
    "gba_switch",
    "fedast_makespan",
)
FULL = ("hypernetworks_full",)
"""Paper-size studies, which `make reproduce-full` runs."""


def tables(directory: Path = RESULTS) -> str:
    """Markdown for every study, in the order of `NAMES`; of those without a result, that there is none."""
    parts = []
    for name in (*NAMES, *FULL):
        path = directory / f"{name}.json"
        if path.exists():
            parts.append(section(read(path)))
        elif name in NAMES:
            parts.append(f"### {name}\n\nNo result yet: run `python -m reproductions {name}`.")
    return "\n\n".join(parts)


def section(result: Result) -> str:
    """One study: claim, set-up, bars, variants, notes."""
    seeds = ", ".join(map(str, result.seeds))
    took = f"; {result.seconds / 60:.0f} minutes of processor time" if result.seconds else ""
    lines = [
        f"### {result.title}",
        "",
        f"- **Paper**: {result.paper}.",
        f"- **Ours**: {result.work}.",
        f"- **Run**: `python -m reproductions {result.name}`, seeds {seeds}{took}.",
        "",
        "| figure | paper | ours (95 % interval) | bar | |",
        "|---|---|---|---|---|",
        *(f"| {bar.what} | {bar.paper} | {bar.figure} | {bar.bound} | {bar.result} |" for bar in result.bars),
        "",
        f"| {' | '.join(result.table[0])} |",
        f"|{'---|' * len(result.table[0])}",
        *(f"| {' | '.join(row)} |" for row in result.table[1:]),
    ]
    return "\n".join([*lines, *([""] if result.notes else []), *result.notes])


def write(page: Path = PAGE) -> None:
    """Put the tables between the markers."""
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}")


if __name__ == "__main__":
    write()
