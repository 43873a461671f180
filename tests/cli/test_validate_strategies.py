"""What a strategy refuses of parts that are sound by themselves is told before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from fedlab.errors import ScenarioError
from fedlab.scenario import load

BUFFERED: dict[str, Any] = {"name": "fedbuff", "cohort": 4, "options": {"concurrency": 8}}


def told(strategy: dict[str, Any], **more: Any) -> dict[str, str]:
    """Place -> message of every problem; empty if it is sound."""
    given = {"schema": 1, "task": {"dataset": "digits", "model": "softmax"}, "clients": {"count": 20}}
    try:
        load(given | {"strategy": strategy} | more)
    except ScenarioError as error:
        return {problem.place: problem.message for problem in error.problems}
    return {}


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        ({"over_selection": 1.3}, "over_selection", "fedbuff has no over_selection"),
        ({"quorum": 2}, "quorum", "fedbuff has no quorum"),
        ({"sampling": "cyclic"}, "sampling", "plans whole rounds"),
        ({"local_rule": "feddyn"}, "local_rule", "no update may count less than another"),
        ({"name": "fedasync"}, "cohort", "set it to 1"),
        (
            {"aggregator": "mean", "options": {"concurrency": 8, "division": "weights"}},
            "options",
            "means nothing to the aggregator",
        ),
    ],
)
def test_what_does_not_go_together_stands_where_it_can_be_mended(
    change: dict[str, Any], place: str, says: str
) -> None:
    assert told(BUFFERED) == {}
    ((where, message),) = told(BUFFERED | change).items()
    assert where == f"strategy.{place}" and says in message


def test_a_cohort_that_is_too_small_for_the_aggregator_is_told_once() -> None:
    assert list(told(BUFFERED | {"aggregator": "krum", "cohort": 2})) == ["strategy.aggregator"]


def test_defaults_that_are_spelt_out_are_no_mistake() -> None:
    assert told(BUFFERED | {"over_selection": 1.0, "quorum": 1, "server_optimizer": {"momentum": 0.5}}) == {}


def test_an_entry_of_the_axis_is_tried_as_well() -> None:
    entries = [{"label": "sync", "cohort": 4, "over_selection": 1.5}, BUFFERED | {"over_selection": 1.5}]
    assert list(told({}, strategies=entries)) == ["strategies.1.over_selection"]
