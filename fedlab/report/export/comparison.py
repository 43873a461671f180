"""What `fedlab.report.compare` found, as tables for a terminal or Markdown, and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedlab.report.export.table import written
from fedlab.report.export.words import said, table
from fedlab.report.reading import AXES, epsilon, interval, namer, percent, several, small

Row = dict[str, Any]

_ALONE = " *"
_DIFFERENCES = {
    "attacks": "psnr_difference",
    "membership": "auc_difference",
    "utility": "accuracy_difference",
}


@dataclass(frozen=True)
class Sheet:
    """One table: heads that begin with `>` stand over figures. `note` says what must be known to read it."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def sheets(data: Row) -> list[Sheet]:
    """The tables of a comparison, those without rows left out."""
    letters = [run["letter"] for run in data["runs"]]
    who = namer(data["weights"])
    attacks = _Columns(letters, who)
    found = [
        _runs(data),
        Sheet("Set otherwise", ("key", *letters), [_setting(row) for row in data["settings"]]),
        Sheet("Other software", ("package", *letters), [_setting(row) for row in data["software"]]),
        _attacks(data, attacks),
        _recovered(data, attacks),
        Sheet(
            "Membership",
            ("trained", "attack", *attacks.heads),
            [
                (
                    who(row),
                    _attack(row),
                    *map(_membership, row["runs"]),
                    *(_independent(one, 1.0, 3) for one in row["differences"]),
                )
                for row in data["membership"]
            ],
            "Area under the curve, and the share found at 1 % false alarms; differences of the area (95 %).",
        ),
        _accuracy(data, attacks),
        Sheet(
            "Cost",
            ("trained", *(f">{one}" for one in letters)),
            [
                (who(row), *map(_cost, row["runs"]))
                for row in data["utility"]
                if any(_cost(one) != "–" for one in row["runs"])
            ],
            "Sent and received by a client per round; virtual time of a training.",
        ),
        Sheet(
            "Proved",
            ("trained", *(f">{one}" for one in letters)),
            [(who(row), *map(_guarantee, row["runs"])) for row in data["guarantees"]],
        ),
        _weights(data, letters, who),
    ]
    return [one for one in found if one.rows]


@dataclass(frozen=True)
class _Columns:
    """A column per run and one per difference from the first."""

    letters: Sequence[str]
    who: Callable[[Row], str]

    @property
    def heads(self) -> tuple[str, ...]:
        base, *others = self.letters
        return (*(f">{one}" for one in self.letters), *(f">{one} − {base}" for one in others))


def _runs(data: Row) -> Sheet:
    rows = []
    for run in data["runs"]:
        failed = sum(one["verdict"] != "passed" for one in run["gates"])
        gates = f"{failed} of {len(run['gates'])} failed" if run["gates"] else "none"
        rows.append((run["letter"], run["directory"], run["name"], run["status"], gates))
    return Sheet("Runs", ("", "directory", "name", "status", "gates"), rows)


def _setting(row: Row) -> tuple[str, ...]:
    return row["key"], *("–" if value is None else _plain(value) for value in row["values"])


