"""Membership in the report: how many of the records that were used a server would pick out.

Scores of one target are brought to a common scale (median and interquartile range) before those of all
targets and seeds are pooled: see `fedlab.audit.detection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab.audit.detection import Detection, Floats, detection, roc, standardised
from fedlab.report.reading import AXES, interval, key, namer, percent, plural, reached
from fedlab.report.rundir import Run, malformed
from fedlab.report.svg import LINE, MUTED, SERIES, inline

Row = dict[str, Any]
KIND = "membership"
POINTS = 160
"""Points of a curve at most."""
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (7, 2, 2, 2), (9, 3), (1, 2))
LOWEST = 1e-3


def membership_rows(run: Run) -> list[Row]:
    """One row per membership attack, threat and pool: all targets of all seeds, the controls beside them.

    Runs from before labels were matched have no control of labels alone: its area is None.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    cells = {cell["name"]: cell for cell in run.cells}
    for one in run.memberships:
        place = str(one["attack"]), str(one.get("threat_label") or ""), *key(cells[one["cell"]])
        groups.setdefault(place, []).append(one)
    return [
        _row(attack, under, dict(zip(AXES, axes, strict=True)), files)
        for (attack, under, *axes), files in groups.items()
    ]


def _row(attack: str, under: str, axes: dict[str, str], files: list[Row]) -> Row:
    with malformed(f"membership of {attack} on {axes['defense']} ({axes['client_mode']})"):
        targets = [one for file in files for one in file.get("targets") or []]
        answered = [one for one in targets if one["scores"] is not None]
        controlled = [one for one in targets if one["control"] is not None]
        failed = [str(file["error"]) for file in files if file.get("failed")]
        declined = [str(file["error"]) for file in files if file.get("error") and not file.get("failed")]
        declined += [str(one["refusal"]) for one in targets if one.get("refusal")]
        scores, member = _pooled(answered, "scores")
        null, null_member = _pooled(controlled, "control")
        alone, alone_member = _pooled([one for one in answered if "label_control" in one], "label_control")
        first = files[0]
        row: Row = {
            "attack": attack,
            "plugin": str(first.get("plugin") or attack),
            "paper": str(first.get("paper") or ""),
            "needs": [str(item) for item in first.get("needs") or []],
            **axes,
            "threat": dict(first.get("threat") or {}),
            "threat_label": under,
            "targets": len(answered),
            "refused": len(targets) - len(answered),
            "rounds": sorted({int(number) for one in answered for number in one["rounds"]}),
            **_numbers(detection(scores, member)),
            "control": _numbers(detection(null, null_member)),
            "label_control": _numbers(detection(alone, alone_member)),
            "dropped": sum(int(file.get("dropped") or 0) for file in files),
            "roc": _curve(scores, member),
            "refusal": "; ".join(dict.fromkeys(declined)) or None,
            "error": "; ".join(dict.fromkeys(failed)) or None,
            "failed": len(failed),
            "seeds": sorted({int(file["seed"]) for file in files}),
            "level": "failed" if failed and not answered else KIND if answered else "refused",
        }
    return {**row, "sentence": _sentence(row)}


def _pooled(targets: Sequence[Row], which: str) -> tuple[Floats, Floats]:
    """(scores, members) of all targets, each on the common scale."""
    empty = np.empty(0)
    scores = [standardised([float(value) for value in one[which]]) for one in targets]
    return np.concatenate([empty, *scores]), np.concatenate([empty, *(one["member"] for one in targets)])


def _numbers(found: Detection) -> Row:
    return {
        "members": found.members,
        "non_members": found.non_members,
        "auc": found.auc,
        "auc_ci95": _list(found.auc_ci95),
        "powers": [
            {
                **asdict(one),
                "ci95": _list(one.ci95),
                "false_alarm_ci95": _list(one.false_alarm_ci95),
                "told": one.told,
            }
            for one in found.powers
        ],
    }


def _list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)


def _curve(scores: Floats, member: Floats) -> Row:
    """The curve where this sample has any: the best rate at each number of false alarms from one on."""
    if not member.any() or member.all():
        return {"false": [], "true": []}
    false, true = roc(scores, member)
    counts = np.unique(false[false > 0])
    if len(counts) > POINTS:
        wanted = np.geomspace(counts[0], 1.0, POINTS)
        counts = counts[np.unique(np.searchsorted(counts, wanted).clip(max=len(counts) - 1))]
    best = true[np.searchsorted(false, counts, side="right") - 1]
    return {"false": counts.tolist(), "true": best.tolist()}


def _sentence(row: Row) -> str:
    """What a reader who knows no statistics takes away; it never says that nothing leaks."""
    if row["level"] == "failed":
        return f"The attack failed, which says nothing about what leaks: {row['error']}"
    if row["level"] == "refused":
        return f"Not applicable: {row['refusal'] or 'nobody was asked about'}"
    who = plural(row["targets"], "client")
    power, control = row["powers"][0], row["control"]["powers"][0]
    if power["rate"] is None:
        return (
            f"Too few records to say how surely a server tells which ones {who} used: at one wrong suspicion"
            f" in a hundred the figure {power['reason']}."
        )
    shown = f"{percent(power['rate'], 1)} (95 %: {interval(power['ci95'], 100)} %)"
    if not power["told"]:
        # Where even finding every record could be luck, there is no such share.
        reach = "" if power["chance"] is None else f" (under {percent(power['chance'], 1)})"
        return (
            f"Wrongly suspecting one record in a hundred, a server picks out {shown} of those that {who}"
            f" used: no more than guessing may reach with so many records{reach}."
        )
    text = (
        f"Wrongly suspecting one record in a hundred, a server picks out {shown} of those that {who} used;"
        f" guessing picks out {percent(power['at'])}."
    )
    if control["told"]:
        text += (
            f" On random updates the same attack picks out {percent(control['rate'], 1)}: part of what it"
            " finds lies in the model that was sent, or in how the records differ, and not in the update."
        )
    return text


