"""Pruning, architecture, and the identity."""

import functools

import pytest
import torch
from fedlab_defenses.architecture.knobs import Architecture
from fedlab_defenses.none import NoDefense
from fedlab_defenses.updates.gradient_pruning import GradientPruning
from torch import nn

from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Work
from fedlab.clients.rules.mime import MimeLite
from fedlab.clients.rules.personal import PersonalHead
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError

FEDERATION = Federation((10,), 1, ClientConfig())
WORK = Work(torch.ones(()), torch.ones(()), torch.ones(()), torch.zeros(()), {})


def test_no_defense_changes_nothing() -> None:
    defense, rule = NoDefense(), LocalRule()
    assert isinstance(defense, Defense)
    assert defense.local_rule(rule, FEDERATION) is rule and defense.mods() == ()
    assert defense.config(FEDERATION.config) is FEDERATION.config


def test_pruning_keeps_the_largest_coordinates() -> None:
    """Deltas (1, -4, 2) and (3): ratio 0.5 of 4 coordinates drops the two smallest, 1 and 2."""
    rule = GradientPruning(ratio=0.5).local_rule(LocalRule(), FEDERATION)
    anchor = {"a": torch.tensor([1.0, 1.0, 1.0]), "b": torch.tensor([2.0])}
    moved = {"a": torch.tensor([2.0, -3.0, 3.0]), "b": torch.tensor([5.0])}
    sent = rule.finish(anchor, moved, WORK, {}).parameters
    assert sent["a"].tolist() == [1.0, -3.0, 1.0] and sent["b"].tolist() == [5.0]


def test_pruning_nothing_sends_all() -> None:
    rule = GradientPruning(ratio=0.0).local_rule(LocalRule(), FEDERATION)
    anchor, moved = {"a": torch.zeros(5)}, {"a": torch.tensor([0.0, 1.0, -2.0, 1e-9, 3.0])}
    assert torch.equal(rule.finish(anchor, moved, WORK, {}).parameters["a"], moved["a"])


def test_what_stays_with_the_client_is_not_pruned() -> None:
    """Of the base's deltas 1 and 3 the smaller is dropped; the head moves by 0.5 and stays so."""
    rule = GradientPruning(ratio=0.5).local_rule(PersonalHead(), FEDERATION)
    anchor = {"base.weight": torch.zeros(1, 2), "head.weight": torch.zeros(1, 1)}
    moved = {"base.weight": torch.tensor([[1.0, 3.0]]), "head.weight": torch.tensor([[0.5]])}
    assert set(rule.personal(anchor, torch.Generator())) == {"head.weight"}
    sent = rule.finish(anchor, moved, WORK, {}).parameters
    assert sent["base.weight"].tolist() == [[0.0, 3.0]] and sent["head.weight"].tolist() == [[0.5]]


@pytest.mark.parametrize("rule", [Scaffold(), MimeLite()])
def test_pruning_refuses_rules_that_send_more_than_the_update(rule: LocalRule) -> None:
    with pytest.raises(UsageError, match=r"also sends (control|gradient), which would tell what was changed"):
        GradientPruning(ratio=0.5).local_rule(rule, FEDERATION)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"ratio must lie in \[0, 1\)"):
        GradientPruning(ratio=ratio)


def network(shape: tuple[int, ...], classes: int, *, width: int = 8, bias: bool = True) -> nn.Module:
    return nn.Linear(width, classes, bias=bias)


def test_architecture_turns_the_models_own_knobs() -> None:
    factory = functools.partial(network, (1, 4, 4), 3, width=5)
    changed = Architecture(bias=False).network(factory)()
    assert isinstance(changed, nn.Linear) and changed.bias is None and changed.in_features == 5


def test_unknown_knobs_and_none_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match=r'no knob "widht". Did you mean "width"\? It has: width, bias'):
        Architecture(widht=3).network(functools.partial(network, (1, 4, 4), 3))
    with pytest.raises(UsageError, match="without a knob"):
        Architecture()
