"""FedBuff over a million devices, beside a one-by-one event loop over the same schedule.

1,000 clients train at any time, ten updates make a model. The loop is what one would write by hand with
PyTorch and a heap; it draws the same clients from the same fleet and ends at the same model (a test compares
them). Sides take turns, each on one thread, and processor time counts: other work may run beside them.

What an upload costs us beside the training (messages, guard, tap, buffer) does not depend on how long
clients train: the ratio is given for 20 local steps, and for five, where that cost weighs most.
"""

from __future__ import annotations

import sys

from benchmarks.harness import Result, Row, Side, finish, take_turns

TURNS, UPLOADS, FEW = 5, 2_000, 500
MANY, HUGE = 1_000_000, 100_000_000
LONG, SHORT = 20, 5
RECORDED, WARM = 6_000, 200
"""Uploads before it counts: until all frequent shapes are recorded; and for the loop, which has none."""


def main() -> int:
    turns = take_turns(
        {
            "ours": (Side("async_side", "ours", MANY, LONG, RECORDED), UPLOADS, UPLOADS),
            "plain": (Side("async_side", "plain", MANY, LONG, WARM), FEW, FEW),
            "huge": (Side("async_side", "ours", HUGE, LONG, RECORDED), UPLOADS, UPLOADS),
            "ours, short": (Side("async_side", "ours", MANY, SHORT, RECORDED), UPLOADS, UPLOADS),
            "plain, short": (Side("async_side", "plain", MANY, SHORT, WARM), FEW, FEW),
        },
        TURNS,
    )
    cpu = "cpu_seconds"
    peak, larger = (turns.answers[side][-1]["peak_mb"] for side in ("ours", "huge"))
    rows = [
        Row("× a one-by-one loop", turns.ratio("ours", "plain", cpu), "×", at_least=4.0),
        Row("× the same, 5 local steps", turns.ratio("ours, short", "plain, short", cpu), "×"),
        Row("peak memory", peak, "MB", at_most=1000.0),
        Row("speed with 10⁸ devices, relative", turns.ratio("huge", "ours", cpu), "×", at_least=0.75),
        Row("memory with 10⁸ devices, relative", larger / peak, "×", at_most=1.1),
        Row("uploads, 20 local steps", turns.rate("ours", cpu), "/s"),
        Row("uploads, 5 local steps", turns.rate("ours, short", cpu), "/s"),
        Row("mean staleness", turns.answers["ours"][-1]["mean_staleness"], "versions"),
    ]
    result = Result(
        "asynchronous",
        "FedBuff, 1,000,000 devices, M = 1,000, K = 10, 64-64-10 MLP, 16 records and 20 steps per client",
        rows,
        notes=["Sides take turns on one thread each, while other work runs on the machine."],
        measurements=dict(turns.answers),
        versions=turns.versions,
    )
    return finish(result)


if __name__ == "__main__":
    sys.exit(main())
