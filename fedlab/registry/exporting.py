"""What of a run other tools are given, the same for each: its settings, curves, figures and words."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from fedlab.errors import BackendError, DataError
from fedlab.foreign import clean
from fedlab.registry.entry import LARGEST, Entry, look, read_manifest

Row = dict[str, Any]
Tool = Literal["tensorboard", "mlflow"]

CURVES = ("accuracy", "loss", "train_loss")
"""What is measured as training goes on."""
FIGURES = {
    "attacks": ("psnr_median", "fraction_recovered", "label_accuracy"),
    "membership": ("auc",),
    "utility": ("accuracy", "loss"),
    "guarantees": ("epsilon",),
}
"""What is handed on of each table of the report."""


@dataclass(frozen=True)
class Point:
    """One value of a curve: after `round` rounds and `seconds` of virtual time."""

    round: int
    seconds: float
    value: float


@dataclass(frozen=True)
class Handed:
    """Everything that a tool is given.

    Attributes:
        settings: of the resolved scenario, by dotted path.
        curves: by name, as "accuracy/none-train-s7": a curve per trained cell.
        figures: of the report, as "attacks/none/train/linear-layer/psnr_median".
        texts: claim, verdict and note, those that there are.
        documents: the report, as files.
    """

    entry: Entry
    settings: dict[str, str]
    curves: dict[str, list[Point]]
    figures: dict[str, float]
    texts: dict[str, str]
    documents: tuple[Path, ...]

    @property
    def started(self) -> float:
        """Seconds since 1970; 0 if the run does not say."""
        return moment(self.entry.started)


def export(path: Path, tool: Tool, out: Path | None = None) -> list[str]:
    """Hand a run on, and tell where it lies and how to look at it.

    Args:
        out: a directory; one called like the tool unless given.

    Raises:
        BackendError: the tool is not installed, or the disk refuses.
        NewerRun, DataError: the run is a later fedlab's, or damaged.
        UsageError: the directory holds this run already.
    """
    from fedlab.registry import to_mlflow, to_tensorboard

    write: Callable[[Handed, Path], list[str]]
    write = to_tensorboard.write if tool == "tensorboard" else to_mlflow.write
    return write(gather(path), (out or Path(tool)).absolute())


def gather(path: Path) -> Handed:
    """Of a run, finished or not: what is there.

    Raises:
        NewerRun, DataError: it is a later fedlab's, or damaged.
    """
    read_manifest(path)
    entry = look(path)
    metrics, report = _read(path / "metrics.json"), _read(path / "report.json")
    try:
        curves = dict(_curves(metrics))
        figures = dict(_figures(report))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: metrics.json or report.json is damaged or of another version ({error!r});"
            f" build the report again: fedlab report {path}"
        ) from error
    said = {
        "claim": entry.claim,
        "verdict": entry.headline.text if entry.headline else "",
        "note": entry.marks.note,
    }
    documents = tuple(path / name for name in ("report.html", "report.json") if (path / name).is_file())
    texts = {name: text for name, text in said.items() if text}
    return Handed(entry, _settings(path), curves, figures, texts, documents)


def needed(module: str, tool: Tool) -> ModuleType:
    """Import what an extra brings.

    Raises:
        BackendError: it is not installed, or it does not load; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken package raises anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        why = "is not installed" if missing else f"does not load ({type(error).__name__}: {error})"
        raise BackendError(
            f'--to {tool} needs the package {tool}, which {why}; pip install "fedlab-audit[{tool}]"'
        ) from error


def moment(text: str) -> float:
    """Seconds since 1970 of a time in ISO 8601; 0 for what is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _curves(metrics: Row) -> Iterator[tuple[str, list[Point]]]:
    for cell, measured in (metrics.get("cells") or {}).items():
        for name in CURVES:
            points = [
                Point(int(one["round"]), float(one.get("seconds") or 0.0), float(one[name]))
                for one in measured.get("rounds") or []
                if one.get(name) is not None
            ]
            if points:
                yield f"{name}/{cell}", points


def _figures(report: Row) -> Iterator[tuple[str, float]]:
    for table, names in FIGURES.items():
        for row in report.get(table) or []:
            axes = ("strategy", "defense", "client_mode", "attack", "threat_label")
            place = "/".join(str(row[axis]) for axis in axes if row.get(axis))
            for name in names:
                if row.get(name) is not None:
                    yield f"{table}/{place}/{name}", float(row[name])


def _settings(path: Path) -> dict[str, str]:
    file = path / "scenario.toml"
    if not file.is_file():
        return {}
    try:
        return dict(_leaves(clean(tomllib.loads(file.read_text(encoding="utf-8")))))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}); restore it from a copy, or run again") from error


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """`defenses.dp-sgd.noise_multiplier`: entries of a list go by their labels."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value = {str(one.get("label") or one.get("name") or place): one for place, one in enumerate(value)}
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    else:
        yield (
            path,
            json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value),
        )


def _read(path: Path) -> Row:
    """A JSON object; {} if there is no such file.

    Raises:
        DataError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes; expected at most {LARGEST}")
        data = clean(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it from a copy, or run again") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} is damaged: no JSON object; restore it from a copy, or run again")
    return data
