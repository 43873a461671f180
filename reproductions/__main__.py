"""Runs the reproductions and brings docs/reproductions.md up to date.

`python -m reproductions [NAME ...]`; all that `make reproduce` runs unless named. Exits 1 when a bar was
missed.
"""

from __future__ import annotations

import sys

from reproductions import document
from reproductions.harness import Result, run, study_named


def main(names: list[str]) -> int:
    known = (*document.NAMES, *document.FULL)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SystemExit(f"no reproduction {', '.join(unknown)}; expected {', '.join(known)}")
    missed = []
    for name in names or document.NAMES:
        result = run(study_named(name))
        result.write()
        document.write()
        print(shown(result), end="\n\n", flush=True)
        missed += [] if result.met else [name]
    print(f"bars missed in: {', '.join(missed)}" if missed else "every bar met")
    return 1 if missed else 0


def shown(result: Result) -> str:
    """For people at a terminal: variants, then bars."""
    wide = [max(map(len, column)) for column in zip(*result.table, strict=True)]
    variants = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, wide, strict=True)) for row in result.table]
    bars = [f"{bar.what}: {bar.figure}  {bar.bound}  {bar.result}" for bar in result.bars]
    return "\n".join(line.rstrip() for line in (result.title, *variants, *bars))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
