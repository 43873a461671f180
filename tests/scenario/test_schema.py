"""What a scenario is when nothing is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedlab.errors import ScenarioError
from fedlab.scenario import json_schema, load, resolved_toml
from fedlab.scenario.reference import markdown
from fedlab.scenario.schema import Scenario

SMALLEST = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def test_the_smallest_scenario_and_its_defaults() -> None:
    found = load(SMALLEST)
    assert (found.task.dataset.name, found.task.model.name, found.task.model.params) == ("digits", "mlp", {})
    assert (found.name, found.seeds, found.clients.modes) == ("scenario", [0], ["train"])
    assert (found.clients.count, found.strategy.cohort, found.audit.victims) == (10, 10, 8)
    assert [(one.name, one.label) for one in found.defenses] == [("none", "none")]
    assert (found.strategy.aggregator.name, found.clients.partition.name) == ("weighted-mean", "iid")


def test_a_table_gives_a_plugin_its_parameters_and_they_cannot_be_changed_from_outside() -> None:
    found = load(
        SMALLEST | {"task": {"dataset": "digits", "model": {"name": "mlp", "width": 3, "hidden": [1]}}}
    )
    found.task.model.params["hidden"].append(2)
    assert found.task.model.params == {"width": 3, "hidden": [1]}
    with pytest.raises(ValidationError):
        found.task.model.name = "other"


def test_the_label_of_an_attack_is_its_name_unless_given() -> None:
    found = load(
        SMALLEST
        | {"attacks": [{"name": "inverting"}, {"name": "inverting", "label": "long", "iterations": 9}]}
    )
    assert [(one.label, one.params) for one in found.attacks] == [
        ("inverting", {}),
        ("long", {"iterations": 9}),
    ]


@pytest.mark.parametrize(
    ("changes", "cohort", "victims"),
    [
        ({}, 10, 8),
        ({"clients": {"count": 3}}, 3, 3),  # 3 clients, 1 observed round: 3 observations
        ({"clients": {"count": 3}, "audit": {"rounds": [1, 2]}}, 3, 6),
        ({"strategy": {"cohort": 2}}, 2, 2),
        ({"strategy": {"cohort": 2}, "audit": {"rounds": [1, 2, 3, 4, 5]}}, 2, 8),
        ({"audit": {"victims": 1}}, 10, 1),
    ],
)
def test_the_cohort_and_the_victims_follow_the_clients(changes: Any, cohort: int, victims: int) -> None:
    found = load(SMALLEST | changes)
    assert (found.strategy.cohort, found.audit.victims) == (cohort, victims)


def test_one_seed_several_seeds_and_one_mode_or_two() -> None:
    assert load(SMALLEST | {"seed": 7}).seeds == [7]
    assert load(SMALLEST | {"seeds": [3, 1]}).seeds == [3, 1]
    assert load(SMALLEST | {"clients": {"mode": "eval"}}).clients.modes == ["eval"]
    assert load(SMALLEST | {"clients": {"mode": ["eval", "train"]}}).clients.modes == ["eval", "train"]


def test_a_scenario_can_be_loaded_again_and_changed() -> None:
    found = load(SMALLEST, ["seed=5", "clients.local_steps=2"])
    assert load(found) == found
    assert load(found, ["seed=6"]).seeds == [6]


def test_the_name_is_the_files_unless_given(tmp_path: Path) -> None:
    file = tmp_path / "my first try!.toml"
    file.write_text("schema = 1\ntask = { dataset = 'digits', model = 'mlp' }\n")
    assert load(file).name == "my-first-try-"
    assert load(str(file), ["name=7"]).name == "7"


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "claim": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "clients": st.fixed_dictionaries(
            {"count": st.integers(5, 99)},
            optional={
                "learning_rate": st.floats(1e-300, 1e300),
                "local_steps": st.integers(1, 9),
                "mode": st.sampled_from(["train", ["eval"], ["eval", "train"]]),
                "partition": st.sampled_from(["iid", {"name": "dirichlet", "alpha": 1}]),
            },
        ),
        "devices": st.fixed_dictionaries(
            {"time": st.sampled_from(["exponential", {"name": "half-normal", "minimum": 1}])},
            optional={
                "availability": st.fixed_dictionaries({"period": st.floats(1e6, 1e9)}),
                "upload_mbps": st.floats(1e-3, 1e3),
            },
        ),
        "runtime": st.fixed_dictionaries({"workers": st.sampled_from(["auto", 1, 3])}),
        "audit": st.fixed_dictionaries(
            {"rounds": st.lists(st.integers(1, 10), min_size=1, max_size=3, unique=True)}
        ),
        "defenses": st.just([{"name": "noise", "noise_multiplier": 1}, {"name": "none"}]),
    },
)


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resolved_toml_gives_the_same_scenario_back(changes: dict[str, Any]) -> None:
    found = load(SMALLEST | changes)
    text = resolved_toml(found)
    again = load(tomllib.loads(text))
    assert again == found
    assert resolved_toml(again) == text


def test_the_json_schema_knows_every_key_and_the_installed_plugins() -> None:
    schema = json_schema()
    tables = schema["$defs"]
    for name, field in Scenario.model_fields.items():
        assert (field.alias or name) in schema["properties"]
    assert tables["models"]["properties"]["name"]["enum"] == ["mlp"]
    assert tables["Clients"]["properties"]["partition"]["anyOf"][0]["enum"] == ["dirichlet", "iid"]
    assert schema["properties"]["attacks"]["items"] == {"$ref": "#/$defs/attacks"}
    assert set(schema["required"]) == {"schema"} and schema["additionalProperties"] is False
    references = {text.split('"')[0] for text in str(schema).replace("'", '"').split("#/$defs/")[1:]}
    assert references == set(tables)


def test_the_reference_page_is_the_schemas() -> None:
    page = Path(__file__).parents[2] / "docs" / "scenario.md"
    assert page.read_text(encoding="utf-8") == markdown(), "run `fedlab schema --markdown > docs/scenario.md`"


def test_every_key_has_a_meaning() -> None:
    for row in markdown().splitlines():
        if row.startswith("| `"):
            assert all(cell.strip() for cell in row.strip("|").split("|")), row


def test_python_values_are_taken_as_toml_would_have_them(tmp_path: Path) -> None:
    found = load(
        {
            "schema": 1,
            "task": {"dataset": {"name": "npz", "path": tmp_path}, "model": "mlp"},
            "clients": {"local_steps": None},
            "audit": {"rounds": (1, 2)},
        }
    )
    assert found.task.dataset.params == {"path": str(tmp_path)} and found.audit.rounds == (1, 2)


def test_version_two_is_refused() -> None:
    with pytest.raises(ScenarioError, match="schema: got 2; expected 1"):
        load(SMALLEST | {"schema": 2})
