"""What the observations of a run take on the disk, refused before training where it is too much."""

from __future__ import annotations

from collections.abc import Sequence

from fedlab.errors import UsageError
from fedlab.experiment.cells import Cell
from fedlab.scenario import Scenario
from fedlab.scenario.schema import Strategy as StrategySettings
from fedlab.tasks import FunctionalModel


def at_once(settings: StrategySettings) -> int:
    """Clients that train at the same time."""
    told = settings.options.get("concurrency")
    return told if isinstance(told, int) else settings.cohort


def observed_bytes(scenario: Scenario, model: FunctionalModel, cells: Sequence[Cell]) -> float:
    """What the observations of these cells take on the disk."""
    values = sum(value.numel() for value in model.state().values())
    settings = [scenario.under(cell.strategy).strategy for cell in cells]
    cohorts, rounds = [one.cohort for one in settings], scenario.audit.rounds
    # An asynchronous server starts with so many clients on its first model, and replaces them one by one.
    starting = [max(0, at_once(one) - one.cohort) if 1 in rounds else 0 for one in settings]
    return 4.0 * values * (len(rounds) * sum(cohort + 1 for cohort in cohorts) + sum(starting))


def check_disk(scenario: Scenario, model: FunctionalModel, cells: Sequence[Cell]) -> None:
    """Refuse, before training, observations that would outgrow audit.max_disk_mb.

    Raises:
        UsageError: they would.
    """
    megabytes = observed_bytes(scenario, model, cells) / 1e6
    if megabytes > scenario.audit.max_disk_mb:
        cohorts = dict.fromkeys(scenario.under(cell.strategy).strategy.cohort for cell in cells)
        each = " and ".join(map(str, cohorts))
        raise UsageError(
            f"the observations of {len(cells)} cells, {len(scenario.audit.rounds)} rounds and cohorts of"
            f" {each} would take {megabytes:,.3g} MB; audit.max_disk_mb is"
            f" {scenario.audit.max_disk_mb:,.6g}. Observe fewer rounds, or raise it"
        )
