"""The tables of docs/benchmarks.md, out of benchmarks/results/*.json.

`python -m benchmarks.document` writes them between the markers; a test checks that they are what the
JSON says.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.harness import RESULTS, ROOT, Result, read

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: written by the benchmarks -->", "<!-- end of results -->"
NAMES = ("small_mlp", "cifar_cnn", "messages", "devices", "soak", "asynchronous")


def tables(directory: Path = RESULTS) -> str:
    """Markdown for every result that is there, in the order of `NAMES`."""
    paths = [directory / f"{name}.json" for name in NAMES]
    found = [path for path in paths if path.exists()]
    return "\n\n".join([*(section(read(path)) for path in found), *(_machine(found[0]) for _ in found[:1])])


def section(result: Result) -> str:
    """One result: a heading, the work, the table, the notes."""
    lines = [
        f"### `python -m benchmarks.{result.name}`",
        "",
        f"{result.work}.",
        "",
        "| figure | measured | bar | |",
        "|---|---|---|---|",
        *(f"| {row.what} | {row.figure} | {row.bar} | {row.result} |" for row in result.rows),
    ]
    missed = ["", "Where the time goes:", "", "```", *profile_lines(result.profile), "```"]
    return "\n".join(
        [*lines, *([""] if result.notes else []), *result.notes, *(missed if result.profile else [])]
    )


def profile_lines(profile: str) -> list[str]:
    """The first table of a profile: by own time."""
    lines = [line.rstrip() for line in profile.splitlines() if line.strip()]
    tables = [number for number, line in enumerate(lines) if "function calls" in line]
    return lines[tables[0] : tables[1] if len(tables) > 1 else None] if tables else lines


def _machine(path: Path) -> str:
    content = json.loads(path.read_text())
    machine, versions = content["machine"], content["versions"]
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"Machine: {machine['cpus']} CPU cores ({machine['architecture']}), {machine['system']}, no GPU,"
        f" shared with other work. Python {machine['python']}; {named}."
    )


def write(page: Path = PAGE) -> None:
    """Put the tables between the markers."""
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}")


if __name__ == "__main__":
    write()
