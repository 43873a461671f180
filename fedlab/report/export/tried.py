"""What was tried on an app, as Markdown: the table, a sentence per try, and the lines to change in fences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab.report.export.words import block, bullets, said, table
from fedlab.report.reading import decibel, interval, percent

Row = dict[str, Any]


def tried(data: Row) -> Iterator[str]:
    found = data.get("tried")
    if not found:
        return
    yield "## What was tried on the app"
    yield f"**{said(found['headline'])}**"
    heads = ("tried", "finding", ">recovered", ">median PSNR", ">control", ">labels", ">accuracy", ">cost")
    yield table((*heads, "proved"), map(_line, found["rows"]))
    yield bullets(map(said, found["sentences"]))
    if found["changes"]:
        yield "### What to change in the app"
    for one in found["changes"]:
        yield f"#### {said(one['label'])}"
        for step in one["steps"]:
            where = f" ({said(step['file'])}{_at(step['line'])})" if step["file"] else ""
            yield f"{said(step['text'])}{where}"
            if step["code"]:
                yield block(step["code"].rstrip("\n"), step["language"])
        yield bullets(map(said, one["notes"]))


def _at(line: int | None) -> str:
    return "" if line is None else f", line {line}"


def _line(row: Row) -> tuple[str | None, ...]:
    leak, labels, cost = row["leak"] or {}, row["labels"], row["accuracy_cost"]
    finding = f"{row['words']}: {row['why']}" if row["finding"] == "failed" else row["words"]
    bounds = row["accuracy_cost_ci95"]
    spread = f" ({interval(bounds, 100)})" if bounds else ""
    return (
        row["label"],
        finding,
        f"{leak['recovered']} of {leak['images']}" if leak else None,
        decibel(leak["psnr_median"]) if leak else None,
        decibel(leak["control"]) if leak else None,
        percent(labels["accuracy"]) if labels else None,
        percent(row["accuracy"], 1),
        None if cost is None or row["finding"] == "base" else f"{100 * cost:+.1f} points{spread}",
        row["guarantee"] or "nothing",
    )
