"""Gates of a scenario are looked at before it runs: what they name must be what the run will have."""

from __future__ import annotations

from typing import Any

import pytest

from fedlab.errors import BadGate, ScenarioError
from fedlab.scenario import load, resolved_toml
from fedlab.scenario.loading import with_gates

BASE: dict[str, Any] = {
    "schema": 1,
    "task": {"dataset": "digits", "model": "mlp"},
    "strategy": {"rounds": 1},
    "attacks": [{"name": "linear-layer"}, {"name": "membership-loss", "label": "member.1"}],
    "defenses": [{"name": "none"}, {"name": "gradient-pruning", "label": "pruned"}],
    "threats": [{"level": "oracle"}],
}


def told(gate: object, **changes: Any) -> str:
    audit = {"fail_on": gate, **changes.pop("audit", {})}
    try:
        load(BASE | {"audit": audit} | changes)
    except ScenarioError as error:
        assert [problem.place.partition(".")[0] for problem in error.problems] == ["audit"]
        return error.problems[0].message
    return ""


@pytest.mark.parametrize(
    "gate",
    [
        "attack.linear-layer[defense=pruned,mode=train,threat=oracle,seed=0].psnr_median > 20",
        "membership.member.1.tpr_at_fpr_0.01 > 0.1",
        "attack.*[threat=''].recovered > 0",
        # What an audit adds because the defense is known: the attack, and who does not know.
        "attack.cascade[defense=pruned].psnr_median > 20",
        "attack.linear-layer[threat=unaware].psnr_median > 20",
    ],
)
def test_what_the_run_will_have_may_be_named(gate: str) -> None:
    assert told([gate]) == "" == told(gate)


@pytest.mark.parametrize(
    ("gate", "changes", "message"),
    [
        ("attack.cascade.psnr_max > 1", {"audit": {"adaptive": False}}, 'no attack "cascade"'),
        ("attack.cascade.psnr_max > 1", {"threat": {"defense": False}}, 'no attack "cascade"'),
        ("attack.*[threat=unaware].psnr_max > 1", {"threat": {"level": "weights"}}, 'no threat "unaware"'),
        ("attack.member.1.psnr_max > 1", {}, "It is one of membership: write membership.member.1"),
        ("attack.*[defense=gradient-pruning].psnr_max > 1", {}, "There is: none, pruned"),
        ("attack.*[strategy=fedbuff].psnr_max > 1", {}, "There is: none"),
        ("utility[seed=0].loss > 1", {"seeds": [3, 4]}, 'no seed "0". There is: 3, 4'),
        ("utility.loss > lots", {}, 'expected a number, without a unit (at "lots")'),
        (3, {}, "expected a string or a list, each a string"),
    ],
)
def test_what_it_will_not_have_is_a_mistake(gate: object, changes: dict[str, Any], message: str) -> None:
    assert message in told(gate, **changes)


def test_every_gate_is_told_and_by_its_place() -> None:
    with pytest.raises(ScenarioError) as error:
        load(BASE | {"audit": {"fail_on": ["utility.loss > 1", "utility.los > 1", "nothing"]}})
    assert [problem.place for problem in error.value.problems] == ["audit.fail_on.1", "audit.fail_on.2"]


def test_gates_are_added_once_and_survive_the_resolved_file() -> None:
    scenario = load(BASE | {"audit": {"fail_on": "utility.loss > 1"}})
    more = with_gates(scenario, ["utility.loss > 1", "privacy.epsilon > 8"])
    assert more.audit.fail_on == ("utility.loss > 1", "privacy.epsilon > 8")
    assert load(more) == more and "privacy.epsilon > 8" in resolved_toml(more)
    assert "fail_on" not in resolved_toml(load(BASE))
    with pytest.raises(BadGate, match=r"There is: none, pruned"):
        with_gates(scenario, ["privacy[defense=prund].epsilon > 8"])
