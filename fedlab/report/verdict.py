"""What the report says first: the strongest leak, and per defense what it did, cost and proves.

It never says that something is without risk. The strongest negative statement is that these attackers, on
these victims, with this knowledge, did not recover an image.
"""

from __future__ import annotations

from typing import Any

from fedlab.audit.scoring import binomial_interval
from fedlab.report.reading import (
    AXES,
    LEVELS,
    UNTRIED,
    UNUSED,
    clause,
    decibel,
    epsilon,
    interval,
    key,
    listed,
    percent,
    plural,
    points,
    protects,
    reached,
    small,
    subject,
)

Row = dict[str, Any]


def verdict(
    attacks: list[Row],
    utility: list[Row],
    guarantees: list[Row],
    undefended: set[str],
    threshold: float,
    settings: dict[str, str],
    *,
    of_baseline: bool = False,
) -> Row:
    """{headline, findings: one per row of `guarantees`}; `settings` says what each defense was set to.

    The headline is about the strongest leak, or `of_baseline` about that of undefended clients alone.

    Both are about the attacker of `[threat]`, who need not use what it knows of a defense; what clients
    refused is told of every attacker.
    """
    findings = []
    whole, attacks = attacks, reached(attacks)
    for guarantee in guarantees:
        here = [row for row in attacks if key(row) == key(guarantee)]
        measured = next((row for row in utility if key(row) == key(guarantee)), None)
        strongest = strongest_of(here)
        findings.append(
            {
                **{axis: guarantee[axis] for axis in AXES},
                "settings": settings.get(guarantee["defense"], ""),
                "level": strongest["level"] if strongest else _unanswered(here),
                "strongest": strongest["attack"] if strongest else None,
                "recovered": strongest["recovered"] if strongest else None,
                "images": strongest["images"] if strongest else None,
                "accuracy": measured["accuracy"] if measured else None,
                "accuracy_cost": measured["accuracy_cost"] if measured else None,
                "epsilon": guarantee["epsilon"],
                "leakage": _leakage(here, strongest, threshold)
                + _withstood([row for row in whole if key(row) == key(guarantee)]),
                "labels": _labels(here),
                "utility": _utility(measured, undefended),
                "guarantee": _guarantee(guarantee),
            }
        )
    plain = [row for row in attacks if row["defense"] in undefended]
    leading = plain if of_baseline and plain else attacks
    return {"headline": _headline(leading, undefended, threshold), "findings": findings}


def strongest_of(rows: list[Row]) -> Row | None:
    """The row that took most: by level, fraction recovered, median; None if none answered with images."""
    answered = [row for row in rows if row["psnr_median"] is not None]
    return max(
        answered,
        key=lambda row: (LEVELS[row["level"]].rank, row["fraction_recovered"], row["psnr_median"]),
        default=None,
    )


def _unanswered(rows: list[Row]) -> str:
    """The level of a defense that no attack drew an image from: what is least known comes first."""
    levels = {row["level"] for row in rows}
    return next((key for key in (*UNTRIED, "labels") if key in levels), "refused")


def _broken(rows: list[Row]) -> str:
    """A sentence on attacks that failed outright, or nothing."""
    names = list(dict.fromkeys(row["attack"] for row in rows if row["level"] == "failed"))
    return f" Failed, so that nothing is known of what it takes: {listed(names)}." if names else ""


def _headline(attacks: list[Row], undefended: set[str], threshold: float) -> str:
    if not attacks:
        return "No attack was tried: nothing was measured about what leaks."
    strongest = strongest_of(attacks)
    if strongest is None:
        nothing = "No attack of this run answered with an image: nothing was measured about reconstruction."
        return f"{nothing} {_labels(attacks) or ''}".strip() + _broken(attacks)
    control = strongest["control"]["psnr_median"]
    beside = (
        f"the same attack on a random update of equal size reaches {decibel(control)}"
        if control is not None
        else "no control was run beside it"
    )
    who = subject(strongest, undefended)
    if strongest["recovered"] and LEVELS[strongest["level"]].rank > 1:
        how = " almost pixel by pixel" if strongest["level"] == "copy" else ""
        return (
            f"A server that only watches recovered {strongest['recovered']} of"
            f" {plural(strongest['images'], 'attacked training image')}{how} from {who}:"
            f" {strongest['attack']}, median {decibel(strongest['psnr_median'])}; {beside}."
        )
    tried = len({row["attack"].removesuffix(UNUSED) for row in attacks if row["psnr_median"] is not None})
    these = "The one attacker tried" if tried == 1 else f"The {tried} attackers tried"
    return (
        f"{these} did not recover an image at {threshold:g} dB. The strongest was {strongest['attack']}"
        f" against {who}: median {decibel(strongest['psnr_median'])}; {beside}."
        f"{_by_median(strongest, attacks, undefended)}{_broken(attacks)}"
    )


