"""The tables of docs/attacks.md, out of benchmarks/results/attack_*.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import RESULTS, ROOT, Result, read

PAGE = ROOT / "docs" / "attacks.md"
BEGIN, END = "<!-- results: written by the attack benchmarks -->", "<!-- end of results -->"


def tables(directory: Path = RESULTS) -> str:
    """Markdown, benchmarks in alphabetical order: the figures with a bar, then the others, then the notes."""
    results = [read(path) for path in sorted(directory.glob("attack_*.json"))]
    parts = [
        _table(("what", "figure", "measured", "bar", ""), results, barred=True),
        "### Beside the bars",
        _table(("what", "figure", "measured"), results, barred=False),
    ]
    if any(one.notes for one in results):
        parts += [
            "### Notes",
            "\n".join(f"- `{_short(one)}`: {note}" for one in results for note in one.notes),
        ]
    return "\n\n".join(parts)


def _table(columns: Sequence[str], results: Sequence[Result], *, barred: bool) -> str:
    """The rows with a bar, or those without; each benchmark is described where it comes up first."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        described = not barred and any(row.bar for row in result.rows)
        what = f"`{_short(result)}`" if described else f"{result.work} (`{_short(result)}`)"
        for row in result.rows:
            if bool(row.bar) is barred:
                cells = (what, row.what, row.figure, row.bar, row.result)
                lines.append(f"| {' | '.join(cells[: len(columns)])} |")
                what = ""
    return "\n".join(lines)


def _short(result: Result) -> str:
    return result.name.removeprefix("attack_")


def written(page: str, content: str) -> str:
    """The page with `content` between its markers."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{tail}"


def write() -> None:
    """Bring docs/attacks.md up to date."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")


if __name__ == "__main__":
    write()
