"""GBA: switching between synchronous and asynchronous training in mid-run; Su et al., NeurIPS 2022."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant

TO_ASYNC, TO_SYNC = 101, 151
WINDOW = 10
"""Rounds of a change in loss: by then gradients are as stale as they get."""
BEFORE = 40
"""Changes before a switch that the one across it is compared with."""
CLOSE = 1.05
"""A run is there when its loss is this many times what the synchronous run ends at."""

SYNC, GBA, SWITCH = "synchronous", "GBA", "GBA, switched twice"
ONE = "asynchronous, one by one"


def measure(outcome: Outcome) -> Figures:
    """Loss and virtual seconds at each evaluation, and how many gradients counted nothing."""
    schedule = outcome.metrics["schedule"] or {}
    return {
        "loss": outcome.history("loss"),
        "seconds": outcome.history("seconds"),
        "zeroed": schedule.get("zeroed", 0),
        "staleness": schedule.get("mean_staleness", 0.0),
    }


def final(figures: Figures) -> float:
    """The mean of the last ten evaluations."""
    return statistics.fmean(figures["loss"][-10:])


def total(figures: Figures) -> float:
    return float(figures["seconds"][-1])


def seconds_to(figures: Figures, loss: float) -> float:
    """Until the first evaluation that is as good; NaN if there is none."""
    pairs = zip(figures["loss"], figures["seconds"], strict=True)
    return float(next((seconds for found, seconds in pairs if found <= loss), math.nan))


def jump(losses: Sequence[float], round: int) -> float:
    """The change in loss over the WINDOW rounds from `round` on, in standard deviations of such changes from
    their mean: of those that end in each of the BEFORE rounds before.

    Args:
        losses: after each round, from the first.
    """
    changes = [losses[end] - losses[end - WINDOW] for end in range(round - 1 - BEFORE, round - 1)]
    across = losses[round - 2 + WINDOW] - losses[round - 2]
    return (across - statistics.fmean(changes)) / statistics.stdev(changes)


def jumps(found: Found, variant: str, round: int) -> tuple[float, ...]:
    return tuple(jump(one["loss"], round) for one in found[variant])


def faster(found: Found, variant: str) -> tuple[float, ...]:
    """Synchronous over `variant`: seconds to CLOSE times the synchronous run's final loss."""
    goals = [CLOSE * final(one) for one in found[SYNC]]
    runs = zip(goals, found[SYNC], found[variant], strict=True)
    return tuple(seconds_to(sync, goal) / seconds_to(other, goal) for goal, sync, other in runs)


def over(found: Found, one: str, other: str) -> tuple[float, ...]:
    """Ratio of final losses."""
    return tuple(final(a) / final(b) for a, b in zip(found[one], found[other], strict=True))


def bars(found: Found) -> list[Bar]:
    return [
        Bar(
            "speed of GBA over synchronous, to the same loss",
            faster(found, GBA),
            "at least 2.4",
            at_least=2.0,
        ),
        Bar("jump in loss, to asynchronous", jumps(found, SWITCH, TO_ASYNC), "none", at_most=2.0),
        Bar("jump in loss, to synchronous", jumps(found, SWITCH, TO_SYNC), "none", at_most=2.0),
        Bar(f"the same in round {TO_ASYNC} without a switch", jumps(found, SYNC, TO_ASYNC)),
        Bar("final loss of GBA over synchronous", over(found, GBA, SYNC), "1, about", at_most=1.02),
        Bar("final loss, one by one, over GBA", over(found, ONE, GBA), "above 1", at_least=1.0),
    ]


def _gba(*options: str) -> Variant:
    chosen = ("concurrency=20", "tolerance=4", *options)
    return Variant(("strategy.name=gba", *(f"strategy.options.{one}" for one in chosen)))


STUDY = Study(
    name="gba_switch",
    title="GBA: switches between synchronous and asynchronous training",
    paper="Su et al., NeurIPS 2022: on three recommendation tasks, no loss in quality when a run switches"
    " between the modes with its hyper-parameters as they are; up to 0.2 % more AUC than the best"
    " asynchronous training; at least 2.4 times as fast as synchronous training on a strained cluster",
    work="10 Gaussian classes in 32 dimensions, MLP 32-32-10, 20 workers of 400 at a time, 20 gradients of"
    " 32 records a step, Adam at 0.01 in both modes, tolerance 4, 200 steps; computing times log-normal with"
    f" sigma 1. Switched: synchronous to round {TO_ASYNC - 1}, asynchronous to {TO_SYNC - 1}, then as before."
    f" Jump: the change in test loss over the {WINDOW} rounds after a switch, in standard deviations of such"
    f" changes from their mean, over the {BEFORE} rounds before it. Speed: ratio of virtual seconds until the"
    f" loss is {CLOSE:g} times what synchronous training ends at. One by one: each gradient is a step (a"
    " buffer of 1), with the same Adam and as many gradients in all. Data and run have the same seed",
    variants={
        SYNC: Variant(),
        GBA: _gba(),
        SWITCH: _gba(
            'begin="sync"',
            f'switch=[{{ round = {TO_ASYNC}, to = "async" }}, {{ round = {TO_SYNC}, to = "sync" }}]',
        ),
        ONE: Variant(
            (
                "strategy.name=fedbuff",
                "strategy.options.concurrency=20",
                "strategy.options.staleness=constant",
                "strategy.cohort=1",
                "strategy.rounds=4000",
                "strategy.evaluate_every=20",
            )
        ),
    },
    seeds=(0, 1, 2),
    data_seed="task.dataset.seed",
    measure=measure,
    columns={
        "final loss": final,
        "virtual seconds": total,
        "staleness": lambda one: float(one["staleness"]),
        "counted nothing": lambda one: float(one["zeroed"]),
    },
    digits={"virtual seconds": 0, "staleness": 2, "counted nothing": 0},
    bars=bars,
    notes=(
        "At a switch to asynchronous the first step is made of the first 20 gradients to come, all fresh;"
        " staleness sets in over the steps after it, hence the window of ten.",
    ),
)
