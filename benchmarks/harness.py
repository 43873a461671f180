"""Sides that take turns, medians of ratios, bars, and the JSON that docs/benchmarks.md is made of.

The machine is shared and noisy. So the sides are started first and then measured in turns (A B C
A B C ...), each turn gives one ratio, and the median of the ratios counts. A side waits on its input
between turns and takes no time from the others.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PEERS = ROOT / ".venv-peers" / "bin" / "python"

Measurement = dict[str, Any]
"""What `benchmarks.sides.serve` answers: `seconds`, `cpu_seconds`, and more."""


class Side:
    """A process of `benchmarks.sides` that measures when it is asked to.

    Args:
        module: name in `benchmarks.sides`.
        peer: whether it runs in the peers' environment.
        threads: OMP_NUM_THREADS, or None to leave the library's own choice.
    """

    def __init__(self, module: str, *arguments: object, peer: bool = False, threads: int | None = 1) -> None:
        self.label = " ".join(map(str, (module, *arguments)))
        python = str(PEERS) if peer else sys.executable
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._command = [python, "-m", f"benchmarks.sides.{module}", *map(str, arguments)]
        self._environment = environment

    def __enter__(self) -> Side:
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        return self

    def ready(self) -> dict[str, str]:
        """Wait until it is warm; the versions of what it runs."""
        versions: dict[str, str] = self._answer()["versions"]
        return versions

    def measure(self, amount: int) -> Measurement:
        """Let it do so much; what it costs."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{amount}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Measurement:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise SystemExit(
                f"{self.label} ended with {self._process.returncode}:\n{self._log.read()[-3000:]}"
            )
        answer: Measurement = json.loads(line)
        return answer

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the end of its work
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@dataclass
class Turns:
    """What the sides answered, turn by turn.

    Attributes:
        answers: by side.
        versions: of what the sides ran, by environment.
    """

    answers: dict[str, list[Measurement]]
    versions: dict[str, str]

    def median(self, side: str, key: str) -> float:
        """The middle of one figure."""
        return statistics.median(answer[key] for answer in self.answers[side])

    def rate(self, side: str, key: str = "seconds") -> float:
        """Median of (amount / key)."""
        return statistics.median(answer["amount"] / answer[key] for answer in self.answers[side])

    def ratio(self, side: str, other: str, key: str = "seconds") -> float:
        """How many times as fast as the other: the median over the turns."""
        pairs = zip(self.answers[side], self.answers[other], strict=True)
        return statistics.median((a["amount"] / a[key]) / (b["amount"] / b[key]) for a, b in pairs)


def take_turns(sides: Mapping[str, tuple[Side, int, int]], turns: int) -> Turns:
    """Measure each side once per turn.

    Args:
        sides: by name: the side, what to ask it for, and how much work that is (`amount`). One side
            may come under several names.
    """
    versions: dict[str, str] = {}
    answers: dict[str, list[Measurement]] = {name: [] for name in sides}
    with ExitStack() as stack:
        for side in dict.fromkeys(side for side, _, _ in sides.values()):
            versions |= stack.enter_context(side).ready()
        for turn in range(turns):
            print(f"  turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
            for name, (side, asked, amount) in sides.items():
                answers[name].append(side.measure(asked) | {"amount": amount})
    return Turns(answers, versions)


@dataclass(frozen=True)
class Row:
    """One line of a result: a figure, and the bar that it has to clear (None: only reported)."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def bar(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def result(self) -> str:
        """`met`, `MISSED`, or nothing where there is no bar."""
        return ("met" if self.met else "MISSED") if self.bar else ""

    @property
    def figure(self) -> str:
        """Three digits, and the unit."""
        digits = f"{self.value:,.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{digits} {self.unit}".strip()


@dataclass(frozen=True)
class Table:
    """Figures that belong side by side; one line per tuple."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass
class Result:
    """What a benchmark found.

    Attributes:
        name: of its module and its JSON file.
        work: what was done, in a line.
        notes: what a reader must know beside the figures.
        measurements: the raw numbers.
        profile: where the time goes, taken when a bar was missed.
        tables: figures without a bar that belong side by side.
    """

    name: str
    work: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    profile: str = ""
    tables: list[Table] = field(default_factory=list)

    @property
    def met(self) -> bool:
        return all(row.met for row in self.rows)

    def table(self) -> str:
        """For people."""
        cells = [(row.what, row.figure, row.bar, row.result) for row in self.rows]
        wide = [max(len(line[column]) for line in [*cells, ("",) * 4]) for column in range(4)]
        lines = [f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:<{wide[2]}}  {d}".rstrip() for a, b, c, d in cells]
        return "\n".join([f"{self.name}: {self.work}", *lines, *(f"  {note}" for note in self.notes)])

    def write(self, directory: Path = RESULTS) -> Path:
        """NAME.json."""
        path = directory / f"{self.name}.json"
        directory.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) | {"met": row.met} for row in self.rows]
        content = asdict(self) | {"rows": rows, "met": self.met, "machine": machine()}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path


def read(path: Path) -> Result:
    """The result in a JSON file."""
    content = json.loads(path.read_text())
    rows = [Row(**{key: value for key, value in row.items() if key != "met"}) for row in content["rows"]]
    tables = [Table(**table) for table in content.pop("tables", [])]
    kept = {key: value for key, value in content.items() if key not in ("rows", "met", "machine")}
    return Result(rows=rows, tables=tables, **kept)


def finish(result: Result, profile: Sequence[str] = ()) -> int:
    """Print, write, and say by the exit code whether all bars were met.

    Args:
        profile: a module and its arguments; run when a bar was missed, what it prints is kept.
    """
    if not result.met and profile:
        command = [sys.executable, "-m", *profile]
        result.profile = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    result.write()
    print(result.table(), flush=True)
    if result.profile:
        print(result.profile)
    return 0 if result.met else 1


def machine() -> dict[str, Any]:
    """What a ratio may depend on."""
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
