"""What DP-SGD costs in a cohort of 20, beside Opacus one client after the other, side by side in one run."""

from __future__ import annotations

import sys

from benchmarks.harness import Result, Row, Side, finish, take_turns
from benchmarks.sides.dp_side import CLIENTS, PER_EPOCH, STEPS

BATCHES = (16, 64)
TURNS, ROUNDS, THEIR_ROUNDS = 7, 5, 1


def main() -> int:
    rows, measurements, versions = [], {}, {}
    for batch in BATCHES:
        turns = take_turns(
            {
                "fedlab": (Side("dp_side", "fedlab", batch), ROUNDS, ROUNDS * CLIENTS),
                "opacus": (Side("dp_side", "opacus", batch), THEIR_ROUNDS, THEIR_ROUNDS * CLIENTS),
            },
            TURNS,
        )
        ratio = turns.ratio("fedlab", "opacus", "cpu_seconds")
        what = f"expected batch {batch}"
        rows.append(Row(f"{what}: × Opacus' DPOptimizer, one by one", ratio, "×", at_least=5))
        rows.append(Row(f"{what}: client updates", turns.rate("fedlab", "cpu_seconds"), "/s"))
        rows.append(
            Row(f"{what}: client updates, Opacus one by one", turns.rate("opacus", "cpu_seconds"), "/s")
        )
        measurements[f"batch {batch}"] = turns.answers
        versions |= turns.versions
    work = (
        f"DP-SGD, MLP 64-64-10, cohort of {CLIENTS} clients with {PER_EPOCH} batches of records each,"
        f" {STEPS} Poisson steps, one CPU"
    )
    notes = ["Per second of processor time; local training alone, no messages on either side."]
    return finish(Result("defense_dp_speed", work, rows, notes, measurements, versions))


if __name__ == "__main__":
    sys.exit(main())
