"""A suite of rows, each a process of its own, and the page that shows their figures beside their bars.

The rows of `attacks` are the modules of `benchmarks.attacks.rows`; each writes `results/attack_NAME.json`,
and docs/attacks.md shows them all. `defenses` likewise.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import RESULTS, ROOT, Result, read


@dataclass(frozen=True)
class Suite:
    """Rows of one kind.

    Attributes:
        name: of the package in `benchmarks`, and of the page in docs.
        kind: what the names of its results begin with.
        timed: rows whose bars are times: they go first, before a laptop has grown hot.
    """

    name: str
    kind: str
    timed: tuple[str, ...] = ()

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in the order in which they run."""
        folder = Path(__file__).parent / self.name / "rows"
        names = (path.stem for path in folder.glob("[!_]*.py"))
        return sorted(names, key=lambda name: (name not in self.timed, name))

    @property
    def page(self) -> Path:
        """The page that shows the results."""
        return ROOT / "docs" / f"{self.name}.md"

    def main(self, names: list[str]) -> int:
        """Run rows, all unless some are named, and bring the page up to date; 1 if a bar was missed."""
        unknown = set(names) - set(self.rows)
        if unknown:
            raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; expected {', '.join(self.rows)}")
        missed = []
        for name in names or self.rows:
            print(f"{name} ...", file=sys.stderr, flush=True)
            run = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{self.name}.rows.{name}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            print(f"{run.stdout}\n", flush=True)
            missed += [name] if run.returncode else []
        self.write()
        print(f"bars missed in: {', '.join(missed)}" if missed else "every bar met")
        return 1 if missed else 0

    def write(self) -> None:
        """Bring the page up to date."""
        page = self.page.read_text(encoding="utf-8")
        self.page.write_text(self.written(page, self.tables()), encoding="utf-8")

    def written(self, page: str, content: str) -> str:
        """The page with `content` between its markers."""
        begin, end = f"<!-- results: written by the {self.kind} benchmarks -->", "<!-- end of results -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        return f"{head}{begin}\n\n{content}\n\n{end}{tail}"

    def tables(self, directory: Path = RESULTS) -> str:
        """Markdown, benchmarks in alphabetical order: figures with a bar, then the others, then notes."""
        results = [read(path) for path in sorted(directory.glob(f"{self.kind}_*.json"))]
        parts = [
            self._table(("what", "figure", "measured", "bar", ""), results, barred=True),
            "### Beside the bars",
            self._table(("what", "figure", "measured"), results, barred=False),
        ]
        if any(one.notes for one in results):
            parts += [
                "### Notes",
                "\n".join(f"- `{self._short(one)}`: {note}" for one in results for note in one.notes),
            ]
        for table in (table for one in results for table in one.tables):
            parts += [f"### {table.title}", "\n".join([*_head(table.columns), *map(_line, table.lines)])]
        return "\n\n".join(parts)

    def _table(self, columns: Sequence[str], results: Sequence[Result], *, barred: bool) -> str:
        """The rows with a bar, or those without; each benchmark is described where it comes up first."""
        lines = _head(columns)
        for result in results:
            described = not barred and any(row.bar for row in result.rows)
            name = self._short(result)
            what = f"`{name}`" if described else f"{result.work} (`{name}`)"
            for row in result.rows:
                if bool(row.bar) is barred:
                    cells = (what, row.what, row.figure, row.bar, row.result)
                    lines.append(_line(cells[: len(columns)]))
                    what = ""
        return "\n".join(lines)

    def _short(self, result: Result) -> str:
        return result.name.removeprefix(f"{self.kind}_")


def _head(columns: Sequence[str]) -> list[str]:
    return [_line(columns), "|---" * len(columns) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


ATTACKS = Suite("attacks", "attack", timed=("vit", "peer"))
DEFENSES = Suite("defenses", "defense", timed=("dp_speed",))
