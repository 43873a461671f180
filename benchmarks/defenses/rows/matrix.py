"""Every defense against every attack, in both client modes: what is left to attackers who know the defense.

`scenarios/matrix.toml` as it is shipped, and once more on Fashion-MNIST with one seed, closed forms and the
cascade. What was interrupted goes on where it stood (the run directories are in `runs/`); what ended is
measured anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Result, Row, Table, finish
from fedlab.report.reading import reached

SCENARIO = ROOT / "scenarios" / "matrix.toml"
RUNS = ROOT / "runs"
FASHION = (
    "seeds=[7]",
    "task.dataset=fashion-mnist",
    "strategy.rounds=50",
    # 6,000 records per client in batches as for digits would be hours of epochs
    'defenses.hyperfl.of=[{name = "architecture", dropout = 0.0}, {name = "protocol", batch_size = 600},'
    ' {name = "hyperfl", embedding = 16, hidden = 16, local_epochs = 2}]',
    'attacks=[{name = "cascade", iterations = 150}, {name = "linear-layer"}, {name = "label-recovery"}]',
)
MODES = {"train": "training mode", "eval": "inference mode"}

Report = Mapping[str, Any]


def measured(name: str, overrides: tuple[str, ...] = ()) -> tuple[Report, float]:
    """The report of the run in `runs/NAME`, and what it took in minutes, with all interruptions."""
    out, clock = RUNS / name, RUNS / f"{name}.minutes"
    command = ["run", str(SCENARIO), "--out", str(out), *(f"--set={one}" for one in overrides)]
    if _unfinished(out):
        command = ["resume", str(out)]
    else:
        shutil.rmtree(out, ignore_errors=True)
        clock.unlink(missing_ok=True)
    spent, began = float(clock.read_text()) if clock.exists() else 0.0, time.monotonic()
    RUNS.mkdir(exist_ok=True)
    try:
        ended = subprocess.run([str(Path(sys.executable).with_name("fedlab")), *command], cwd=ROOT)
    finally:
        spent += (time.monotonic() - began) / 60
        clock.write_text(f"{spent}\n")
    if ended.returncode:
        raise SystemExit(f"fedlab {' '.join(command)} ended with {ended.returncode}")
    report: Report = json.loads((out / "report.json").read_text())
    return report, spent


def _unfinished(out: Path) -> bool:
    manifest = out / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["status"] != "finished"


def cells(report: Report) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """(defense, client mode, attack, row) of what is tried on every cell: not what a defense brings."""
    rows = [*report["attacks"], *report["membership"]]
    asked = {row["attack"] for row in rows if row["defense"] == "none"}
    for row in rows:
        if row["threat_label"] == "" and row["attack"] in asked:
            yield row["defense"], row["client_mode"], row["attack"], row


def told(row: Mapping[str, Any]) -> bool:
    """Whether a cell says what came of it: a figure with its interval, or why there can be none."""
    figure = next(
        (name for name in ("auc", "psnr_mean", "label_accuracy") if row.get(name) is not None), None
    )
    if figure is None:
        return bool(row["refusal"])
    interval = "psnr_ci95" if figure == "psnr_mean" else f"{figure}_ci95"
    # A single sum of updates is one victim: its images have an interval, their mean over victims has none.
    return (row[interval] or row.get("fraction_ci95")) is not None and not row["failed"]


def size(report: Report, title: str, *, attacked: int | None = None, seeded: int | None = None) -> list[Row]:
    """How large the matrix is, and whether it is whole; `attacked` and `seeded` are bars, if any."""
    found = list(cells(report))
    defenses, modes, attacks = (sorted({one[place] for one in found}) for place in range(3))
    least = min(len(row["seeds"]) for *_, row in found)
    whole = len(defenses) * len(modes) * len(attacks)
    answers = [row for *_, row in found if told(row)]
    return [
        Row(f"{title}: defenses beside none", len(set(defenses) - {"none"}), at_least=12),
        Row(f"{title}: client modes", len(modes), at_least=2),
        Row(f"{title}: attacks", len(attacks), at_least=attacked),
        Row(f"{title}: seeds, least of a cell", least, at_least=seeded),
        Row(
            f"{title}: cells with a figure and its interval, or a reason",
            100 * len(answers) / whole,
            "%",
            at_least=100,
        ),
        Row(
            f"{title}: of these with a figure",
            sum(not row["refusal"] or row["level"] != "refused" for row in answers),
        ),
    ]


def table(report: Report, mode: str, title: str) -> Table:
    """A line per defense: accuracy, ε, the strongest reconstruction beside its control, and membership."""
    attacks = [row for row in report["attacks"] if row["client_mode"] == mode]
    lines = []
    for kept in (row for row in report["utility"] if row["client_mode"] == mode):
        name = kept["defense"]
        here = [row for row in attacks if row["defense"] == name and row["psnr_median"] is not None]
        unaware = [row for row in here if row["threat_label"] != ""]
        labels = [
            row["label_accuracy"]
            for row in attacks
            if row["defense"] == name
            and row["attack"] == "label-recovery"
            and row["label_accuracy"] is not None
        ]
        members = [
            row["auc"]
            for row in reached(report["membership"])
            if (row["defense"], row["client_mode"]) == (name, mode) and row["auc"] is not None
        ]
        proved = next(
            row["epsilon"]
            for row in report["guarantees"]
            if (row["defense"], row["client_mode"]) == (name, mode)
        )
        lines.append(
            (
                f"`{name}`",
                f"{100 * kept['accuracy']:.1f}",
                "-" if proved is None else f"{proved:.3g}",
                *_strongest(reached(here)),
                _strongest(unaware)[1],
                f"{100 * max(labels):.0f}" if labels else "-",
                f"{max(members):.2f}" if members else "-",
            )
        )
    head = (
        "defense",
        "accuracy, %",
        "ε",
        "strongest reconstruction",
        "median PSNR, dB",
        "mean, 95 %",
        "control, dB",
        "recovered, %",
        "unaware, dB",
        "labels, %",
        "membership, AUC",
    )
    return Table(f"{title}, clients in {MODES[mode]}", head, lines)


def _strongest(rows: list[Mapping[str, Any]]) -> tuple[str, str, str, str, str]:
    """Attack, PSNR, control and share recovered of the one that recovers most, then has the best median."""
    if not rows:
        return "-", "-", "-", "-", "-"
    best = max(rows, key=lambda row: (row["fraction_recovered"], row["psnr_median"]))
    between = "-" if best["psnr_ci95"] is None else "{:.1f} to {:.1f}".format(*best["psnr_ci95"])
    control = best["control"]["psnr_median"]
    return (
        best["attack"],
        f"{best['psnr_median']:.1f}",
        between,
        "-" if control is None else f"{control:.1f}",
        f"{100 * best['fraction_recovered']:.0f}",
    )


def result(digits: Report, minutes: float, fashion: Report, longer: float) -> Result:
    """What both reports show, and in how many minutes."""
    rows = [
        *size(digits, "digits", attacked=6, seeded=3),
        Row("digits: wall clock", minutes, "min", at_most=60),
    ]
    rows += [*size(fashion, "Fashion-MNIST"), Row("Fashion-MNIST: wall clock", longer, "min")]
    work = (
        "`scenarios/matrix.toml`: MLP 64-128-128-10 with dropout, ten clients, batches of four, the first of"
        " 100 rounds attacked, eight victims per model, attackers who know the defense; Fashion-MNIST:"
        " 784-128-128-10, one seed, 50 rounds"
    )
    tables = [
        table(report, mode, name)
        for name, report in (("Digits", digits), ("Fashion-MNIST", fashion))
        for mode in MODES
    ]
    return Result("defense_matrix", work, rows, tables=tables)


def main() -> int:
    digits, minutes = measured("bench-matrix")
    fashion, longer = measured("bench-matrix-fashion", FASHION)
    return finish(result(digits, minutes, fashion, longer))


if __name__ == "__main__":
    sys.exit(main())
