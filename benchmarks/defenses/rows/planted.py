"""What the mechanism check and the one-run audit see of planted faults, by fault, ε and effort."""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace

import numpy as np

from benchmarks.defenses.planted_bugs import BUGS, correct, network
from benchmarks.harness import Result, Row, finish
from fedlab.experiment.canaries import Audit, Round, audited
from fedlab.experiment.proving import LEVEL
from fedlab.privacy import noise_multiplier_for
from fedlab.privacy.mechanism import check

DELTA, CONFIDENCE = 1e-5, 0.95
CHECKS, AUDITS = (20, 10), 4
"""Runs for each fault: of the check at ε = 8 and at 1, and of the audit at either."""
RECORDS, BATCH = 10, 4
"""Of the client that is checked: a batch size that does not divide the records."""
STEPS, RATE = 20, 0.5
"""Of the training that is audited."""
NUMBERS = 5_000
"""Noisy numbers that the check looks at."""
SUBTLE = ("noise 1 % short",)
"""Faults without a bar."""


def caught(bug: str, epsilon: float, numbers: int, runs: int) -> float:
    """Share of runs in which the mechanism check fails."""
    plain = correct(noise_multiplier_for(epsilon, DELTA, BATCH / RECORDS, STEPS), RECORDS, BATCH)
    one = BUGS[bug](plain)
    found = 0
    for seed in range(runs):
        samplings = [one.sampling(seed)] if one.rate == plain.rate else []
        checks = check(
            [one.release(seed)],
            samplings,
            generator=np.random.default_rng(seed),
            level=LEVEL,
            numbers=numbers,
        )
        found += any(each.verdict == "failed" for each in checks)
    return found / runs


def bounds(bug: str, epsilon: float, canaries: int, runs: int) -> tuple[float, float]:
    """Median bound on ε of the one-run audit, and the share of runs in which it refutes ε."""
    sigma = noise_multiplier_for(epsilon, DELTA, RATE, STEPS)
    one = BUGS[bug](correct(sigma, canaries, round(RATE * canaries)))
    rounds = [Round(number, sigma, RATE, 1) for number in range(1, STEPS + 1)]
    found = [
        audited(
            Audit(
                one.rule,
                network(max(10, canaries // 64 + 1)),
                one.config,
                rounds,
                canaries=canaries,
                guesses=canaries // 10,
                delta=DELTA,
                confidence=CONFIDENCE,
                seed=seed,
            )
        )
        for seed in range(runs)
    ]
    refuted = [replace(each, epsilon=epsilon).alarm for each in found]
    return statistics.median(each.epsilon_hat for each in found), sum(refuted) / runs


def main() -> int:
    rows = []
    for bug in BUGS:
        for epsilon, runs in zip((8.0, 1.0), CHECKS, strict=True):
            share = 100 * caught(bug, epsilon, NUMBERS, runs)
            bar = None if bug in SUBTLE else 90.0
            name = f"{bug}: mechanism check, ε = {epsilon:g}"
            rows.append(
                Row(name, share, "%", at_most=10.0) if bug == "none" else Row(name, share, "%", at_least=bar)
            )
            print(rows[-1], file=sys.stderr, flush=True)
        for epsilon in (8.0, 1.0):
            for canaries in (200, 1000):
                median, share = bounds(bug, epsilon, canaries, AUDITS)
                name = f"{bug}: one run, ε = {epsilon:g}, m = {canaries}"
                rows += [
                    Row(f"{name}: refuted", 100 * share, "%"),
                    Row(f"{name}: bound on ε, median", median),
                ]
            print(rows[-1], file=sys.stderr, flush=True)
    work = (
        f"DP-SGD with faults put in: the mechanism check of a client with {RECORDS} records and batches of"
        f" {BATCH}, {NUMBERS:,} noisy numbers, all tests together at {LEVEL:g}, {CHECKS[0]} runs at ε = 8 and"
        f" {CHECKS[1]} at 1; the one-run audit at {100 * CONFIDENCE:g} % of {STEPS} steps at q = {RATE}, a"
        f" tenth of the canaries guessed, {AUDITS} runs; δ = {DELTA:g}"
    )
    return finish(Result("defense_planted", work, rows))


if __name__ == "__main__":
    sys.exit(main())
