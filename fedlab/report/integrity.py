"""What adversaries achieved: one row per strategy, defense and client mode, pooled over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlab.report.reading import plural
from fedlab.report.rundir import Run, malformed


def integrity_rows(run: Run) -> list[dict[str, Any]]:
    """Empty for a scenario without adversaries."""
    rows = []
    for axes, members in run.pools:
        measured = [run.metrics[cell["name"]] for cell in members if cell["name"] in run.metrics]
        with malformed("metrics.json"):
            groups: dict[str, list[dict[str, Any]]] = {}
            for one in measured:
                for group in one.get("adversaries") or []:
                    groups.setdefault(str(group["label"]), []).append(group)
            if groups:
                rows.append(
                    {
                        **axes,
                        "accuracy": float(np.mean([float(one["accuracy"]) for one in measured])),
                        "adversaries": [_pooled(run, label, found) for label, found in groups.items()],
                        "seeds": sorted({cell["seed"] for cell in members if cell["name"] in run.metrics}),
                    }
                )
    return rows


def _pooled(run: Run, label: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    entry = _entry(run, label)
    clients, wants = len(found[0]["clients"]), str(found[0].get("wants") or "")
    count = (run.scenario.get("clients") or {}).get("count")
    rates = [float(one["success"]) for one in found if one.get("success") is not None]
    return {
        "label": label,
        "plugin": str(entry.get("name") or label),
        "settings": {
            key: value for key, value in entry.items() if key not in ("name", "label", "fraction", "clients")
        },
        "clients": clients,
        "of": count,
        "success": float(np.mean(rates)) if rates else None,
        "success_definition": f"share of {wants}" if wants else None,
        "trials": sum(int(one.get("trials") or 0) for one in found),
        "threat": f"{plural(clients, 'client')} of {count} "
        + (
            "attacks, in every round that asks it."
            if clients == 1
            else "attack together, in every round that asks them."
        )
        + f" Attackers know {found[0].get('knows') or 'what was not recorded'}.",
    }


def _entry(run: Run, label: str) -> dict[str, Any]:
    """What the scenario says about the adversary."""
    entries = run.scenario.get("adversaries")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and str(entry.get("label") or entry.get("name")) == label:
            return entry
    return {}
