"""Runs the rows of the defense benchmark, each in a process of its own.

`python -m benchmarks.defenses [NAME ...]`; exits 1 when a bar was missed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ROOT

ROWS = sorted(path.stem for path in (Path(__file__).parent / "rows").glob("[!_]*.py"))


def main(names: list[str]) -> int:
    unknown = set(names) - set(ROWS)
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; expected {', '.join(ROWS)}")
    chosen = names or ROWS
    missed = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        run = subprocess.run([sys.executable, "-m", f"benchmarks.defenses.rows.{name}"], cwd=ROOT)
        missed += [name] if run.returncode else []
    print(f"bars missed in: {', '.join(missed)}" if missed else "every bar met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
