"""How a sweep is put into words: its axes, its cells, and what came of all of them in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab.report.reading import LEVELS, UNTRIED, decibel, mode_word, percent, plural, several

Row = dict[str, Any]
Found = tuple[str, Row]
"""A row of a cell, and what it is called."""


def short(keys: list[str]) -> dict[str, str]:
    """Each key's last part where no other key ends alike: `clients.batch_size` is `batch_size`."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: key if last.count(end) > 1 else end for key, end in zip(keys, last, strict=True)}


def in_words(value: Any) -> str:
    """A value without TOML's quotes and brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        rest = ", ".join(f"{key} {in_words(item)}" for key, item in value.items() if key != "name")
        name = str(value.get("name", ""))
        return f"{name} ({rest})" if name and rest else name or rest
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def place(row: Row) -> tuple[int, float, float]:
    """How much a row leaks: by level, share recovered, median."""
    return LEVELS[row["level"]].rank, row["fraction_recovered"] or 0.0, row["psnr_median"] or 0.0


def called(row: Row, rows: list[Row]) -> str:
    """A row of a cell by what the sweep has several of: strategy, defense, client mode; nothing else."""
    parts = [str(row[axis]) for axis in ("strategy", "defense") if several(rows, axis)]
    if several(rows, "client_mode"):
        parts.append(mode_word(row["client_mode"]))
    return ", ".join(parts)


def in_short(cell: Row) -> str:
    """What came of a cell, in half a line."""
    rows = cell["rows"]
    if not rows:
        return ""
    worst = max(rows, key=place)
    accuracies = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    told = []
    if accuracies:
        low, high = percent(min(accuracies), 1), percent(max(accuracies), 1)
        told.append(f"accuracy {low}" + (f" to {high}" if low != high else ""))
    if worst["images"]:
        told.append(f"{worst['recovered']} of {worst['images']} images, {decibel(worst['psnr_median'])}")
    if cell["gates_failed"]:
        told.append(f"{plural(len(cell['gates_failed']), 'gate')} failed")
    return ", ".join(told)


def settings_in_words(cell: Row, axes: list[Row]) -> str:
    """`batch_size 4, seed 1`"""
    return ", ".join(f"{axis['name']} {in_words(cell['settings'][axis['key']])}" for axis in axes)


def headline(axes: list[Row], cells: list[Row]) -> str:
    """What came of a sweep, in a few sentences; its two ends are named only where it has two."""
    finished = [cell for cell in cells if cell["status"] == "finished"]
    count = f"{len(finished)} of {plural(len(cells), 'cell')} finished"
    if not finished:
        return f"{count}: nothing is known yet."
    rows = [row for cell in finished for row in cell["rows"]]
    noun = "cell" if len(rows) == len(finished) else "row"
    found = [
        (", ".join(filter(None, [settings_in_words(cell, axes), called(row, rows)])), row)
        for cell in finished
        for row in cell["rows"]
    ]
    answered = [one for one in found if one[1]["psnr_median"] is not None]
    if not answered:
        return f"{count}. No attack answered with an image: nothing was measured about reconstruction."
    measured = len(finished) == len(cells) and len(answered) == len(rows)
    return " ".join([f"{count}.", _leaks(answered, noun, measured=measured), *_silent(rows, noun)])


def _leaks(found: list[Found], noun: str, *, measured: bool) -> str:
    """Of the rows for which an attack answered; whether these are all that the sweep was to have."""
    which = noun if measured else f"measured {noun}"
    found = sorted(found, key=lambda one: place(one[1]))
    if len(found) == 1:
        return f"With {found[0][0]}: {_taken(found[0][1])}."
    ends = {_share(row) for _, row in found}
    if ends == {1.0}:
        return f"Every attacked image was recovered in every {which}, whatever was turned: {_spread(found)}."
    if ends == {0.0}:
        return f"No attacked image was recovered in any {which}: {_spread(found)}."
    (least, low), (most, high) = found[0], found[-1]
    return (
        f"Most leaked with {most}: {_taken(high)}{_alike(found, high, noun)};"
        f" least with {least}: {_taken(low)}{_alike(found, low, noun)}."
    )


def _taken(row: Row) -> str:
    return (
        f"{row['recovered']} of {plural(row['images'], 'attacked image')} recovered,"
        f" median {decibel(row['psnr_median'])}, accuracy {percent(row['accuracy'], 1)}"
    )


def _share(row: Row) -> float:
    return float(row["recovered"] / row["images"])


def _alike(found: list[Found], row: Row, noun: str) -> str:
    """How many others are at the same end of all: what tells them apart is little."""
    share = _share(row)
    more = sum(_share(other) == share for _, other in found) - 1
    if not more or share not in (0.0, 1.0):
        return ""
    return f" ({'every' if share else 'no'} image in {plural(more, f'more {noun}')})"


def _spread(found: list[Found]) -> str:
    """Medians and accuracies from the lowest to the highest."""
    medians = sorted(((row["psnr_median"], name) for name, row in found), key=lambda one: one[0])
    low, high = decibel(medians[0][0]), decibel(medians[-1][0])
    told = f"median {low}" if low == high else f"median {low} ({medians[0][1]}) to {high} ({medians[-1][1]})"
    known = [row["accuracy"] for _, row in found if row["accuracy"] is not None]
    if not known:
        return told
    low, high = percent(min(known), 1), percent(max(known), 1)
    return f"{told}, accuracy {low}" + (f" to {high}" if low != high else "")


def _silent(rows: list[Row], noun: str) -> Iterator[str]:
    """Rows for which no attack answered: they are at neither end."""
    silent = [row for row in rows if row["psnr_median"] is None]
    untried = sum(row["level"] in UNTRIED for row in silent)
    if tried := len(silent) - untried:
        yield f"In {plural(tried, noun)} no attack answered with an image."
    if untried:
        yield f"In {plural(untried, noun)} no attack was tried, or all failed: nothing is known of them."
