"""What the run itself warned of, told as it is."""

from __future__ import annotations

import json
from typing import Any

from fedlab.report.rundir import LARGEST_FILE, Run, clean

Row = dict[str, Any]


def warnings(run: Run) -> list[Row]:
    """Each caution of the run once, with the trained models that it is about.

    Events also hold what a crash and a resumption leave behind, which is no finding: only cautions count.
    """
    path = run.file("events.jsonl")
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        return []
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"caution"' not in line:
            continue
        try:
            event = clean(json.loads(line))
        except (ValueError, RecursionError):  # a crash may leave half a line
            continue
        if isinstance(event, dict) and event.get("event") == "caution":
            cells = found.setdefault(str(event.get("reason")), [])
            cell = str(event.get("cell") or "")
            if cell and cell not in cells:
                cells.append(cell)
    return [{"text": text, "cells": cells} for text, cells in found.items()]
