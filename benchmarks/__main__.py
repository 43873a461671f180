"""Runs every benchmark, each in a process of its own, and brings docs/benchmarks.md up to date.

`python -m benchmarks [NAME ...]`; exits 1 when a bar was missed.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import document
from benchmarks.harness import PEERS, ROOT


def main(names: list[str]) -> int:
    unknown = set(names) - set(document.NAMES)
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; expected {', '.join(document.NAMES)}")
    if not PEERS.exists():
        raise SystemExit("the peers' environment is missing; run `make bench-runtime`, which builds it")
    chosen = names or list(document.NAMES)
    codes = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        run = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        codes.append(run.returncode)
        print(f"{run.stdout}\n", flush=True)
    document.write()
    missed = [name for name, code in zip(chosen, codes, strict=True) if code]
    print(f"bars missed in: {', '.join(missed)}" if missed else "every bar met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
