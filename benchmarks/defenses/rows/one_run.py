"""The one-run audit of correct DP-SGD, white-box: its bounds on ε = 8 hold, and are not idle."""

from __future__ import annotations

import statistics
import sys

from benchmarks.defenses.planted_bugs import correct, network
from benchmarks.harness import Result, Row, finish
from fedlab.experiment.canaries import Audit, Round, audited
from fedlab.privacy import noise_multiplier_for

EPSILON, DELTA, RUNS, STEPS, CANARIES = 8.0, 1e-5, 40, 20, 1000


def bounds(rate: float, runs: int, canaries: int = CANARIES) -> tuple[list[float], float]:
    """The bound of each run, and the smallest ε that was accounted for."""
    sigma = noise_multiplier_for(EPSILON, DELTA, rate, STEPS)
    private = correct(sigma, canaries, round(rate * canaries))
    rounds = [Round(number, sigma, rate, 1) for number in range(1, STEPS + 1)]
    found = [
        audited(
            Audit(
                private.rule,
                network(canaries // 64 + 1),
                private.config,
                rounds,
                canaries=canaries,
                guesses=canaries // 10,
                delta=DELTA,
                confidence=0.95,
                seed=seed,
            )
        )
        for seed in range(runs)
    ]
    return [one.epsilon_hat for one in found], min(one.epsilon or 0.0 for one in found)


def main() -> int:
    rows, measured = [], {}
    for rate, runs in ((0.5, RUNS), (1.0, 10), (0.1, 10)):
        found, epsilon = bounds(rate, runs)
        measured[f"q = {rate:g}"] = found
        barred = rate == 0.5
        held = sum(bound <= epsilon for bound in found)
        rows += [
            Row(
                f"q = {rate:g}: runs of {runs} whose bound is at most ε",
                held,
                at_least=38 if barred else None,
            ),
            Row(
                f"q = {rate:g}: bound on ε, median",
                statistics.median(found),
                at_least=0.2 * EPSILON if barred else None,
            ),
            Row(f"q = {rate:g}: bound on ε, largest", max(found)),
        ]
    work = (
        f"DP-SGD at (ε, δ) = ({EPSILON:g}, {DELTA:g}), {STEPS} steps, {CANARIES} gradient canaries in"
        f" coordinates of their own, {CANARIES // 10} guesses fixed beforehand, 95 %"
    )
    return finish(Result("defense_one_run", work, rows, measurements=measured))


if __name__ == "__main__":
    sys.exit(main())
