"""Sentences on what was tried on an app: what stops the leak, what does not, the price, the evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedlab.report.reading import decibel, epsilon, interval, listed, percent, plural, points, protects, small

Row = dict[str, Any]

MEANING = {
    "dp-sgd": "each record's part in a step bounded, and noise added to it",
    "local-dp": "each update shortened to a bound, and noise added, before it is sent",
    "user-dp": "noise added to the server's sums of updates",
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


def headline(rows: list[Row]) -> str:
    """What was found of all tries, in one or two sentences: the recommendation."""
    base, tries = rows[0], rows[1:]
    leak = base["leak"]
    if leak is None:
        return (
            "No attack answered with an image on the app as it is, so that nothing can be said of what a try"
            " takes away."
        )
    if any(one["finding"] == "idle" for one in tries) or not leak["recovered"]:
        return (
            f"As it is, the app gave no image away to these attacks: {leak['attack']} came furthest, with a"
            f" median of {decibel(leak['psnr_median'])} (control {decibel(leak['control'])}). There was"
            " nothing for a try to stop; what each costs stands below."
        )
    start = (
        f"As it is, {leak['attack']} recovers {leak['recovered']} of {plural(leak['images'], 'image')}"
        f" (median {decibel(leak['psnr_median'])}, control {decibel(leak['control'])}"
        f"{', proved the only answer' if leak['certified'] else ''})."
    )
    return f"{start} {_recommended(tries)}"


def _recommended(tries: list[Row]) -> str:
    by: dict[str, list[Row]] = {}
    for one in tries:
        by.setdefault(one["finding"], []).append(one)
    told = []
    if "stops" in by:
        each = "; ".join(f"{one['label']} stops it and {price(one)}" for one in by["stops"])
        told.append(f"Of what was tried, {each}.")
    elif "declined" not in by:
        told.append("Nothing of what was tried stops it.")
    if "declined" in by:
        told.append(
            f"Under {_names(by['declined'])} no attack of this run applies any more, which is no proof"
            " against others."
        )
    if "lessens" in by:
        told.append(f"{_names(by['lessens'])} {_verb(by['lessens'], 'leaks', 'leak')} less.")
    if "same" in by:
        told.append(f"{_names(by['same'])} {_verb(by['same'], 'does', 'do')} not stop it.")
    if unknown := by.get("failed", []) + by.get("unknown", []):
        told.append(f"Nothing is known of {_names(unknown)}.")
    return " ".join(told)


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
    bounds = row["accuracy_cost_ci95"]
    if bounds is None:
        sure = "from one run, without an interval"
    else:
        low, high = bounds if cost >= 0 else (-bounds[1], -bounds[0])
        sure = f"95 %: {interval([low, high], 100).replace('-', '−')}"
    return f"{verb} {points(cost)} of accuracy ({sure})"


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
        "lessens": "leaks less, and does not stop it",
        "same": "does not stop it",
        "idle": "had nothing to stop",
        "unknown": "cannot be compared",
    }[finding]
    return f"{label} {verdict}: {evidence}. It {price(row)}.{_labels(row, base)}"


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
