"""Runs the reproductions and brings docs/reproductions.md up to date.

`python -m reproductions [NAME ...]`; all that `make reproduce` runs unless named. Exits 1 when a bar was
missed, and 3 when a study was left out because its data set is not here.
"""

from __future__ import annotations

import sys
import tomllib

from fedlab.errors import UnknownName
from fedlab.tasks.store import status
from reproductions import document
from reproductions.harness import Result, run, study_named


def main(names: list[str]) -> int:
    known = (*document.NAMES, *document.FULL)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SystemExit(f"no reproduction {', '.join(unknown)}; expected {', '.join(known)}")
    missed: list[str] = []
    lacking: list[str] = []
    for name in names or document.NAMES:
        data = data_set(name)
        if data is not None and not here(data):
            lacking.append(name)
            print(f"{name}: left out, {data} is not here; fetch it with `fedlab data fetch {data}`\n")
            continue
        result = run(study_named(name))
        result.write()
        document.write()
        print(shown(result), end="\n\n", flush=True)
        missed += [] if result.met else [name]
    print(f"bars missed in: {', '.join(missed)}" if missed else "every bar met")
    if lacking:
        print(f"left out for want of data: {', '.join(lacking)}")
    return 1 if missed else 3 if lacking else 0


def data_set(name: str) -> str | None:
    """The data set of a study, if it has one of its own."""
    given = tomllib.loads(study_named(name).scenario.read_text()).get("task", {}).get("dataset")
    found = given.get("name") if isinstance(given, dict) else given
    return found if isinstance(found, str) else None


def here(data: str) -> bool:
    """Whether nothing has to be fetched for it."""
    try:
        return status(data).status != "missing"
    except UnknownName:  # drawn, not stored
        return True


def shown(result: Result) -> str:
    """For people at a terminal: variants, then bars."""
    wide = [max(map(len, column)) for column in zip(*result.table, strict=True)]
    variants = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, wide, strict=True)) for row in result.table]
    bars = [f"{bar.what}: {bar.figure}  {bar.bound}  {bar.result}" for bar in result.bars]
    return "\n".join(line.rstrip() for line in (result.title, *variants, *bars))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
