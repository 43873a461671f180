"""What a finished run prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from fedlab.cli.tables import pace


def fleet(**rows: dict[str, Any]) -> dict[str, Any]:
    found = [
        {"strategy": name, "name": name, "reached": None, "total": {}, **row} for name, row in rows.items()
    ]
    return {"fleet": {"clock": "virtual", "target": {"loss": 0.8}, "rows": found}}


def cost(seconds: float, uploads: float) -> dict[str, Any]:
    return {"seconds": {"mean": seconds}, "uploads": {"mean": uploads}}


def printed(data: dict[str, Any]) -> list[list[str]]:
    console = Console(width=100, record=True)
    console.print(pace(data))
    return [line.split() for line in console.export_text().splitlines()]


def test_what_each_strategy_took_to_the_target_stands_beside_the_first() -> None:
    ratio = {"seconds": {"mean": 6.4771}, "uploads": {"mean": 3.84}}
    data = fleet(
        sync={"reached": cost(222.0, 19200)},
        fedbuff={"reached": cost(34.3, 5000), "ratio": ratio},
        slow={},
    )
    head, *rows = printed(data)
    assert head == "strategy time to loss 0.8 times sooner uploads times fewer".split()
    assert rows[0] == "sync 3:42 min 19,200".split()
    assert rows[1] == "fedbuff 34 s 6.48 5,000 3.84".split()
    assert rows[2] == "slow not reached –".split()


def test_one_strategy_has_nothing_beside_it() -> None:
    assert pace(fleet(sync={"reached": cost(1.0, 1)})) is None
    assert pace({"fleet": None}) is None
