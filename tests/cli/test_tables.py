"""What a finished run prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from fedlab.cli.tables import makespan, pace, summary


def fleet(**rows: dict[str, Any]) -> dict[str, Any]:
    found = [
        {"strategy": name, "name": name, "seeds": [0, 1], "reached": missed(), "total": {}, **row}
        for name, row in rows.items()
    ]
    return {"fleet": {"clock": "virtual", "target": {"loss": 0.8}, "rows": found}}


def cost(seconds: float, uploads: float, met: int = 2) -> dict[str, Any]:
    return {"seconds": {"mean": seconds}, "uploads": {"mean": uploads}, "seeds": met}


def missed() -> dict[str, Any]:
    """What a report holds of a strategy that no seed brought to the target."""
    return {"seconds": None, "uploads": None, "seeds": 0}


def printed(data: dict[str, Any], table: Callable[[dict[str, Any]], Any] = pace) -> list[list[str]]:
    console = Console(width=100, record=True)
    console.print(table(data))
    return [line.split() for line in console.export_text().splitlines()]


def test_what_each_strategy_took_to_the_target_stands_beside_the_first() -> None:
    ratio = {"seconds": {"mean": 6.4771}, "uploads": {"mean": 3.84}}
    data = fleet(
        sync={"reached": cost(222.0, 19200)},
        fedbuff={"reached": cost(34.3, 5000), "ratio": ratio},
        lucky={"reached": cost(60.0, 7000, met=1)},
        slow={},
    )
    head, *rows = printed(data)
    assert head == "strategy time to loss 0.8 times sooner uploads times fewer".split()
    assert rows[0] == "sync 3:42 min 19,200".split()
    assert rows[1] == "fedbuff 34 s 6.48 5,000 3.84".split()
    assert rows[2] == "lucky 1:00 min (1 of 2 seeds) 7,000".split()
    assert rows[3] == "slow not reached –".split()


def test_one_strategy_has_nothing_beside_it() -> None:
    assert pace(fleet(sync={"reached": cost(1.0, 1)})) is None
    assert pace({"fleet": None}) is None


def test_without_a_target_totals_are_not_compared() -> None:
    data = fleet(sync={"total": cost(71.0, 800)}, fedast={"total": cost(34.0, 604)})
    data["fleet"]["target"] = None
    assert printed(data)[:3] == [
        "strategy time uploads".split(),
        "sync 1:11 min 800".split(),
        "fedast 34 s 604".split(),
    ]


def test_several_tasks_are_told_by_when_the_last_one_met_its_target() -> None:
    """A task without a target has no time; a strategy of which one task missed its own has no makespan."""

    def row(name: str, first: float, second: float | None, ratio: float | None) -> dict[str, Any]:
        found = {"a": first, "b": second, "free": None}
        tasks = [
            {"label": label, "target": None if label == "free" else {"loss": 1.0}, "seconds": seconds}
            for label, seconds in found.items()
        ]
        last = None if second is None else max(first, second)
        return {"name": name, "tasks": tasks, "makespan": last, "ratio": ratio}

    rows = [row("sync", 40.0, 50.0, None), row("fedast", 20.0, 30.0, 0.6), row("slow", 20.0, None, None)]
    head, *lines = printed({"tasks": rows}, makespan)
    assert head == "strategy a b all of sync's time".split()
    assert lines[0] == "sync 40 s 50 s 50 s".split()
    assert lines[1] == "fedast 20 s 30 s 30 s 60%".split()
    assert lines[2] == "slow 20 s not reached not reached".split()
    assert makespan({"tasks": []}) is None


CELL = {"strategy": "", "defense": "none", "client_mode": "train"}


def app_report(**rows: Any) -> dict[str, Any]:
    return {"run": {"cells": [CELL]}, "utility": [], "guarantees": [], "attacks": [], **rows}


def test_what_measures_no_accuracy_has_a_row_all_the_same() -> None:
    assert printed(app_report(), summary)[1] == "none train – none no attacks".split()
    told = app_report(app={"obstacles": ["why"]})
    assert printed(told, summary)[1] == "none train – none not attacked".split()


def test_labels_that_were_named_stand_beside_those_of_the_null_control() -> None:
    row = {**CELL, "attack": "label-recovery", "level": "labels", "label_accuracy": 0.625}
    data = app_report(attacks=[{**row, "control": {"label_accuracy": 0.4}}])
    assert printed(data, summary)[1] == "none train – none label-recovery – – labels: 62% (null 40%)".split()
