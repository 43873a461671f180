"""Advice on what leaks: what was taken, proved takeable, or held only against who knows little."""

from __future__ import annotations

from collections.abc import Iterator

from fedlab.report.adaptive import SMALL
from fedlab.report.advice import Findings, Row, advise
from fedlab.report.reading import (
    LEVELS,
    decibel,
    epsilon,
    interval,
    key,
    listed,
    panel,
    plural,
    points,
    reached,
)

RECOVERED = LEVELS["some"].rank
"""From this level on, images were taken."""


def certified(found: Findings) -> Iterator[Row]:
    """A closed form with a proof: no luck and no tuning stands between the update and the record."""
    told: dict[str, list[str]] = {}
    for row in reached(found.attacks):
        for one in row["certificates"]:
            if one["unique"] and LEVELS[row["level"]].rank >= RECOVERED:
                said = (
                    f"{found.who(row)}: {row['attack']}, {one['text']}; median {decibel(row['psnr_median'])}"
                )
                told.setdefault(one["method"], []).append(said)
    for method, evidence in told.items():
        better = _better(found, method)
        yield advise(
            "certified",
            f"Change what {method} solves",
            f"{method} computes records from an update and proves its answer the only one: this follows from"
            " the network and from how clients train, not from luck. Change the layer or the training that it"
            f" needs. {better}",
            evidence,
            "design minimise secure edpb-design nist-trust",
        )


def _better(found: Findings, method: str) -> str:
    """Where the closed form proved nothing unique, and what that cost."""
    free = []
    for row in found.frontier:
        here = [one for one in reached(found.attacks) if key(one) == key(row)]
        proved = any(one["method"] == method and one["unique"] for r in here for one in r["certificates"])
        if here and not proved and LEVELS[row["level"]].rank < RECOVERED:
            free.append(row)
    return _offer(found, free)


def _offer(found: Findings, rows: list[Row]) -> str:
    """The cheapest of these defenses in a sentence."""
    rows = [row for row in rows if not row["undefended"]]
    if not rows:
        return "No defense that this run tried kept every attack below the threshold; try others."
    best = max(rows, key=lambda row: (row["accuracy"], row["defense"]))
    cost = best["accuracy_cost"]
    price = "" if cost is None else f", at {points(cost)} {'less' if cost >= 0 else 'more'} accuracy"
    bound = (
        "without a formal guarantee" if best["epsilon"] is None else f"with ε = {epsilon(best['epsilon'])}"
    )
    return (
        f"Of what was tried, consider {found.who(best)}: there the strongest attack, {best['attack']},"
        f" reached a median of {decibel(best['psnr_median'])} (control {decibel(best['control'])}),"
        f" {bound}{price}."
    )


def taken(found: Findings) -> Iterator[Row]:
    """Pools from which images were taken, one recommendation for all of a mode."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in found.frontier:
        panels.setdefault(panel(row), []).append(row)
    for rows in panels.values():
        open_ = [row for row in rows if LEVELS[row["level"]].rank >= RECOVERED]
        if open_:
            held = [row for row in rows if LEVELS[row["level"]].rank < RECOVERED]
            yield advise(
                "leak",
                f"Do not deploy {listed([found.who(row) for row in open_])} where the server must not see"
                " records",
                _offer(found, held),
                [
                    f"{found.who(row)}: {row['attack']} recovered {row['recovered']} of"
                    f" {plural(row['images'], 'image')}, median {decibel(row['psnr_median'])}, control"
                    f" {decibel(row['control'])}"
                    for row in open_
                ],
                "confidential design secure impact edpb-test",
            )


def secrecy(found: Findings) -> Iterator[Row]:
    gained = [row for row in found.adaptive if row["difference_ci95"] and row["difference_ci95"][0] > SMALL]
    if gained:
        yield advise(
            "secrecy",
            f"Judge {listed(list(dict.fromkeys(found.who(row) for row in gained)))} by the informed attacker",
            "Part of what holds off an unaware attacker is that it does not know the defense. The server"
            " usually wrote it.",
            [
                f"{found.who(row)}: {row['attack']} gains {decibel(row['difference'])}"
                f" ({interval(row['difference_ci95'])}) by knowing"
                for row in gained
            ],
            "secure test edpb-test nist-trust",
        )


def membership(found: Findings) -> Iterator[Row]:
    told = [row for row in found.membership if row["powers"] and row["powers"][0]["told"]]
    if told:
        yield advise(
            "membership",
            "Bound what an update tells about who was in it",
            "Only differential privacy bounds membership inference for every attacker; fewer local steps and"
            " larger batches lower it without a bound.",
            [f"{found.who(row)}: {row['sentence']}" for row in told],
            "confidential impact edpb-test nist-epsilon",
        )
    elif not found.membership and found.attacks and found.own:  # of apps, who was no member is not known
        yield advise(
            "untested",
            "Test membership inference as well",
            "This run tried reconstruction alone. That somebody's record was used can be sensitive by itself,"
            " and leaks from updates that give no image away.",
            ["No membership attack is among the attacks of this run."],
            "test impact edpb-test",
        )


def useless(found: Findings) -> Iterator[Row]:
    """Defenses that cost accuracy and gave the attackers no less."""
    for row in found.frontier:
        plain = [one for one in found.frontier if one["undefended"]]
        base = next((one for one in plain if panel(one) == panel(row)), None)
        cost = row["accuracy_cost"]
        if base is None or row["undefended"] or row["epsilon"] is not None or cost is None or cost <= 0:
            continue
        if row["psnr_median"] >= base["psnr_median"] - 1.0 and LEVELS[row["level"]].rank >= RECOVERED:
            yield advise(
                "useless",
                f"Drop {found.who(row)} as a measure against reconstruction",
                f"It costs {points(cost)} of accuracy, and the strongest attack gets as far as without it.",
                [
                    f"{row['attack']}: median {decibel(row['psnr_median'])}; undefended, {base['attack']}:"
                    f" {decibel(base['psnr_median'])}"
                ],
                "design nist-utility edpb-design",
                row,
            )
