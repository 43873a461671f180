"""The report as Markdown: what the page says in words and tables; pictures and curves are left to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fedlab.report.export import assurance
from fedlab.report.export.app import app
from fedlab.report.export.tried import tried
from fedlab.report.export.words import bullets, paragraph, said, table
from fedlab.report.reading import (
    decibel,
    interval,
    namer,
    percent,
    several,
)

Row = dict[str, Any]
Who = Callable[[Row], str]


def markdown(data: Row) -> str:
    """The whole report, for whoever reads it in a terminal, a review or a wiki."""
    who = namer(data["run"]["cells"])
    parts = [
        *_head(data),
        *_verdict(data, who),
        *app(data),
        *tried(data),
        *_recommendations(data),
        *_attacks(data, who),
        *_knowledge(data, who),
        *_adaptive(data, who),
        *_membership(data, who),
        *_utility(data, who),
        *_fleet(data),
        *_integrity(data, who),
        *assurance.guarantees(data, who),
        *assurance.checks(data, who),
        *assurance.threats(data),
        *assurance.about(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(data: Row) -> Iterator[str]:
    run = data["run"]
    yield f"# Privacy audit: {said(run['name'])}"
    if run["claim"]:
        yield f"Claim under test: {said(run['claim'])}"
    if run["status"] != "finished":
        error = said(run["error"]) if run["error"] else ""
        yield paragraph(
            f"**This run is marked {said(run['status'])}.** What follows covers only what was measured before"
            " it stopped.",
            error,
        )
    for text in data.get("alarms") or []:
        yield f"**Alarm:** {said(text)}"


def _verdict(data: Row, who: Who) -> Iterator[str]:
    yield "## Verdict"
    yield f"**{said(data['verdict']['headline'])}**"
    if data.get("gates"):
        rows = [(one["verdict"], one["expression"], one["text"]) for one in data["gates"]]
        yield table(("gate", "fails on", "measured"), rows)
    for one in data["verdict"]["findings"]:
        settings = f" ({said(one['settings'])})" if one["settings"] else ""
        told = (one["leakage"], one["labels"], one.get("membership"), one["utility"], one["guarantee"])
        yield f"### {said(who(one))}{settings}"
        yield paragraph(*(said(text) for text in told if text))
    yield "### How far this evidence reaches"
    yield bullets(map(said, data["limits"]))


def _recommendations(data: Row) -> Iterator[str]:
    if data.get("recommendations"):
        yield "## Recommendations"
    for one in data.get("recommendations") or []:
        yield f"### {said(one['title'])}"
        yield said(one["text"])
        yield bullets(map(said, one["evidence"]))


def _attacks(data: Row, who: Who) -> Iterator[str]:
    yield "## Every attack against every defense"
    rows = data["attacks"]
    if not rows:
        yield "No attack was scored."
        return
    threats = several(rows, "threat_label")
    figures = (">median PSNR", ">worst case", ">control", ">SSIM", ">recovered", ">labels", "reading")
    yield table(
        ("trained", "attack", *(["threat"] if threats else []), *figures),
        [
            (
                who(row),
                row["attack"],
                *([row["threat_label"] or "as assumed"] if threats else []),
                decibel(row["psnr_median"]),
                decibel(row["psnr_max"]),
                decibel(row["control"]["psnr_median"]),
                None if row["ssim_median"] is None else f"{row['ssim_median']:.2f}",
                f"{row['recovered']} of {row['images']}" if row["fraction_recovered"] is not None else None,
                percent(row["label_accuracy"]),
                f"{row['symbol']} {row['reading']}",
            )
            for row in rows
        ],
    )
    yield bullets(
        f"{said(row['attack'])} on {said(who(row))}: {said(row['error'] or row['refusal'])}"
        for row in rows
        if row["error"] or row["refusal"]
    )
    yield bullets(
        f"{said(row['attack'])} on {said(who(row))}: {said(one['method'])}, {said(one['text'])}"
        for row in rows
        for one in row["certificates"]
        if one["unique"] or one["not_unique"]
    )


def _knowledge(data: Row, who: Who) -> Iterator[str]:
    groups = data["knowledge"]
    if groups:
        yield "## What knowledge is worth"
        yield table(
            ("trained", "attack", "attacker", ">median PSNR", ">difference", "what it is worth"),
            [
                (
                    who(group),
                    group["attack"],
                    row["what"] or "as assumed",
                    decibel(row["psnr_median"]),
                    _gain(row),
                    row["worth"],
                )
                for group in groups
                for row in group["rows"]
            ],
        )


def _adaptive(data: Row, who: Who) -> Iterator[str]:
    rows = data.get("adaptive")
    if rows:
        yield "## Attackers who know the defense, and who do not"
        yield table(
            ("trained", "attack", ">knows", ">does not", ">difference", "what it shows"),
            [
                (
                    who(row),
                    row["attack"],
                    decibel(row["informed"]["psnr_median"]),
                    decibel(row["unaware"]["psnr_median"]),
                    _gain(row),
                    row["text"],
                )
                for row in rows
            ],
        )


def _gain(row: Row) -> str | None:
    """+3.2 dB (1.1 to 5.3)."""
    if row["difference"] is None:
        return None
    bounds = f" ({interval(row['difference_ci95'])})" if row["difference_ci95"] else ""
    return f"{row['difference']:+.1f} dB{bounds}"


def _membership(data: Row, who: Who) -> Iterator[str]:
    rows = data["membership"]
    if rows:
        yield "## Membership"
        rates = [f">found at {100 * one['at']:g} % false alarms" for one in rows[0]["powers"]]
        yield table(
            ("trained", "attack", *rates, ">AUC", ">control", "records"),
            [
                (
                    who(row),
                    f"{row['attack']} ({row['threat_label']})" if row["threat_label"] else row["attack"],
                    *(percent(one["rate"], 1) for one in row["powers"]),
                    *(None if one is None else f"{one:.3f}" for one in (row["auc"], row["control"]["auc"])),
                    f"{row['members']} used, {row['non_members']} not",
                )
                for row in rows
            ],
        )
        yield bullets(f"{said(row['attack'])} on {said(who(row))}: {said(row['sentence'])}" for row in rows)


def _utility(data: Row, who: Who) -> Iterator[str]:
    yield "## What protection costs"
    yield table(
        ("trained", ">accuracy", ">95 %", ">cost", ">worst client", ">received", ">sent", ">virtual time"),
        [
            (
                who(row),
                percent(row["accuracy"], 1),
                interval(row["accuracy_ci95"], 100),
                None if row["accuracy_cost"] is None else f"{100 * row['accuracy_cost']:+.1f} points",
                percent(row["per_client"]["worst"], 1),
                *(_bytes((row.get("wire") or {}).get(way)) for way in ("received", "sent")),
                None if not row.get("virtual_seconds") else f"{row['virtual_seconds']:.0f} s",
            )
            for row in data["utility"]
        ],
    )


def _bytes(value: float | None) -> str | None:
    return None if value is None else f"{value / 1000:,.1f} kB"


def _fleet(data: Row) -> Iterator[str]:
    fleet = data.get("fleet")
    if fleet:
        yield "## Time and traffic"
        yield table(
            ("strategy", ">virtual time" if fleet["clock"] == "virtual" else ">time", ">uploads"),
            [
                (
                    row["name"],
                    *(
                        None if (mean := ((row["total"] or {}).get(name) or {}).get("mean")) is None
                        else f"{mean:,.0f}{unit}"
                        for name, unit in (("seconds", " s"), ("uploads", ""))
                    ),
                )
                for row in fleet["rows"]
            ],
        )  # fmt: skip
        yield bullets(said(text) for row in fleet["rows"] for text in row["left_out"])


def _integrity(data: Row, who: Who) -> Iterator[str]:
    rows = data["integrity"]
    if rows:
        yield "## Integrity"
        yield table(
            ("trained", ">clean accuracy", "adversaries", ">success", "threat"),
            [
                (
                    who(row),
                    percent(row["accuracy"], 1),
                    one["label"],
                    percent(one["success"], 1),
                    one["threat"],
                )
                for row in rows
                for one in row["adversaries"]
            ],
        )
