"""What was tried on a Flower app, side by side: what each try leaks, proves and costs, and what to change.

Made of the list `tried` in app.json, which `fedlab audit-app --try` writes, and of the report's own rows: a
try is a defense like any other. Runs without it have no such section.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedlab.report import tried_words
from fedlab.report.app import NAME
from fedlab.report.reading import LEVELS, UNTRIED, reached
from fedlab.report.rundir import Run, malformed, parse_json
from fedlab.report.tried_changes import Setting, changes
from fedlab.report.tried_entry import Try
from fedlab.report.verdict import strongest_of

Row = dict[str, Any]

RECOVERED = LEVELS["some"].rank
"""From this level on, images were taken."""

NONE = "no formal guarantee: "

FINDINGS = {
    "base": "",
    "stops": "stops it",
    "shows": "no image, yet above control",
    "declined": "attack no longer applies",
    "lessens": "leaks less",
    "same": "does not stop it",
    "idle": "nothing to stop",
    "unknown": "not measured",
    "failed": "could not be tried",
}
"""What a try came to, in words."""
HELPS = ("stops", "shows", "declined", "lessens")
"""Findings whose lines to change are shown."""

_LEAK = (
    *("attack", "psnr_median", "psnr_mean", "psnr_ci95", "psnr_max", "recovered", "images"),
    *("fraction_recovered", "fraction_ci95", "level", "reading"),
)


def tried(
    run: Run,
    attacks: list[Row],
    utility: list[Row],
    costs: list[Row],
    guarantees: list[Row],
    undefended: set[str],
) -> Row | None:
    """What report.json says of tries: {headline, sentences, rows, changes}; None where nothing was tried.

    The first row is the app as it is.
    """
    path = run.file(NAME)
    found = parse_json(path.read_bytes(), path) if path.is_file() else {}
    with malformed(NAME):
        if not found.get("tried"):
            return None
        tries = [Try.of(one) for one in found["tried"]]
        rounds = int(found["rounds"])
        attacks = reached(attacks)

        def row(label: str) -> Row:
            return _row(label, attacks, utility, costs, guarantees)

        plain = next((one["defense"] for one in run.cells if one["defense"] in undefended), "none")
        base = _about("as it is", "", "", "", ()) | row(plain) | {"finding": "base"}
        rows = [base]
        for one in tries:
            words = tried_words.about(one.name, one.acts, one.params)
            mine = _about(one.label, one.name, words, one.why, one.notes) | row(one.label)
            mine["guarantee"] = mine["guarantee"] or one.guarantee
            mine["finding"] = "failed" if one.failed else _finding(mine, base)
            rows.append(mine)
        for told in rows:
            told["words"] = FINDINGS[told["finding"]]
        base["words"] = LEVELS[base["leak"]["level"]].word if base["leak"] else "not measured"
        setting = Setting(rounds, _cohort(run, found))
        lines = [
            {"label": one.label, "about": mine["about"], **changes(one, setting)}
            for one, mine in zip(tries, rows[1:], strict=True)
            if mine["finding"] in HELPS
        ]
        return {
            "headline": tried_words.headline(rows, rounds, _classes(run)),
            "sentences": [tried_words.sentence(one, base) for one in rows[1:]],
            "rows": rows,
            "changes": lines,
            "rounds": rounds,
        }


def _about(label: str, name: str, about: str, why: str, notes: Sequence[str]) -> Row:
    return {"label": label, "name": name, "about": about, "why": why, "notes": list(notes)}


def with_reasons(run: Run, guarantees: list[Row]) -> list[Row]:
    """Guarantees with the reason that the app's run found for want of one; an ε stays what it is."""
    path = run.file(NAME)
    found = parse_json(path.read_bytes(), path) if path.is_file() else {}
    with malformed(NAME):
        tries = [Try.of(one) for one in found.get("tried") or []]
    said = {one.label: one.guarantee.removeprefix(NONE) for one in tries if one.guarantee.startswith(NONE)}
    return [
        row | {"reason": said[row["defense"]]} if row["epsilon"] is None and row["defense"] in said else row
        for row in guarantees
    ]


