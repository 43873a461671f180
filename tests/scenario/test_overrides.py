"""`--set a.b=v`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlab.errors import ScenarioError
from fedlab.scenario import load

BASE: dict[str, Any] = {
    "schema": 1,
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 3}},
    "defenses": [{"name": "none"}, {"name": "noise", "label": "loud", "noise_multiplier": 1.0}],
}


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("runtime.executor=inline", lambda s: s.runtime.executor, "inline"),
        ('runtime.executor="inline"', lambda s: s.runtime.executor, "inline"),
        ("runtime.workers=2", lambda s: s.runtime.workers, 2),
        ("runtime.workers=auto", lambda s: s.runtime.workers, "auto"),
        ('clients.mode=["train","eval"]', lambda s: s.clients.modes, ["train", "eval"]),
        ("clients.mode=eval", lambda s: s.clients.modes, ["eval"]),
        ("clients.learning_rate=1", lambda s: s.clients.learning_rate, 1.0),
        ("defenses.1.noise_multiplier=2", lambda s: s.defenses[1].params["noise_multiplier"], 2),
        ("defenses.loud.noise_multiplier=2", lambda s: s.defenses[1].params["noise_multiplier"], 2),
        ("task.model.width=64", lambda s: s.task.model.params, {"width": 64}),
        ("task.model=mlp", lambda s: s.task.model.params, {}),
        ("task.model={ name = 'mlp', dropout = 0.5 }", lambda s: s.task.model.params, {"dropout": 0.5}),
        ("task.dataset.test_fraction=0.5", lambda s: s.task.dataset.params, {"test_fraction": 0.5}),
        ("claim=true", lambda s: s.claim, "true"),
        ("claim = two = three", lambda s: s.claim, "two = three"),
        ("name=2024", lambda s: s.name, "2024"),
        ("seed=3", lambda s: s.seeds, [3]),
        ("seeds=[3, 4]", lambda s: s.seeds, [3, 4]),
        ("threat.labels=true", lambda s: s.threat.labels, True),
        (
            "strategy.server_optimizer.momentum=0.9",
            lambda s: s.strategy.server_optimizer.params,
            {"momentum": 0.9},
        ),
        ("strategy.local_rule.name=fedprox", lambda s: s.strategy.local_rule.name, "fedprox"),
        ("strategy.sampling=cyclic", lambda s: s.strategy.sampling.name, "cyclic"),
        (
            "clients.stragglers={fraction=0.9, partial=false}",
            lambda s: (s.clients.stragglers.fraction, s.clients.stragglers.partial),
            (0.9, False),
        ),
        ("defenses=[{name='none'}]", lambda s: len(s.defenses), 1),
    ],
)
def test_a_value_is_typed_by_the_schema(override: str, read: Any, value: object) -> None:
    assert read(load(BASE, [override])) == value


def test_text_stays_text_where_a_plugin_wants_text() -> None:
    found = load(BASE, ["task.dataset.path=2024", "task.dataset.name=npz"])
    assert found.task.dataset.params == {"path": "2024"}


def test_the_order_of_overrides_is_free_and_the_last_of_two_counts() -> None:
    first = load(BASE, ["clients.partition.alpha=2", "clients.partition.name=dirichlet"])
    assert first.clients.partition.params == {"alpha": 2}
    assert load(BASE, ["clients.count=3", "clients.count=4"]).clients.count == 4


def test_an_override_replaces_what_excludes_it() -> None:
    base = BASE | {"seeds": [1, 2], "clients": {"local_steps": 3}}
    found = load(base, ["seed=9", "clients.local_epochs=2"])
    assert (found.seeds, found.clients.local_steps, found.clients.local_epochs) == ([9], None, 2)


def test_a_default_defense_takes_an_override() -> None:
    plain = {key: value for key, value in BASE.items() if key != "defenses"}
    assert load(plain, ["defenses.none.label=plain"]).defenses[0].label == "plain"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clients.cuont=3", 'clients has no "cuont". Did you mean "count"'),
        ("clint.count=3", 'a scenario has no "clint". Did you mean "clients"'),
        ("task.model.wdth=3", 'Did you mean "width"'),
        ("defenses.9.label=x", 'has no element "9". It has: 0 (none), 1 (loud)'),
        ("defenses.label=x", "It has: 0 (none), 1 (loud)"),
        ("runtime.num_cpus.x=3", "runtime.num_cpus holds a value"),
        ("seed", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("clients..count=3", 'clients has no ""'),
    ],
)
def test_an_override_that_leads_nowhere_says_so(override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(BASE, [override])
    (problem,) = caught.value.problems
    assert problem.place.startswith("--set") and message in problem.message


def test_a_bad_value_names_the_option_instead_of_a_line() -> None:
    with pytest.raises(ScenarioError) as caught:
        load(BASE, ["clients.count=many", "task.model.width=wide"])
    assert [(one.place, one.message) for one in caught.value.problems] == [
        ("clients.count (--set)", 'got "many"; expected an integer from 1 to 1000000000'),
        ("task.model.width (--set)", 'got "wide"; expected an integer'),
    ]


def test_the_given_tables_are_left_as_they_were() -> None:
    before = repr(BASE)
    load(BASE, ["defenses.1.noise_multiplier=5", "task.model.width=5"])
    assert repr(BASE) == before


PARTS = st.sampled_from(
    ["task", "model", "defenses", "0", "clients", "count", "name", "seed", "width", "", "x", "é"]
)


@given(st.lists(PARTS, min_size=1, max_size=4), st.text(max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_no_override_whatever_raises_anything_but_a_scenario_error(parts: list[str], value: str) -> None:
    try:
        load(BASE, [f"{'.'.join(parts)}={value}"])
    except ScenarioError as error:
        assert error.problems
