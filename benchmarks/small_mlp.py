"""Small clients, end to end: what one costs beside Flower, pfl and a bare PyTorch loop.

Work: MLP 64-64-10 (4,810 parameters), 100 clients of 16 records, cohorts of 50, 5 full-batch SGD
steps, federated averaging. fedlab does it with one CPU through its own FedAvg, Flower messages, the
tap, the guard and the Grid, chunks cut as in any scenario; Flower's unmodified FedAvg on our Grid is
measured, too.

pfl, the bare loop and fedlab are one process with one thread each; their rates are per second of
processor time, which on an idle machine is the wall clock's, and on a shared one is what can be
compared. Flower is many processes: wall clock, start-up left out on both sides. It runs as
`run_simulation(server_app, client_app, 100)` does (two CPUs per client, torch's own choice of
threads), and once more with the settings that suit it best here: one CPU and one thread per client.

The floor is the same arithmetic, stacked by hand, without autograd, messages or averages: no way of
running these clients one cohort at a time on this CPU gets past it.

Deviations: random records of the digits' shape; the bare loop averages nothing.
"""

from __future__ import annotations

import sys

from benchmarks.harness import Result, Row, Side, finish, take_turns
from benchmarks.work import WORKS

WORK = WORKS["mlp"]
TURNS, FLOWER_TURNS = 7, 3
ROUNDS = 20
TUNED_ROUNDS = 2


def main() -> int:
    updates = WORK.cohort
    quick = take_turns(
        {
            "fedlab": (Side("fedlab_side", "train", "mlp", 0), ROUNDS, ROUNDS * updates),
            "flwr's FedAvg": (Side("fedlab_side", "train", "mlp", 0, "flwr"), ROUNDS, ROUNDS * updates),
            "pfl": (Side("pfl_side", "mlp", peer=True), ROUNDS // 4, ROUNDS // 4 * updates),
            "floor": (Side("floor"), ROUNDS, ROUNDS * updates),
            "bare": (Side("bare", "mlp"), ROUNDS // 4, ROUNDS // 4 * updates),
        },
        TURNS,
    )
    ours = Side("fedlab_side", "train", "mlp", 0), ROUNDS, ROUNDS * updates
    default = take_turns(
        {
            "fedlab": ours,
            "flower": (Side("flower_side", "train", "mlp", 0, peer=True, threads=None), 1, updates),
        },
        FLOWER_TURNS,
    )
    ours = Side("fedlab_side", "train", "mlp", 0), ROUNDS, ROUNDS * updates
    tuned = take_turns(
        {
            "fedlab": ours,
            "flower": (
                Side("flower_side", "train", "mlp", 1, peer=True),
                TUNED_ROUNDS,
                TUNED_ROUNDS * updates,
            ),
        },
        FLOWER_TURNS,
    )
    cpu = "cpu_seconds"
    chunk = int(quick.answers["fedlab"][0]["chunk"])
    rows = [
        Row("fedlab: client updates", quick.rate("fedlab", cpu), "/s"),
        Row("× flwr run_simulation, as it comes", default.ratio("fedlab", "flower"), "×", at_least=150),
        Row("× flwr run_simulation, one CPU and thread per client", tuned.ratio("fedlab", "flower"), "×"),
        Row("× pfl 0.6", quick.ratio("fedlab", "pfl", cpu), "×", at_least=6),
        Row("× a bare PyTorch loop", quick.ratio("fedlab", "bare", cpu), "×", at_least=5),
        Row("flwr's FedAvg on our Grid × a bare loop", quick.ratio("flwr's FedAvg", "bare", cpu), "×"),
        Row("floor, the stacked arithmetic alone × a bare loop", quick.ratio("floor", "bare", cpu), "×"),
        Row(
            "floor × flwr run_simulation, as it comes", quick.rate("floor", cpu) / default.rate("flower"), "×"
        ),
        Row("flwr run_simulation, as it comes: client updates", default.rate("flower"), "/s"),
        Row("flwr run_simulation, one CPU and thread per client: updates", tuned.rate("flower"), "/s"),
        Row("pfl 0.6: client updates", quick.rate("pfl", cpu), "/s"),
        Row("bare PyTorch loop: client updates", quick.rate("bare", cpu), "/s"),
    ]
    result = Result(
        "small_mlp",
        "MLP 64-64-10, 100 clients, cohort 50, 16 records, 5 full-batch steps, one CPU",
        rows,
        notes=[
            f"fedlab trains chunks of {chunk} clients, the rule's choice for this model and cohort.",
            "Rates are per second of processor time, Flower's per second of wall clock.",
        ],
        measurements={
            "quick": quick.answers,
            "flower as it comes": default.answers,
            "flower tuned": tuned.answers,
        },
        versions=quick.versions | default.versions,
    )
    return finish(result, profile=("benchmarks.sides.profiled", "mlp", "20"))


if __name__ == "__main__":
    sys.exit(main())
