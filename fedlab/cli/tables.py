"""What a finished run prints: its scores, and for several strategies what each of them took."""

from __future__ import annotations

from typing import Any

from fedlab.cli.output import grid
from fedlab.terminal import duration


def summary(data: dict[str, Any]) -> Any:
    """One row per attack on what was trained; what belongs to the defense stands in its first row only.

    The strategy has a column where there are several, and so has what the attacker was assumed to know.
    """
    from fedlab.report.reading import epsilon as rounded_up
    from fedlab.report.reading import key, several

    strategies = ["strategy"] if several(data["utility"], "strategy") else []
    threats = ["threat"] if any(row.get("threat_label") for row in data["attacks"]) else []
    numbers = ["PSNR dB", "null dB", "recovered"]
    table = grid(*strategies, "defense", "clients", "accuracy", "ε", "attack", *threats, *numbers)
    for column in table.columns:
        column.justify = "right" if column.header in ("accuracy", "ε", *numbers) else "left"
    guarantees = {key(row): row for row in data["guarantees"]}
    for trained in _trained(data):
        epsilon = guarantees.get(key(trained), {}).get("epsilon")
        first = [
            *(str(trained["strategy"]) for _ in strategies),
            str(trained["defense"]),
            str(trained.get("client_mode", "")),
            _number(trained["accuracy"], ".3f"),
            "none" if epsilon is None else rounded_up(epsilon),
        ]
        rows = [row for row in data["attacks"] if key(row) == key(trained)]
        for row in rows:
            attack, *scores = _scores(row)
            table.add_row(*first, attack, *(str(row.get("threat_label") or "") for _ in threats), *scores)
            first = [""] * len(first)
        if not rows:
            told = "not attacked" if (data.get("app") or {}).get("obstacles") else "no attacks"
            table.add_row(*first, told, *(["", "", ""] + [""] * len(threats)))
    return table


def _trained(data: dict[str, Any]) -> list[dict[str, Any]]:
    """What was trained, each once: with its accuracy, or without one where none was measured."""
    from fedlab.report.reading import key

    measured = {key(row): row for row in data["utility"]}
    others = {key(cell): {**cell, "accuracy": None} for cell in data["run"]["cells"]}
    return [*measured.values(), *(row for place, row in others.items() if place not in measured)]


def membership(data: dict[str, Any]) -> Any | None:
    """One row per membership attack on what was trained; None where records were not asked about."""
    from fedlab.report.reading import namer

    rows = data.get("membership") or []
    if not rows:
        return None
    rates = [f"found at {100 * one['at']:g} % FPR" for one in rows[0]["powers"]]
    table = grid("trained", "membership", *rates, "AUC", "null AUC", "records")
    for column in table.columns[2:]:
        column.justify = "right"
    name = namer(data["run"]["cells"])
    for row in rows:
        under = f" ({row['threat_label']})" if row["threat_label"] else ""
        missing = {"failed": "attack failed", "refused": "not applicable"}.get(
            row["level"], "too few records"
        )
        table.add_row(
            name(row),
            row["attack"] + under,
            *(_number(one["rate"], ".1%", missing=missing) for one in row["powers"]),
            _number(row["auc"], ".3f"),
            _number(row["control"]["auc"], ".3f"),
            f"{row['members']} + {row['non_members']}",
        )
    return table


def pace(data: dict[str, Any]) -> Any | None:
    """What each strategy took, to the target if there is one, and how much less than the first.

    None for a run of one strategy.
    """
    rows = (data.get("fleet") or {}).get("rows") or []
    if len({row["strategy"] for row in rows}) < 2:
        return None
    target = (data["fleet"].get("target") or {}).items()
    goal = "".join(f" to {name} {value:g}" for name, value in target)
    # Totals that nobody aimed at are not compared.
    sooner, fewer = (["times sooner"], ["times fewer"]) if target else ([], [])
    table = grid("strategy", f"time{goal}", *sooner, "uploads", *fewer)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        took = (row["reached"] if target else row["total"]) or {}
        seconds, uploads = took.get("seconds"), took.get("uploads")  # None if no seed met the target
        ratio = row.get("ratio") or {}
        table.add_row(
            str(row["name"]),
            "not reached" if seconds is None else duration(seconds["mean"]) + _some(took, row),
            *(_ratio(ratio.get("seconds")) for _ in sooner),
            "–" if uploads is None else f"{uploads['mean']:,.0f}",
            *(_ratio(ratio.get("uploads")) for _ in fewer),
        )
    return table


def makespan(data: dict[str, Any]) -> Any | None:
    """When each of several tasks met its target, and when the last one did; None without such tasks."""
    rows = data.get("tasks") or []
    labels = [one["label"] for one in rows[0]["tasks"] if one["target"]] if rows else []
    if not labels:
        return None
    table = grid("strategy", *labels, "all", f"of {rows[0]['name']}'s time")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        met = [one["seconds"] for one in row["tasks"] if one["label"] in labels]
        times = ["not reached" if one is None else duration(one) for one in (*met, row["makespan"])]
        table.add_row(str(row["name"]), *times, _number(row["ratio"], ".0%", missing=""))
    return table


def _some(took: dict[str, Any], row: dict[str, Any]) -> str:
    """How many seeds met the target, where not all did: the mean is theirs."""
    met, seeds = took.get("seeds"), len(row["seeds"])
    return "" if met in (None, seeds) else f" ({met} of {seeds} seeds)"


def _ratio(found: dict[str, Any] | None) -> str:
    return "" if found is None or found.get("mean") is None else f"{found['mean']:.3g}"


def _scores(row: dict[str, Any]) -> list[str]:
    null = row.get("control") or {}
    reading = str(row.get("reading", "–"))
    if row.get("label_accuracy") is not None and row.get("level") == "labels":
        by_chance = _number(null.get("label_accuracy"), ".0%")
        reading = f"labels: {_number(row['label_accuracy'], '.0%')} (null {by_chance})"
    return [
        str(row["attack"]),
        _number(row.get("psnr_median"), ".1f"),
        _number(null.get("psnr_median"), ".1f"),
        # Without a score, the row says why: it failed, or had no victim, or declined.
        _number(row.get("fraction_recovered"), ".0%", missing=reading),
    ]


def _number(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else format(value, form)
