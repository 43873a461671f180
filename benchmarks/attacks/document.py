"""The table of docs/attacks.md, out of benchmarks/results/attack_*.json."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import RESULTS, ROOT, read

PAGE = ROOT / "docs" / "attacks.md"
BEGIN, END = "<!-- results: written by the attack benchmarks -->", "<!-- end of results -->"


def table(directory: Path = RESULTS) -> str:
    """Markdown: every row of every result, in alphabetical order of the benchmarks, then the notes."""
    results = [read(path) for path in sorted(directory.glob("attack_*.json"))]
    lines = ["| what | figure | measured | bar | |", "|---|---|---|---|---|"]
    for result in results:
        for number, row in enumerate(result.rows):
            what = f"{result.work} (`{result.name.removeprefix('attack_')}`)" if number == 0 else ""
            lines.append(f"| {what} | {row.what} | {row.figure} | {row.bar} | {row.result} |")
    notes = [f"- `{one.name.removeprefix('attack_')}`: {note}" for one in results for note in one.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def written(page: str, content: str) -> str:
    """The page with `content` between its markers."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{tail}"


def write() -> None:
    """Bring docs/attacks.md up to date."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")


if __name__ == "__main__":
    write()