def _plain(value: Any) -> str:
    """As in TOML, but without quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _attacks(data: Row, columns: _Columns) -> Sheet:
    rows = [
        (
            columns.who(row),
            _attack(row),
            *map(_scores, row["runs"]),
            *(_gain(one) for one in row["differences"]),
        )
        for row in data["attacks"]
    ]
    note = "Median PSNR in dB, images recovered; differences of mean PSNR (95 %), at most 60 dB each."
    if any(cell.endswith(_ALONE) for row in rows for cell in row):
        note += " * Not the same victims: each side resampled on its own."
    return Sheet("Reconstruction", ("trained", "attack", *columns.heads), rows, note)


def _attack(row: Row) -> str:
    return f"{row['attack']} ({row['threat_label']})" if row["threat_label"] else str(row["attack"])


def _scores(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["psnr_median"] is None:
        return str(row["reading"])
    return f"{row['psnr_median']:.1f}, {row['recovered']}/{row['images']}"


def _recovered(data: Row, columns: _Columns) -> Sheet:
    """How many images, where either run has any."""
    rows = [
        (
            columns.who(row),
            _attack(row),
            *("–" if one is None else percent(one["fraction_recovered"]) for one in row["runs"]),
            *(_independent(one and one["recovered"], 100, 1) for one in row["differences"]),
        )
        for row in data["attacks"]
        if any(one and one["recovered"] for one in row["runs"])
    ]
    note = (
        "Share of the attacked images; differences in percentage points, with 95 % intervals that take the"
        " two sides as independent."
    )
    return Sheet("Images recovered", ("trained", "attack", *columns.heads), rows, note)


def _independent(found: Row | None, scale: float, digits: int) -> str:
    return _gain(found and {**found, "paired": True}, scale, digits)


def _gain(found: Row | None, scale: float = 1.0, digits: int = 1) -> str:
    if found is None:
        return "–"
    bounds = f" ({interval(found['ci95'], scale, digits)})" if found["ci95"] else ""
    nothing = f"{0:.{digits}f}"
    mean = f"{scale * found['mean']:+.{digits}f}"
    text = nothing if mean[1:] == nothing else mean
    return text + bounds + ("" if found["paired"] else _ALONE)


def _membership(row: Row | None) -> str:
    if row is None or row["auc"] is None:
        return "–"
    return f"{row['auc']:.3f}, {percent(row.get('tpr_at_fpr_0.01'), 1)}"


def _accuracy(data: Row, columns: _Columns) -> Sheet:
    rows = [
        (
            columns.who(row),
            *("–" if one is None else percent(one["accuracy"], 1) for one in row["runs"]),
            *(_gain(one and {**one, "paired": True}, 100) for one in row["differences"]),
        )
        for row in data["utility"]
    ]
    gains = [one for row in data["utility"] for one in row["differences"] if one]
    note = "Differences in percentage points"
    if any(one["ci95"] for one in gains):
        note += ", with 95 % intervals over the seeds that both have."
    elif gains:
        note += "; intervals take the same seeds in both, two or more."
    return Sheet("Accuracy", ("trained", *columns.heads), rows, note)


def _cost(row: Row | None) -> str:
    if row is None:
        return "–"
    traffic = "" if row["sent"] is None else f"{row['sent'] / 1000:,.1f} + {row['received'] / 1000:,.1f} kB"
    time = f"{row['virtual_seconds']:.0f} s" if row["virtual_seconds"] else ""
    return ", ".join(filter(None, [traffic, time])) or "–"


def _guarantee(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["epsilon"] is None:
        return "no formal guarantee"
    return f"ε = {epsilon(row['epsilon'])}, δ = {small(row['delta'])}"


def _weights(data: Row, letters: Sequence[str], who: Callable[[Row], str]) -> Sheet:
    """Which runs ended with the same bits: A = B, C."""
    seeds = several(data["weights"], "seed")
    rows = []
    for row in data["weights"]:
        groups: dict[str, list[str]] = {}
        for letter, digest in zip(letters, row["hashes"], strict=True):
            if digest:
                groups.setdefault(digest, []).append(letter)
        text = ", ".join(" = ".join(group) for group in groups.values())
        name = f"{who(row)}, seed {row['seed']}" if seeds else who(row)
        rows.append((name, text, {True: "the same", False: "different", None: "only there"}[row["equal"]]))
    return Sheet("Weights", ("trained", "runs", "bits"), rows)


def markdown(data: Row) -> str:
    """A comparison as Markdown."""
    parts = ["# Runs side by side"]
    for sheet in sheets(data):
        parts += [f"## {sheet.title}", table(sheet.heads, sheet.rows)]
        parts += [said(sheet.note)] if sheet.note else []
    return "\n\n".join(parts) + "\n"


def csv_text(data: Row) -> str:
    """A comparison as tidy CSV: one figure of one run per line, and one difference per line."""
    letters = [run["letter"] for run in data["runs"]]
    lines: list[Row] = []
    for name in ("attacks", "membership", "utility", "guarantees"):
        for row in data[name]:
            about = {"table": name, **{axis: row.get(axis, "") for axis in ("attack", "threat_label", *AXES)}}
            for letter, figures in zip(letters, row["runs"], strict=True):
                lines += [
                    {**about, "run": letter, "figure": figure, "value": value}
                    for figure, value in (figures or {}).items()
                    if not isinstance(value, list)
                ]
            for letter, gain in zip(letters[1:], row.get("differences", []), strict=False):
                if gain is not None:
                    low, high = gain["ci95"] or (None, None)
                    lines.append(
                        {**about, "run": letter, "figure": _DIFFERENCES[name], "value": gain["mean"],
                         "low": low, "high": high, "paired": gain.get("paired", False)}
                    )  # fmt: skip
    for name in ("settings", "software"):
        for row in data[name]:
            lines += [
                {"table": name, "run": letter, "figure": row["key"], "value": _plain(value)}
                for letter, value in zip(letters, row["values"], strict=True)
                if value is not None
            ]
    return written(lines, empty="table")
