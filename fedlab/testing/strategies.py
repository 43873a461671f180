"""The contract of strategies."""

from __future__ import annotations

from typing import Any

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp
from fedlab.errors import FedlabError
from fedlab.experiment.own import make_strategy, own
from fedlab.scenario.schema import Strategy as Settings
from fedlab.strategies import SGD, as_aggregator
from fedlab.strategies.aggregators import weighted_mean
from fedlab.testing.contract import ContractError, demand, same
from fedlab.testing.federation import SEED, SIZES, course, owners, small_task


def check_strategy(strategy: Any, *, ray: bool = False) -> None:
    """Whether a strategy keeps its contract: Flower strategies, compositions and asynchronous ones alike.

    It runs three rounds with fedlab's clients, asks clients that there are, and makes a model with the
    names and shapes of the one that it was given. Twice the same seed (also of the global generators,
    from which Flower's own strategies draw) gives the same bits; so does a run that was interrupted, if
    it has `snapshot` and `restore`; and (`ray`) one on Ray. One without Flower's rounds (`run_rounds`) meets
    devices that are not equally quick, so that it is interrupted while some are under way.

    Args:
        strategy: a Flower `Strategy`, of which each run gets a copy; a class or function that makes one; or a
            function with arguments, which gets the parts of a composition.
        ray: also on Ray, which takes some seconds to start.

    Raises:
        ContractError: the first thing that it does not keep.
    """
    __tracebackhide__ = True
    task, config = small_task(), ClientConfig(batch_size=4, local_epochs=1)
    app = CohortApp(task, owners(task), LocalRule(), config, SEED)
    model = task.model(SEED)
    start = model.state()

    def make() -> Any:
        arguments = {
            "aggregator": as_aggregator(weighted_mean),
            "optimizer": SGD(),
            "cohort": len(SIZES) - 1,
            "seed": SEED,
            "parameters": list(model.parameter_names),
        }
        return make_strategy(Settings(), arguments, own(strategy=strategy), LocalRule.server)

    try:
        make()
    except FedlabError as error:
        raise ContractError(str(error)) from error
    straight = course(app, make, start)
    demand(same(straight, course(app, make, start)), "the same rounds again", "other bits", "the same")
    demand(
        same(straight, course(app, make, start, cut=True)),
        "rounds that were interrupted after the first, and go on from a checkpoint",
        "other bits",
        "the same",
        "snapshot() holds all that the next round depends on",
    )
    if ray:
        found = course(app, make, start, ray=True)
        demand(same(straight, found), "the same rounds on Ray", "other bits", "the same")
