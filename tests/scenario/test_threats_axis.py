"""What attackers are assumed to know: levels, single pieces, and threats beside the run's own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlab.errors import ScenarioError, UnknownName
from fedlab.ladder import LADDER
from fedlab.scenario import json_schema, load, resolved_toml
from fedlab.scenario.schema import Threat

SMALLEST: dict[str, Any] = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def told(data: Any) -> dict[str, str]:
    with pytest.raises(ScenarioError) as caught:
        load(data)
    return {problem.place: problem.message for problem in caught.value.problems}


def test_without_a_word_the_attacker_knows_the_protocol() -> None:
    found = load(SMALLEST)
    assert found.threat == Threat() and found.assumed == {"": found.threat} and found.facing("") == found
    known = found.threat.model_dump()
    assert {key: known[key] for key in LADDER["protocol"]} == LADDER["protocol"]
    assert (known["server"], known["sums"]) == ("curious", False)
    assert "threats" not in resolved_toml(found)
    assert tomllib.loads(resolved_toml(found))["threat"] == {"level": "protocol"}


@pytest.mark.parametrize("level", LADDER)
def test_a_level_is_a_shorthand_that_single_keys_refine(level: str) -> None:
    found = load(SMALLEST | {"threat": {"level": level, "labels": False, "momentum": True}}).threat
    known = found.model_dump()
    assert {key: known[key] for key in LADDER[level]} == {**LADDER[level], "labels": False, "momentum": True}  # type: ignore[index]


def test_levels_grant_more_and_more() -> None:
    counts = [sum(granted.values()) for granted in LADDER.values()]
    assert counts == [0, 8, 9, 9, 11]


def test_an_entry_takes_over_what_it_does_not_give_unless_it_names_a_level() -> None:
    shared = {"labels": True, "sums": True}
    found = load(
        SMALLEST
        | {"threat": shared, "threats": [{"label": "blind", "batch_size": False}, {"level": "weights"}]}
    )
    assert list(found.assumed) == ["", "blind", "weights"], "a label is the level unless given"
    blind, weights = found.assumed["blind"], found.assumed["weights"]
    assert (blind.labels, blind.batch_size, blind.sums) == (True, False, True)
    assert (weights.labels, weights.learning_rate) == (False, False)
    assert weights.sums is True, "how the server behaves is no knowledge"
    faced = found.facing("blind")
    assert (faced.threat, faced.threats) == (blind, ())
    with pytest.raises(UnknownName, match='Did you mean "blind"'):
        found.facing("blnd")


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "level": st.sampled_from(list(LADDER)),
        "labels": st.booleans(),
        "batch_size": st.booleans(),
        "proxy_data": st.booleans(),
        "sums": st.booleans(),
        "server": st.sampled_from(["curious", "malicious"]),
    },
)


@given(shared=KEYS, entries=st.lists(KEYS, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_resolved_scenario_is_the_same_scenario(shared: dict[str, Any], entries: list[Any]) -> None:
    listed = [{"label": f"t{index}", **one} for index, one in enumerate(entries)]
    found = load(SMALLEST | {"threat": shared, "threats": listed})
    assert load(tomllib.loads(resolved_toml(found))) == found and load(found) == found
    # A level of one's own choosing still has its say over what was resolved.
    assert load(found, ["threat.level=oracle"]).threat.level == "oracle"


def test_a_later_level_counts_although_the_scenario_was_resolved() -> None:
    assert load(load(SMALLEST), ["threat.level=oracle"]).threat.dropout_masks
    found = load(SMALLEST | {"threats": [{"label": "a"}]}, ["threats.a.labels=true"])
    assert found.assumed["a"].labels and not found.threat.labels


def test_mistakes_stand_where_they_can_be_mended(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """schema = 1
[task]
dataset = "digits"
model = "mlp"
[threat]
level = "orcale"
labls = true
sums = 1
[[threats]]
label = "a"
server = "curios"
[[threats]]
batch_size = false
[[threats]]
label = "a"
[[threats]]
level = "everything"
"""
    )
    problems = told(file)
    assert {place: text.split(";")[0].split(".")[0] for place, text in problems.items()} == {
        "threat.level (line 6)": 'got "orcale"',
        "threat.labls (line 7)": "unknown key",
        "threat.sums (line 8)": "got 1",
        "threats.0.server (line 11)": 'got "curios"',
        "threats.1 (line 12)": 'expected a label, as in label = "blind", or a level, as in level = "oracle"',
        "threats.2 (line 14)": 'there is already one labelled "a"',
        "threats.3.level (line 17)": 'got "everything"',
    }
    assert 'Did you mean "labels"?' in problems["threat.labls (line 7)"]


def test_editors_are_not_told_defaults_that_hang_on_the_level() -> None:
    for table in ("Threat", "ThreatVariant"):
        keys = json_schema()["$defs"][table]["properties"]
        assert "default" not in keys["labels"] and keys["level"]["default"] == "protocol"