def strongest(rows: Sequence[Row]) -> list[Row]:
    """For each defense the row that tells most, of the scenario's own attacker if it was tried: a rate
    beyond guessing first, then the rate, then the area."""
    pools: dict[tuple[str, str, str], list[Row]] = {}
    for row in reached(rows) or rows:
        pools.setdefault(key(row), []).append(row)
    return [max(pool, key=_rank) for pool in pools.values()]


def _rank(row: Row) -> tuple[bool, float, float]:
    power = row["powers"][0]
    return power["told"], power["rate"] or 0.0, row["auc"] or 0.0


def brief(row: Row) -> str:
    """The same as the sentence of a row, in the few words that a cell of a table has room for."""
    if row["level"] == "failed":
        return "membership: failed"
    if row["level"] == "refused":
        return "membership: not applicable"
    power = row["powers"][0]
    if power["rate"] is None:
        return "membership: too few records to say"
    beyond = "" if power["told"] else ", as guessing may"
    return f"membership: {percent(power['rate'], 1)} picked out by {row['attack']}{beyond}"


def with_membership(verdict: Row, rows: Sequence[Row], attacks: Sequence[Row]) -> Row:
    """The verdict with what was found about membership, and its headline if nothing else was tried."""
    said = {
        key(row): (f"Membership ({row['attack']}): {row['sentence']}", brief(row)) for row in strongest(rows)
    }
    findings = []
    for one in verdict["findings"]:
        sentence, words = said.get(key(one), (None, None))
        findings.append({**one, "membership": sentence, "membership_brief": words})
    headline = verdict["headline"]
    if rows and not attacks:
        findings = [{**one, "leakage": "No reconstruction was tried."} for one in findings]
        first = max(strongest(rows), key=_rank)
        headline = f"No reconstruction was tried. {first['sentence']}"
    return {**verdict, "headline": headline, "findings": findings}


def curves(data: Row) -> list[tuple[str, Markup]]:
    """(what was trained, figure) for each defense: true against false positives, both logarithmic."""
    rows = [row for row in data["membership"] if row["roc"]["false"]]
    name = namer(data["run"]["cells"])
    pools: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        pools.setdefault(key(row), []).append(row)
    order = list(dict.fromkeys(map(label, data["membership"])))
    return [
        (name(pool[0]), _figure(f"membership-{number}", name(pool[0]), pool, order))
        for number, pool in enumerate(pools.values(), start=1)
    ]


def shown(data: Row) -> dict[str, Any]:
    """What the page shows beside the table."""
    rows = data["membership"]
    told: dict[tuple[str, str], list[Row]] = {}
    for row in strongest(rows):
        told.setdefault((label(row), row["sentence"]), []).append(row)
    return {
        "strongest": [(same[0], same) for same in told.values()],  # what is said of several is said once
        "some": len(rows) > sum(map(len, told.values())),
        "curves": curves(data),
        "series": series(rows),
    }


def label(row: Row) -> str:
    """An attack, and the threat where it is not the scenario's own."""
    return f"{row['attack']} ({row['threat_label']})" if row["threat_label"] else str(row["attack"])


def series(rows: Iterable[Row]) -> list[tuple[str, int, str]]:
    """(label, colour, dashes) of each attack, the same in all figures."""
    return [
        (one, place % len(SERIES) + 1, " ".join(f"{length:g}" for length in _dashes(place)))
        for place, one in enumerate(dict.fromkeys(map(label, rows)))
    ]


def _dashes(place: int) -> tuple[float, ...]:
    return DASHES[(place + place // len(SERIES)) % len(DASHES)]


def _figure(name: str, who: str, rows: list[Row], order: list[str]) -> Markup:
    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        lowest = min(LOWEST, *(row["roc"]["false"][0] for row in rows))
        guess = np.geomspace(lowest, 1.0, 50)
        axes.plot(guess, guess, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.text(0.012, 0.008, "guessing", color=MUTED, fontsize=8.5, ha="left", va="top")
        for row in rows:
            place = order.index(label(row))
            true = np.maximum(row["roc"]["true"], lowest)
            (line,) = axes.plot(
                row["roc"]["false"],
                true,
                color=SERIES[place % len(SERIES)],
                linewidth=1.9,
                drawstyle="steps-post",
            )
            if _dashes(place):
                line.set_dashes(_dashes(place))
        for power in rows[0]["powers"]:
            axes.axvline(power["at"], color=LINE, linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(lowest, 1.0)
        axes.set_ylim(lowest, 1.15)
        ticks = [tick for tick in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0) if tick >= lowest]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
            axis.set_ticks([], minor=True)
        axes.set_xlabel("wrongly suspected, of records that were not used")
        axes.set_ylabel("picked out, of records that were")

    return inline(name, f"True against false positives of membership attacks on {who}", (4.1, 3.3), draw)
