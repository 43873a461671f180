"""What each defense costs: accuracy with its interval, bytes, the size of the model and time."""

from __future__ import annotations

import math
import statistics
from typing import Any

from safetensors import SafetensorError, safe_open
from scipy.stats import t

from fedlab.errors import DataError
from fedlab.report.reading import AXES, panel
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]


def cost(run: Run, utility: list[Row], undefended: set[str]) -> list[Row]:
    """One row per pool that was trained. Bytes are per client and round; `uplink_bytes` as the defense would
    code an update, null in runs that do not say."""
    rows = []
    pools = dict((tuple(place.values()), cells) for place, cells in run.pools)
    for row in utility:
        cells = pools[tuple(row[axis] for axis in AXES)]
        measured = [run.metrics[cell["name"]] for cell in cells if cell["name"] in run.metrics]
        base = next(
            (one for one in utility if one["defense"] in undefended and panel(one) == panel(row)), None
        )
        kept = base is row
        interval, kind = (None, None) if base is None or kept else _difference(run, row, base)
        with malformed("metrics.json"):
            coded = [float(one["uplink_bytes"]) for one in measured if one.get("uplink_bytes") is not None]
        rows.append(
            {
                **{axis: row[axis] for axis in AXES},
                "accuracy_cost": row["accuracy_cost"],
                "accuracy_cost_ci95": interval,
                "accuracy_cost_ci95_kind": kind,
                "values": _values(run, cells),
                "sent": (row["wire"] or {}).get("sent"),
                "received": (row["wire"] or {}).get("received"),
                "uplink_bytes": statistics.fmean(coded) if coded else None,
                "virtual_seconds": row["virtual_seconds"],
            }
        )
    return rows


def _difference(run: Run, row: Row, base: Row) -> tuple[list[float] | None, str | None]:
    """Of the accuracy cost: over seeds in pairs (Student's t), else from the two intervals (MOVER: Zou and
    Donner 2008), which is wide, because both models are tested on the same records."""
    mine, theirs = _by_seed(run, row), _by_seed(run, base)
    shared = sorted(mine.keys() & theirs.keys())
    gaps = [theirs[seed] - mine[seed] for seed in shared]
    if len(gaps) > 1:
        mean = statistics.fmean(gaps)
        half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        return [mean - half, mean + half], f"{len(gaps)} seeds, in pairs"
    if row["accuracy_ci95"] is None or base["accuracy_ci95"] is None:
        return None, None
    (low, high), (base_low, base_high) = row["accuracy_ci95"], base["accuracy_ci95"]
    gap = base["accuracy"] - row["accuracy"]
    down = math.hypot(base["accuracy"] - base_low, high - row["accuracy"])
    up = math.hypot(base_high - base["accuracy"], row["accuracy"] - low)
    return [gap - down, gap + up], row["accuracy_ci95_kind"]


def _by_seed(run: Run, row: Row) -> dict[int, float]:
    place = tuple(row[axis] for axis in AXES)
    return {
        cell["seed"]: float(run.metrics[cell["name"]]["accuracy"])
        for cell in run.cells
        if tuple(cell[axis] for axis in AXES) == place and cell["name"] in run.metrics
    }


def _values(run: Run, cells: list[Row]) -> int | None:
    """Parameters and buffers of the trained model, as its file says; None without the file."""
    path = run.file("models", cells[0]["name"], "model.safetensors")
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return sum(int(math.prod(file.get_slice(name).get_shape())) for name in file.keys())
    except (SafetensorError, OSError, TypeError) as error:
        raise DataError(f"{path}: not readable ({error}); the file is damaged, run again") from error
