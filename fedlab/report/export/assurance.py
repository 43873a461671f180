"""The later sections of the report as Markdown: what is proved, against whom, and how to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fedlab.report.export.words import block, bullets, facts, said, table
from fedlab.report.reading import epsilon, mode_word, percent, protects, small

Row = dict[str, Any]
Who = Callable[[Row], str]


def guarantees(data: Row, who: Who) -> Iterator[str]:
    yield "## What can be proved"
    for row in data["guarantees"]:
        yield f"### {said(who(row))}"
        if row["epsilon"] is None:
            yield f"**No formal guarantee:** {said(row['reason'])}"
        else:
            proved = f"ε = {epsilon(row['epsilon'])} at δ = {small(row['delta'])}"
            yield f"**{proved}**, for {said(protects(row['unit']))}"
        if row["mechanism"]:
            names = ("mechanism", "adjacency", "accountant", "noise")
            yield facts((name.capitalize(), row[name]) for name in names)
        yield bullets(
            f"{'✓' if one['holds'] else '✗ does not hold:'} {said(one['text'])}" for one in row["assumptions"]
        )


def checks(data: Row, who: Who) -> Iterator[str]:
    rows = data.get("checks")
    if rows:
        yield "## What was measured of the proofs"
        yield table(
            ("trained", "check", "verdict", ">p", "what it says"),
            [
                (who(row), one["name"], one["verdict"], _digits(one["p"]), one["words"])
                for row in rows
                for one in row["checks"]
            ],
        )
        yield bullets(
            f"{said(who(row))}: canaries bound ε from below by {_digits(one['epsilon_hat'])}"
            f" ({percent(one['confidence'])} confidence, {one['right']} of {one['guesses']} guesses right)"
            for row in rows
            for one in row["one_run"]
        )


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def threats(data: Row) -> Iterator[str]:
    yield "## Who was assumed to attack"
    yield "### Tested"
    yield bullets(map(said, data["threat_models"]["tested"])) or "Nothing: no attack was scored."
    yield "### Not tested"
    yield bullets(map(said, data["threat_models"]["not_tested"]))


def about(data: Row) -> Iterator[str]:
    run, dataset = data["run"], data["run"]["dataset"]
    yield "## What was run"
    tested = "" if dataset["test"] is None else f" and {dataset['test']} test"
    records = f"{dataset['train']} training{tested} records"
    modes = sorted({mode_word(one["client_mode"]) for one in run["cells"]})
    yield facts(
        [
            ("Data", f"{dataset['name']}: {records}{', synthetic' if dataset['synthetic'] else ''}"),
            ("Source", dataset["source"]),
            ("Licence", dataset["licence"]),
            ("Data sha256", dataset["sha256"]),
            ("Model", f"{run['model']['name']}, {run['model']['parameters']} parameters"),
            *((name, value) for name, value in run["setup"].items()),
            ("Trained in", ", ".join(modes)),
        ]
    )
    yield "## How to read the numbers"
    yield facts((name, one["definition"]) for name, one in data["metrics"].items())
    yield facts((f"{one['symbol']} {one['word']}", one["meaning"]) for one in data["levels"].values())
    yield "## Run it again"
    yield block(run["command"] or "this run was started from Python: fedlab.run(...)")
    yield facts([("Seeds", ", ".join(map(str, run["seeds"]))), *run["versions"].items()])
    yield table(
        ("weights that were trained", "sha256"),
        [(one["name"], one["weights_sha256"]) for one in run["cells"]],
    )
    yield "<details><summary>Files that this report rests on (sha256)</summary>"
    yield table(("file", "sha256"), run["artefacts"].items())
    yield "</details>"
    yield "Pictures, curves and the map of client modes stand in report.html, every figure in report.json."
