"""What a message costs when the client does nothing: the Grid alone.

Messages carry a model of 4,810 parameters, clients answer with an empty record. The ClientApp is a
plain Flower one, called once per message. On our Grid a round has 1,000 messages, in this process and
on two Ray workers that get them in chunks; Flower's engine is measured with rounds of 10 and of 100,
which tells its cost per message from its cost per round. In this process: processor time, which on an
idle machine is the wall clock's; elsewhere wall clock.
"""

from __future__ import annotations

import statistics
import sys

from benchmarks.harness import Measurement, Result, Row, Side, finish, take_turns

TURNS = 5
OURS, FEW, MANY = 1_000, 10, 100


def main() -> int:
    flower = Side("flower_side", "empty", "mlp", 1, peer=True)
    turns = take_turns(
        {
            "inline": (Side("fedlab_side", "empty", "mlp", 0), OURS, OURS),
            "ray": (Side("fedlab_side", "empty", "mlp", 2), OURS, OURS),
            "flower, few": (flower, FEW, FEW),
            "flower, many": (flower, MANY, MANY),
        },
        TURNS,
    )
    pairs = list(zip(turns.answers["flower, few"], turns.answers["flower, many"], strict=True))
    rows = [
        Row(
            "in this process, per message",
            1e3 / turns.rate("inline", "cpu_seconds"),
            "ms",
            at_most=0.2,
        ),
        Row("on two Ray workers, per message", 1e3 / turns.rate("ray"), "ms", at_most=0.5),
        Row("Flower's engine, per message", statistics.median(map(per_message, pairs)), "ms"),
        Row("Flower's engine, per round beside that", statistics.median(map(per_round, pairs)), "ms"),
    ]
    result = Result(
        "messages",
        "one message with a model of 4,810 parameters to an empty ClientApp, and its reply",
        rows,
        measurements=dict(turns.answers),
        versions=turns.versions,
    )
    return finish(result)


def per_message(pair: tuple[Measurement, Measurement]) -> float:
    """Milliseconds by which a round grows with each message."""
    few, many = pair
    return float(1e3 * (many["seconds"] - few["seconds"]) / (MANY - FEW))


def per_round(pair: tuple[Measurement, Measurement]) -> float:
    """Milliseconds that a round takes beside its messages."""
    return float(1e3 * pair[0]["seconds"] - FEW * per_message(pair))


if __name__ == "__main__":
    sys.exit(main())