def _by_median(strongest: Row, rows: list[Row], undefended: set[str]) -> str:
    """Where another attack than the strongest has the larger median: by what they are ranked."""
    answered = [row for row in rows if row["psnr_median"] is not None]
    highest = max(answered, key=lambda row: float(row["psnr_median"]))
    if decibel(highest["psnr_median"]) == decibel(strongest["psnr_median"]) or highest is strongest:
        return ""
    where = f" against {subject(highest, undefended)}" if key(highest) != key(strongest) else ""
    return (
        f" Attacks are ranked by how far they get beyond their control; the highest median is"
        f" {highest['attack']}'s{where}: {decibel(highest['psnr_median'])},"
        f" control {decibel(highest['control']['psnr_median'])}."
    )


def _withstood(rows: list[Row]) -> str:
    """What clients refused to train, a sentence per attack and threat."""
    found = ""
    for row in rows:
        if (told := row["clients_refused"]) is not None:
            under = f" (threat {row['threat_label']})" if row["threat_label"] else ""
            found += (
                f" Clients refused the altered model of {row['attack']}{under} in {told['updates']} of"
                f" {plural(row['victims'], 'update')}: {clause(told['reason'])}."
            )
    return found


def _leakage(rows: list[Row], strongest: Row | None, threshold: float) -> str:
    declined = [row["attack"] for row in rows if row["level"] == "refused" and not row["clients_refused"]]
    tail = f" Not applicable here: {', '.join(declined)}." if declined else ""
    if any(row["level"] == "unattacked" for row in rows):
        tail += " No observed update was eligible to be attacked."
    tail += _broken(rows)
    if strongest is None:
        text = "No attack answered with an image." if rows else "No attack was scored against this defense."
        return text + tail
    answered = [row for row in rows if row["psnr_median"] is not None]
    took = [row for row in answered if row["recovered"] and LEVELS[row["level"]].rank > 1]
    control = decibel(strongest["control"]["psnr_median"])
    numbers = (
        f"median {decibel(strongest['psnr_median'])}, worst case {decibel(strongest['psnr_max'])},"
        f" control {control}"
    )
    if took:
        return (
            f"{len(took)} of {plural(len(answered), 'attack')} recovered images. The strongest,"
            f" {strongest['attack']}, took {strongest['recovered']} of {strongest['images']}"
            f" ({numbers}).{tail}"
        )
    if strongest["recovered"]:
        return (
            f"No attack went beyond its own control, which itself reaches the threshold:"
            f" {strongest['attack']} ({numbers}).{tail}"
        )
    images = len(strongest["psnr"])
    room = binomial_interval(0, images)[1]
    which = "The one attack" if len(answered) == 1 else f"None of the {len(answered)} attacks"
    verb = "did not recover an image" if len(answered) == 1 else "recovered an image"
    return (
        f"{which} that answered {verb} at {threshold:g} dB. Best: {strongest['attack']} ({numbers})."
        f"{_by_median(strongest, answered, set())}"
        f" With {plural(images, 'image')}, a true rate of up to {percent(room)} cannot be excluded"
        f" (95 %).{tail}"
    )


def _labels(rows: list[Row]) -> str | None:
    named = [row for row in rows if row["label_accuracy"] is not None]
    if not named:
        return None
    best = max(named, key=lambda row: row["label_accuracy"])
    control = best["control"]["label_accuracy"]
    beside = f" (control {percent(control)})" if control is not None else ""
    return f"Labels: {best['attack']} named {percent(best['label_accuracy'])} of them{beside}."


def _utility(row: Row | None, undefended: set[str]) -> str:
    if row is None:
        return "Accuracy was not measured."
    what = "Mean accuracy of personal models" if row["personal"] else "Test accuracy"
    text = f"{what} {percent(row['accuracy'], 1)}"
    if row["accuracy_ci95"] is not None:
        text += f" (95 %: {interval(row['accuracy_ci95'], 100)}, over {row['accuracy_ci95_kind']})"
    cost = row["accuracy_cost"]
    if row["defense"] not in undefended and cost is not None:
        text += f", {points(cost)} {'below' if cost >= 0 else 'above'} undefended training"
    return text + "."


def _guarantee(row: Row) -> str:
    if row["epsilon"] is None:
        return f"No formal guarantee: {row['reason']}."
    return (
        f"Formal guarantee for {protects(row['unit'])}: ε = {epsilon(row['epsilon'])} at"
        f" δ = {small(row['delta'])} ({row['adjacency'] or 'adjacency not stated'})."
    )
