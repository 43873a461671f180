"""What GBA refuses, and what it warns of."""

from __future__ import annotations

from typing import Any

import pytest

from fedlab import plugins
from fedlab.errors import UsageError
from tests.strategies.test_gba import federation


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tolerance": -1}, "tolerance = -1; expected at least 0"),
        ({"concurrency": 0}, "concurrency = 0; expected at least 1"),
        ({"begin": "both"}, 'begin = \'both\'; expected "sync" or "async"'),
        ({"switch": [{"round": 5, "to": "asink"}]}, 'switch.0..to = \'asink\'; expected "sync" or "async"'),
        ({"switch": [{"to": "sync"}]}, "switch.0. = .* expected a table with round and to"),
        ({"switch": [{"round": 5, "to": "sync", "at": 3}]}, "expected a table with round and to"),
        ({"switch": [{"round": 1, "to": "sync"}]}, "switch.0..round = 1; expected an integer above 1"),
        ({"switch": [{"round": 2.5, "to": "sync"}]}, "switch.0..round = 2.5; expected an integer above 1"),
        (
            {"switch": [{"round": 9, "to": "sync"}, {"round": 9, "to": "async"}]},
            "switch.1..round = 9; expected an integer above 9",
        ),
        ({"switch": [{"round": 9, "to": "async"}]}, 'switch.0..to = "async", which the mode is by then'),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        federation(**options)


def test_a_server_that_no_update_may_be_lost_to_is_refused() -> None:
    server = plugins.build("local_rules", "feddyn").server
    with pytest.raises(UsageError, match="no update may count nothing, as late ones do in gba"):
        federation(server=server)


def test_devices_that_would_work_in_vain_are_told_of() -> None:
    """Nine devices of 1 s and one of 11 s, 2 s on average; W / M = 2. A trip of the slow one sees 11 steps of
    which its token foresees 2: 9 behind. Zero counts from 10 on if ι = 9, and from 9 on if ι = 8."""
    times = [1.0] * 9 + [11.0]
    for tolerance, told in ((9, 0), (8, 1)):
        _, strategy = federation(cohort=2, concurrency=4, tolerance=tolerance)
        found = strategy.cautions(times)
        assert len(found) == told and all("about 10% of the gradients" in one for one in found)
    _, strategy = federation(cohort=2, concurrency=4, tolerance=0, begin="sync")
    assert strategy.cautions(times) == [], "a synchronous run waits for all"
