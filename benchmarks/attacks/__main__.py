"""Runs the rows of the attack benchmark, each in a process of its own, and brings docs/attacks.md up to date.

`python -m benchmarks.attacks [NAME ...]`; exits 1 when a bar was missed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.attacks import document
from benchmarks.harness import ROOT

TIMED = ("vit", "peer")
"""Rows whose bars are times: they go first, before a laptop has grown hot."""

ROWS = sorted(
    (path.stem for path in (Path(__file__).parent / "rows").glob("[!_]*.py")),
    key=lambda name: (name not in TIMED, name),
)


def main(names: list[str]) -> int:
    unknown = set(names) - set(ROWS)
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; expected {', '.join(ROWS)}")
    chosen = names or ROWS
    codes = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        run = subprocess.run(
            [sys.executable, "-m", f"benchmarks.attacks.rows.{name}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        codes.append(run.returncode)
        print(f"{run.stdout}\n", flush=True)
    document.write()
    missed = [name for name, code in zip(chosen, codes, strict=True) if code]
    print(f"bars missed in: {', '.join(missed)}" if missed else "every bar met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