def _classes(run: Run) -> int | None:
    """Of the records, where the manifest has them."""
    found = (run.manifest.get("dataset") or {}).get("classes")
    return found if isinstance(found, int) and found > 1 else None


def _cohort(run: Run, found: Row) -> int:
    """Clients of a round, or as many as there are."""
    strategy = run.scenario.get("strategy") or {}
    return int(strategy.get("cohort") or found["supernodes"])


def _row(label: str, attacks: list[Row], utility: list[Row], costs: list[Row], guarantees: list[Row]) -> Row:
    """What was measured of one defense; None for what was not."""

    def of(rows: list[Row]) -> list[Row]:
        return [one for one in rows if one["defense"] == label]

    here = of(attacks)
    strongest = strongest_of(here)
    measured, price = next(iter(of(utility)), {}), next(iter(of(costs)), {})
    return {
        "leak": None if strongest is None else _leak(strongest, here),
        "unanswered": [
            {"attack": one["attack"], "level": one["level"], "why": one["refusal"] or one["error"]}
            for one in here
            if one["psnr_median"] is None and one["label_accuracy"] is None
        ],
        "labels": _labels(here),
        "accuracy": measured.get("accuracy"),
        "accuracy_ci95": measured.get("accuracy_ci95"),
        "accuracy_ci95_kind": measured.get("accuracy_ci95_kind"),
        "accuracy_cost": price.get("accuracy_cost"),
        "accuracy_cost_ci95": price.get("accuracy_cost_ci95"),
        "uplink_bytes": price.get("uplink_bytes"),
        "guarantee": next((tried_words.guarantee(one) for one in of(guarantees)), ""),
    }


def _leak(strongest: Row, rows: list[Row]) -> Row:
    certificates = [one for row in rows for one in row["certificates"] if one["unique"]]
    methods = [one["method"] for one in certificates if one["unique"] == one["updates"]]  # of each, no less
    return {
        **{name: strongest[name] for name in _LEAK},
        "control": strongest["control"]["psnr_median"],
        "control_recovered": strongest["control"]["recovered"],
        "certified": list(dict.fromkeys(methods)),
    }


def _labels(rows: list[Row]) -> Row | None:
    """Of the attack that named most of them; None if none was asked to."""
    told = [one for one in rows if one["label_accuracy"] is not None]
    if not told:
        return None
    best = max(told, key=lambda one: float(one["label_accuracy"]))
    return {
        "attack": best["attack"],
        "accuracy": best["label_accuracy"],
        "accuracy_ci95": best["label_accuracy_ci95"],
        "control": best["control"]["label_accuracy"],
    }


def _told(labels: Row | None) -> bool:
    """Whether more labels were named right than the control explains."""
    if labels is None:
        return False
    low = labels["accuracy"] if labels["accuracy_ci95"] is None else labels["accuracy_ci95"][0]
    return bool(low > (labels["control"] or 0.0))


def _finding(mine: Row, base: Row) -> str:
    """A try against the app as it is, by images that the strongest attack recovered of each."""
    leak, before = mine["leak"], base["leak"]
    if before is None or (leak is None and not mine["unanswered"]):
        return "unknown"
    if LEVELS[before["level"]].rank < RECOVERED:
        return "idle"
    if leak is None:
        silent = any(one["level"] in UNTRIED for one in mine["unanswered"])
        return "unknown" if silent else "declined"
    if LEVELS[leak["level"]].rank < RECOVERED:
        if any(one["level"] in UNTRIED for one in mine["unanswered"]):
            return "unknown"  # an attack broke down, maybe the one that took most from the app as it is
        return "stops" if leak["level"] == "control" and not _told(mine["labels"]) else "shows"
    return "lessens" if leak["fraction_ci95"][1] < before["fraction_ci95"][0] else "same"
