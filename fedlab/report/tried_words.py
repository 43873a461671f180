"""Sentences on what was tried on an app: what stops the leak, what does not, the price, the evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fedlab.report.reading import decibel, epsilon, interval, listed, percent, plural, points, protects, small

Row = dict[str, Any]

TWICE = 2.0
"""Times chance that an accuracy must reach before a loss of it says much."""

MEANING = {
    "dp-sgd": "each record's part in a step bounded, and noise added to it",
    "local-dp": "each update shortened to a bound, and noise added, before it is sent",
    "user-dp": "noise added to the server's sums of updates",
    "flower-dp": "updates shortened to a bound at the server, and noise added to their mean",
    "clipping": "updates shortened to a bound",
    "noise": "noise added to each update",
    "gradient-pruning": "the smallest numbers of each update left out",
    "top-k": "only the largest numbers of each update sent",
    "random-mask": "a random part of each update sent",
    "sign": "only signs sent, with one size for all",
    "qsgd": "each number of an update rounded to a few levels",
    "soteria": "part of one layer's update left out",
    "mixup": "trained on mixtures of two records",
    "oasis": "trained on turned copies of each record, too",
    "ats": "trained on altered records",
    "architecture": "another network",
    "frozen-first-layer": "the first layer not trained",
    "precode": "a layer that draws at random before the last one",
    "protocol": "other settings of the clients' training",
    "stack": "several at once",
}
"""What a try is, for readers who do not know its name."""


def guarantee(row: Row) -> str:
    """What is proved of a defense, or that nothing is."""
    if row["epsilon"] is not None:
        return f"ε = {epsilon(row['epsilon'])} at δ = {small(row['delta'])}, for {protects(row['unit'])}"
    return f"no formal guarantee: {row['reason']}" if row["mechanism"] else ""


def about(name: str, acts: str, params: Mapping[str, Any]) -> str:
    """What a try is, and how it was set."""
    settings = ", ".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in params.items()
        if not isinstance(value, dict | list)
    )
    return f"{MEANING.get(name, acts)}{f' ({settings})' if settings else ''}"


def headline(rows: list[Row], rounds: int, classes: int | None) -> str:
    """What was found of all tries: the recommendation, with its evidence.

    Args:
        rows: the app as it is, then the tries.
        rounds: that were trained; classes: of the records, None if that is not known.
    """
    base, tries = rows[0], rows[1:]
    leak = base["leak"]
    if leak is None:
        return (
            "No attack answered with an image on the app as it is, so that nothing can be said of what a try"
            " takes away."
        )
    if not leak["recovered"] or any(one["finding"] == "idle" for one in tries):
        return (
            f"As it is, the app gave no image away to these attacks: {leak['attack']} came furthest, with a"
            f" median of {decibel(leak['psnr_median'])} (control {decibel(leak['control'])}). There was"
            " nothing for a try to stop; what each costs stands in the table."
        )
    start = (
        f"As it is, {leak['attack']} recovers {leak['recovered']} of {plural(leak['images'], 'image')}"
        f" (median {decibel(leak['psnr_median'])}, control {decibel(leak['control'])}"
        f"{', proved the only answer' if leak['certified'] else ''})."
    )
    return " ".join([start, *_recommended(tries), *caution(base, tries, rounds, classes)])


def _recommended(tries: list[Row]) -> Iterator[str]:
    by: dict[str, list[Row]] = {}
    for one in tries:
        by.setdefault(one["finding"], []).append(one)
    if "stops" in by:
        each = "; ".join(f"{one['label']} stops it and {price(one)}" for one in by["stops"])
        yield f"Of what was tried, {each}."
    elif not by.keys() & {"shows", "declined"}:
        yield "Nothing of what was tried stops it."
    for one in by.get("shows", []):
        yield (
            f"Under {one['label']} no image is recovered, though more shows than in the control; it"
            f" {price(one)}."
        )
    if "declined" in by:
        yield (
            f"Under {_names(by['declined'])} no attack of this run applies any more, which is no proof"
            " against others."
        )
    if "lessens" in by:
        yield f"{_names(by['lessens'])} {_verb(by['lessens'], 'leaks', 'leak')} less."
    if "same" in by:
        yield f"{_names(by['same'])} {_verb(by['same'], 'does', 'do')} not stop it."
    if unknown := by.get("failed", []) + by.get("unknown", []):
        yield f"Nothing is known of {_names(unknown)}."


def caution(base: Row, tries: list[Row], rounds: int, classes: int | None) -> Iterator[str]:
    """How far prices are to be trusted."""
    if base["accuracy"] is None or all(one["accuracy_cost"] is None for one in tries):
        return
    after = f"after {plural(rounds, 'round')}"
    if classes and base["accuracy"] < TWICE / classes:
        yield (
            f"Prices say little here: {after} the app as it is has an accuracy of"
            f" {percent(base['accuracy'], 1)}, near chance. Give it more rounds (--rounds)."
        )
    elif all(one["accuracy_cost_ci95"] is None for one in tries):
        yield f"Prices are those of one run, {after}, without intervals."


def _verb(rows: list[Row], one: str, many: str) -> str:
    return one if len(rows) == 1 else many


def _names(rows: list[Row]) -> str:
    return listed([one["label"] for one in rows])


def price(row: Row) -> str:
    """What a try costs in accuracy, with its interval where there is one."""
    cost = row["accuracy_cost"]
    if cost is None:
        return "has an unknown price, because accuracy was not measured"
    verb = "costs" if cost >= 0 else "gains"
    bounds, sure = row["accuracy_cost_ci95"], ""
    if bounds is not None:
        low, high = bounds if cost >= 0 else (-bounds[1], -bounds[0])
        sure = f" (95 %: {interval([low, high], 100).replace('-', '−')})"
    return f"{verb} {points(cost)} of accuracy{sure}"


def sentence(row: Row, base: Row) -> str:
    """One try, with the evidence for what is said of it."""
    label, leak, finding = row["label"], row["leak"], row["finding"]
    if finding == "failed":
        return f"{label} could not be tried: {row['why']}"
    if leak is None:
        reasons = [f"{one['attack']}: {one['why'] or 'no answer'}" for one in row["unanswered"]]
        said = "; ".join(reasons) or "it was not attacked"
        words = "no attack that applies answered with an image" if finding == "declined" else "not measured"
        return f"{label}: {words} ({said}). It {price(row)}."
    evidence = (
        f"{leak['attack']} comes furthest, with {leak['recovered']} of {plural(leak['images'], 'image')}"
        f" recovered ({_up_to(leak)}), median {decibel(leak['psnr_median'])}, control"
        f" {decibel(leak['control'])}"
    )
    verdict = {
        "stops": "stops it",
        "shows": "lets no image be recovered, though more shows than in the control",
        "lessens": "leaks less, and does not stop it",
        "same": "does not stop it",
        "idle": "had nothing to stop",
        "unknown": "cannot be compared",
    }[finding]
    notes = "".join(f" Note: {note}." for note in row["notes"])
    return f"{label} {verdict}: {evidence}. It {price(row)}.{_labels(row, base)}{notes}"


def _up_to(leak: Row) -> str:
    """The interval of the share recovered: few victims leave room for much."""
    if leak["fraction_ci95"] is None:
        return "no interval"
    if not leak["recovered"]:
        return f"95 %: at most {percent(leak['fraction_ci95'][1])}"
    return f"95 %: {interval(leak['fraction_ci95'], 100, 0)} %"


def _labels(row: Row, base: Row) -> str:
    """Labels, where they leak still."""
    told, before = row["labels"], base["labels"]
    if told is None or before is None or told["accuracy"] <= (told["control"] or 0.0):
        return ""
    control = f" (control {percent(told['control'])})" if told["control"] is not None else ""
    return f" Labels: {percent(told['accuracy'])} right{control}, as it is {percent(before['accuracy'])}."
