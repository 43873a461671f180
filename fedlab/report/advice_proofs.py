"""Advice on what is claimed: proofs and noise, who pays for a defense, and how far the evidence goes."""

from __future__ import annotations

from collections.abc import Iterator

from fedlab.report.advice import Findings, Row, advise
from fedlab.report.reading import assumed, clause, panel, percent, plural, points

FEW = 20
"""Victims below which rates are hardly known."""
SPREAD = 0.2
"""By how much the worst client's accuracy may fall behind the median's before it is told."""


def faults(found: Findings) -> Iterator[Row]:
    for row in found.checks:
        if row["alarms"]:
            yield advise(
                "alarm",
                f"Do not quote ε for {found.who(row)}",
                "What ran is not what was accounted for. Find the fault and train again; until then there is"
                " no formal guarantee.",
                row["alarms"],
                "secure account nist-correct edpb-analysis",
                row,
            )


def unproved(found: Findings) -> Iterator[Row]:
    for row in found.guarantees:
        broken = [one["text"] for one in row["assumptions"] if not one["holds"]]
        if row["epsilon"] is None and row["mechanism"] and (broken or row["reason"]):
            yield advise(
                "unproved",
                f"Mend the proof of {found.who(row)}, or claim none",
                f"A mechanism with noise ran, but proves nothing: {row['reason']}",
                [f"assumption not kept: {text}" for text in broken] or [str(row["reason"])],
                "account nist-correct nist-epsilon edpb-document",
                row,
            )
    if found.guarantees and not any(row["epsilon"] is not None for row in found.guarantees):
        yield advise(
            "unproved",
            "Add a defense with a proof",
            "Nothing in this run bounds an attacker that was not tried. Differential privacy does, for the"
            " unit and the ε that it is accounted for.",
            ["No defense of this run has a formal guarantee."],
            "design impact nist-epsilon edpb-design",
        )


def noise(found: Findings) -> Iterator[Row]:
    rows = [
        row
        for row in found.guarantees
        if row["epsilon"] is not None and "simulation" in str(row["noise"] or "")
    ]
    if rows:
        yield advise(
            "noise",
            "Draw noise from the operating system when the data is real",
            "The noise of this run can be computed by anybody who knows its seed. Set secure_rng = true under"
            " [privacy]; a deployed run does so unless told otherwise.",
            [f"{found.who(row)}: {row['noise']}" for row in rows],
            "secure nist-random",
        )


def unfair(found: Findings) -> Iterator[Row]:
    base = {panel(row): _gap(row) for row in found.utility if row["defense"] in found.undefended}
    for row in found.utility:
        gap, before = _gap(row), base.get(panel(row))
        if row["defense"] in found.undefended or gap is None or before is None:
            continue
        if gap > SPREAD and gap > before + 0.05:
            spread = row["per_client"]
            yield advise(
                "unfair",
                f"Look at the clients who pay for {found.who(row)}",
                "The defense widens the distance between the worst client and the median one: who is rare in"
                " the data pays most.",
                [
                    f"worst client {percent(spread['worst'], 1)}, median {percent(spread['median'], 1)};"
                    f" undefended they are {points(before)} apart"
                ],
                "fair impact nist-utility",
                row,
            )


def _gap(row: Row) -> float | None:
    spread = row["per_client"]
    return None if spread["worst"] is None else float(spread["median"] - spread["worst"])


def thin(found: Findings) -> Iterator[Row]:
    """Where more evidence is to be had before anything is decided."""
    evidence = []
    victims = max((row["victims"] for row in assumed(found.attacks)), default=0)
    if 0 < victims < FEW:
        evidence.append(
            f"at most {plural(victims, 'victim')} per row{' (audit.victims)' if found.own else ''}"
        )
    if found.seeds == 1 and found.attacks:
        evidence.append(f"one seed{' (seeds)' if found.own else ''}: no interval covers another training run")
    evidence += list(
        dict.fromkeys(
            f"{row['attack']} failed on {found.who(row)}: {clause(str(row['error']))}"
            for row in found.attacks
            if row["failed"]
        )
    )
    if evidence:
        yield advise(
            "thin",
            "Gather more evidence before deciding on what recovered nothing",
            "What was taken is proved by what was taken. That something was not taken is known only as far as"
            " victims, seeds and attacks reach.",
            evidence,
            "test account edpb-test edpb-analysis",
        )


def pixels(found: Findings) -> Iterator[Row]:
    if found.samples:
        yield advise(
            "pixels",
            "Treat this report like the data",
            "It shows private images. Keep it where the records may be kept, or run again with"
            " include_samples = false to share it.",
            ["include_samples = true under [audit]"],
            "confidential minimise edpb-document",
        )
