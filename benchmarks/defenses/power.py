"""The tables of docs/privacy.md, out of benchmarks/results/defense_planted.json and defense_one_run.json."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import RESULTS, ROOT, Result, read

PAGE = ROOT / "docs" / "privacy.md"
BEGIN, END = "<!-- results: written by benchmarks.defenses.power -->", "<!-- end of results -->"
COLUMNS = ("ε = 8, m = 200", "ε = 8, m = 1000", "ε = 1, m = 200", "ε = 1, m = 1000")
"""Settings of the audit."""


def tables(directory: Path = RESULTS) -> str:
    """Markdown: what either tool sees of each fault, and the audits of right DP-SGD."""
    planted, right = read(directory / "defense_planted.json"), read(directory / "defense_one_run.json")
    return "\n\n".join((_power(planted), f"{planted.work}.", _right(right), f"{right.work}."))


def _power(result: Result) -> str:
    found = {row.what: row for row in result.rows}
    bugs = list(dict.fromkeys(row.what.partition(":")[0] for row in result.rows))
    heads = ("fault", "check, ε = 8", "check, ε = 1", *(f"audit, {column}" for column in COLUMNS))
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for bug in bugs:
        checks = [f"{found[f'{bug}: mechanism check, ε = {e}'].value:.0f} %" for e in (8, 1)]
        audits = [
            f"{found[f'{bug}: one run, {column}: refuted'].value:.0f} %"
            f" ({found[f'{bug}: one run, {column}: bound on ε, median'].value:.2f})"
            for column in COLUMNS
        ]
        lines.append(f"| {' | '.join((bug, *checks, *audits))} |")
    return "\n".join(lines)


def _right(result: Result) -> str:
    lines = ["| right DP-SGD | measured | bar | |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {row.what} | {row.figure} | {row.bar} | {row.result} |" for row in result.rows)]
    )


def write() -> None:
    """Bring docs/privacy.md up to date."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    write()
