"""Gates: conditions under which an audit fails, held against the rows of a report.

A gate is about all rows that fit it, and the worst of them decides. What was not measured never passes: a row
without a value leaves the gate undecided, which counts as failed; without a formal guarantee every gate on
ε or δ fails, for no guarantee is worse than any ε.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedlab.errors import BadGate
from fedlab.gate import ANY, NAMED, Gate, parse
from fedlab.report.checks import check_rows
from fedlab.report.deployment import NO_SCORE, UNSCORED, recorded
from fedlab.report.measured import measure
from fedlab.report.membership import membership_rows
from fedlab.report.reading import key, mode_word
from fedlab.report.rows import attack_rows, guarantee_rows, utility_rows
from fedlab.report.rundir import Run

Row = dict[str, Any]
Tables = Mapping[str, list[Row]]
"""Rows of the report by subject of a gate."""

Verdict = Literal["passed", "failed", "undecided"]

_PLACES = {"defense": "defense", "mode": "client_mode", "strategy": "strategy", "threat": "threat_label"}
"""Key of a filter -> where a row has it."""


@dataclass(frozen=True)
class Finding:
    """What one row says to a gate: its value, or in `reason` why it has none."""

    row: Row
    value: float | None
    verdict: Verdict
    reason: str = ""


def gate_results(run: Run, undefended: set[str], given: Sequence[str] = ()) -> list[Row]:
    """One row per gate: those of the scenario's `audit.fail_on`, then those `given`.

    Each has `expression`, `source` ("scenario" or "command"), `verdict` ("passed", "failed" or "undecided",
    which counts as failed), `passed`, `matched` (how many rows were judged), `measured` (the value of the
    worst), `worst` (which row that is) and `text` (what came of it, in words).

    Raises:
        BadGate: a given one cannot be read, or nothing fits it. One of the scenario was looked at before the
            run began: where its rows are missing now, it is undecided.
    """
    audit = run.scenario.get("audit")
    listed = audit.get("fail_on") if isinstance(audit, dict) else None
    own = list(dict.fromkeys(map(str, listed))) if isinstance(listed, list) else []
    more = [text for text in dict.fromkeys(given) if text not in own]
    if not own and not more:
        return []
    tables = _tables(run, undefended)
    found = []
    for text in own:
        try:
            found.append(_result(run, undefended, tables, parse(text), "scenario"))
        except BadGate as error:
            nothing = f"not decided, which counts as failed: {error.problem}"
            found.append(_row(text, "scenario", "undecided", 0, None, "", nothing))
    return found + [_result(run, undefended, tables, parse(text), "command") for text in more]


def failing(data: Row) -> list[Row]:
    """The gates of a report that do not hold."""
    return [one for one in data.get("gates") or [] if not one["passed"]]


def _row(
    expression: str,
    source: str,
    verdict: Verdict,
    matched: int,
    measured: float | None,
    worst: str,
    text: str,
) -> Row:
    return {
        "expression": expression,
        "source": source,
        "verdict": verdict,
        "passed": verdict == "passed",
        "matched": matched,
        "measured": measured,
        "worst": worst,
        "text": text,
    }


def _result(run: Run, undefended: set[str], tables: Tables, gate: Gate, source: str) -> Row:
    if recorded(run) and gate.subject in UNSCORED:
        raise BadGate(gate.text, (0, len(gate.text)), NO_SCORE)
    gate.check(_known(run, tables))
    seed = dict(gate.where).get("seed")
    if seed is not None:
        tables = _tables(_of_seed(run, int(seed)), undefended)
    rows = [row for row in tables[gate.subject] if _fits(row, gate)]
    if not rows:
        there = "; ".join(dict.fromkeys(_name(run, gate, row) for row in tables[gate.subject]))
        raise BadGate(
            gate.text, (0, len(gate.text)), f"nothing fits all of it. There is: {there or 'nothing'}"
        )
    findings = [_finding(gate, row) for row in rows]
    left_out = 0
    if gate.name == ANY and any(one.value is not None for one in findings):
        # Of all attacks, those count to which the question can be put; whatever failed counts too.
        put = [one for one in findings if one.value is not None or one.row["level"] not in _BESIDE]
        left_out, findings = len(findings) - len(put), put
    if (status := run.manifest.get("status")) != "finished":
        missing = f"the run is marked {status}, so that rows may be missing"
        findings = [_doubted(one, missing) for one in findings]
    worst = _worst(gate, findings)
    where = _name(run, gate, worst.row) + (f", seed {seed}" if seed is not None else "")
    return _row(
        str(gate),
        source,
        worst.verdict,
        len(findings),
        worst.value,
        where,
        _words(gate, worst, where, len(findings), left_out),
    )


_BESIDE = ("refused", "labels")
"""Levels of attacks that are about something else."""


def _finding(gate: Gate, row: Row) -> Finding:
    value, reason = measure(gate.subject, gate.metric, row)
    if value is not None and gate.met(value):
        return Finding(row, value, "failed")
    if value is None and gate.metric in ("epsilon", "delta"):
        return Finding(row, None, "failed", reason)
    if reason:
        return Finding(row, value, "undecided", reason)
    return Finding(row, value, "passed")


def _doubted(one: Finding, reason: str) -> Finding:
    return replace(one, verdict="undecided", reason=reason) if one.verdict == "passed" else one


def _worst(gate: Gate, findings: Sequence[Finding]) -> Finding:
    """The row that decides: one to fail on, or one of which nothing is known, or the one nearest to the bound
    from the good side."""
    order = {"failed": 2, "undecided": 1, "passed": 0}

    def badness(one: Finding) -> tuple[int, bool, float]:
        if one.value is None:
            return order[one.verdict], True, 0.0
        if gate.operator in ("<", "<="):
            return order[one.verdict], False, -one.value
        if gate.operator in (">", ">="):
            return order[one.verdict], False, one.value
        return order[one.verdict], False, -abs(one.value - gate.bound)

    return max(findings, key=badness)


def _tables(run: Run, undefended: set[str]) -> Tables:
    guarantees = guarantee_rows(run)
    checks = {key(row): row for row in check_rows(run, guarantees)}
    return {
        "attack": attack_rows(run),
        "membership": membership_rows(run),
        "utility": utility_rows(run, undefended),
        "privacy": [{**row, "checked": checks.get(key(row))} for row in guarantees],
    }


def _of_seed(run: Run, seed: int) -> Run:
    """The run as if it had only one of its seeds, which rows pool."""
    cells = [one for one in run.cells if one["seed"] == seed]
    names = {one["name"] for one in cells}
    return replace(
        run,
        manifest={**run.manifest, "cells": cells},
        attacks=[one for one in run.attacks if one["cell"] in names],
        memberships=[one for one in run.memberships if one["cell"] in names],
    )


def _known(run: Run, tables: Tables) -> dict[str, list[str]]:
    """What a gate on this report may name."""
    known = {subject: _distinct(tables[subject], "attack") for subject in NAMED}
    known |= {key: _distinct(run.cells, _PLACES[key]) for key in ("defense", "mode")}
    known["strategy"] = [label for label in _distinct(run.cells, "strategy") if label]
    known["threat"] = _distinct([*tables["attack"], *tables["membership"]], "threat_label")
    known["seed"] = _distinct(run.cells, "seed")
    return known


def _distinct(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(str(row.get(key, "")) for row in rows))


def _fits(row: Row, gate: Gate) -> bool:
    if gate.name not in ("", ANY) and row["attack"] != gate.name:
        return False
    return all(key == "seed" or str(row.get(_PLACES[key]) or "") == value for key, value in gate.where)


def _name(run: Run, gate: Gate, row: Row) -> str:
    """cascade under the threat oracle on fedbuff/dp-sgd in training mode."""
    trained = "/".join(filter(None, [str(row.get("strategy") or ""), row["defense"]]))
    text = f"{trained} in {mode_word(row['client_mode'])}"
    if gate.subject not in NAMED:
        return text
    threat = f" under the threat {row['threat_label']}" if row["threat_label"] else ""
    return f"{row['attack']}{threat} on {text}"


def _words(gate: Gate, worst: Finding, where: str, matched: int, left_out: int) -> str:
    """24.1: cascade on dp-sgd in training mode, the worst of 3."""
    of = f", the worst of {matched}" if matched > 1 else ""
    of += f" ({left_out} without such a figure left out)" if left_out else ""
    if worst.verdict == "undecided":
        known = "" if worst.value is None else f" ({_shown(gate, worst.value)} as far as is known)"
        return f"not decided, which counts as failed: {where}{of}: {worst.reason}{known}"
    if worst.value is None:
        return f"{where}{of}: {worst.reason}"
    return f"{_shown(gate, worst.value)}: {where}{of}"


def _shown(gate: Gate, value: float) -> str:
    """A few digits; all of them where a rounded figure would tell another verdict."""
    text = f"{value:.6g}"
    return text if gate.met(float(text)) == gate.met(value) else repr(value)
