"""A million registered devices cost nothing until they are used.

Two federations take turns, of 1,000 and of 1,000,000 devices (log-normal speeds, 5 % drop-out), with
the same cohorts of 100 on the small MLP. Start: from an imported library to the first round's
messages. Memory: resident, after all rounds, over what the process held before the federation was
built (training and its libraries' caches included). Rounds: per second of processor time.
"""

from __future__ import annotations

import sys

from benchmarks.harness import Result, Row, Side, finish, take_turns

TURNS, ROUNDS = 5, 10
FEW, MANY = 1_000, 1_000_000


def main() -> int:
    turns = take_turns(
        {
            "few": (Side("devices_side", FEW), ROUNDS, ROUNDS),
            "many": (Side("devices_side", MANY), ROUNDS, ROUNDS),
        },
        TURNS,
    )
    cpu = "cpu_seconds"
    rows = [
        Row("start", turns.median("many", "start"), "s", at_most=3.0),
        Row("memory over the baseline", turns.answers["many"][-1]["grown_mb"], "MB", at_most=300.0),
        Row("rounds/s, relative to 1,000 devices", turns.ratio("many", "few", cpu), "×", at_least=0.8),
        Row("rounds with 1,000,000 devices", turns.rate("many", cpu), "/s"),
        Row("rounds with 1,000 devices", turns.rate("few", cpu), "/s"),
    ]
    result = Result(
        "devices",
        "1,000,000 registered devices, cohort 100, our schedule",
        rows,
        measurements=dict(turns.answers),
        versions=turns.versions,
    )
    return finish(result)


if __name__ == "__main__":
    sys.exit(main())
