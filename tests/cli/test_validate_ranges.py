"""`fedlab validate` with the plugins that are installed: what `run` would refuse is told before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlab import plugins
from fedlab.errors import ScenarioError
from fedlab.scenario import load, trial

BASE: dict[str, Any] = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def told(given: Any, *overrides: str) -> dict[str, str]:
    with pytest.raises(ScenarioError) as caught:
        load(given, overrides)
    return {problem.place.removesuffix(" (--set)"): problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("override", "place", "message"),
    [
        ("task.model.width=-3", "task.model.width", "got -3; expected a whole number of at least 1"),
        (
            "task.model.dropout=1.0",
            "task.model.dropout",
            "got 1.0; expected a rate of at least 0 and below 1",
        ),
        ("task.model.depth=0", "task.model.depth", "got 0; expected a whole number of at least 1"),
        ("task.model={name='convnet',depth=4}", "task.model.depth", "halves 8x8 images below one pixel"),
        (
            "task.dataset.test_fraction=1.5",
            "task.dataset.test_fraction",
            "got 1.5; expected a number above 0",
        ),
        ("task.dataset={name='photos',per_photo=0}", "task.dataset.per_photo", "got 0; expected 1 to 126"),
        ("task.dataset={name='mnist',limit=0}", "task.dataset.limit", "got 0; expected at least 1"),
        (
            "task.dataset={name='cifar-samples',test_fraction=0.0}",
            "task.dataset.test_fraction",
            "got 0.0; expected a number above 0",
        ),
        ("clients.partition.min_size=-1", "clients.partition.min_size", "got -1; expected a whole number"),
        (
            "clients.partition={name='dirichlet',alpha=0.0}",
            "clients.partition.alpha",
            "got 0.0; expected a number from 0.0001",
        ),
        # 1797 digits without a fifth of them: 1438 (see the data set's own tests).
        ("clients.count=1439", "clients.partition", "digits has 1438 for training"),
        ("strategy.local_rule={name='fedprox',mu=-1.0}", "strategy.local_rule.mu", "number >= 0"),
        (
            "strategy.local_rule={name='fedprox',mu=20.0}",
            "strategy.local_rule",
            "their product must be less than 2",
        ),
        ("strategy.local_rule={name='fedavg-m',beta=0.0}", "strategy.local_rule.beta", "got 0.0; expected"),
        ("strategy.local_rule={name='scaffold',option='III'}", "strategy.local_rule.option", '"I" or "II"'),
        ("strategy.local_rule='fedpox'", "strategy.local_rule", 'Did you mean "fedprox"?'),
        ("strategy.server_optimizer={name='momentum',beta=1.0}", "strategy.server_optimizer.beta", "< 1"),
        ("strategy.server_optimizer={name='adam',tau=0.0}", "strategy.server_optimizer.tau", "> 0"),
        ("strategy.server_optimizer={momentum=1.0}", "strategy.server_optimizer.momentum", "< 1"),
        ("strategy.sampling={name='cyclic',shuffle=true}", "strategy.sampling.shuffle", '"reshuffle"?'),
        ("strategy.aggregator={name='trimmed-mean',f=-1}", "strategy.aggregator.f", "got -1; expected"),
        ("adversaries=[{name='sign-flip',fraction=0.2,scale=-1.0}]", "adversaries.0.scale", "got -1.0"),
        ("defenses=[{name='architecture',dropot=0.5}]", "defenses.0.dropot", 'Did you mean "dropout"?'),
        ("defenses=[{name='architecture',dropout=1.5}]", "defenses.0.dropout", "got 1.5; expected a rate"),
        ("defenses=[{name='architecture',dropout='x'}]", "defenses.0.dropout", 'got "x"; expected a finite'),
    ],
)
def test_a_value_out_of_range_is_told_with_its_place(override: str, place: str, message: str) -> None:
    problems = told(BASE, override)
    assert list(problems) == [place] and message in problems[place]


def test_a_line_is_told_too(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('schema = 1\n[task]\ndataset = "digits"\n[task.model]\nname = "mlp"\nwidth = -3\n')
    assert list(told(file)) == ["task.model.width (line 6)"]


def test_a_defense_that_cannot_take_the_model_is_told() -> None:
    problems = told(BASE, "task.model='resnet'", "defenses=[{name='dp-sgd',noise_multiplier=1.0}]")
    assert list(problems) == ["defenses.0"] and "batch norm" in problems["defenses.0"]


KRUM = "strategy.aggregator={name='krum',f=2}"


@pytest.mark.parametrize(
    ("overrides", "place", "message"),
    [
        (
            [KRUM, "strategy.cohort=6"],
            "strategy.aggregator",
            "'krum' combines at least 7 updates as it is set, but a round asks 6 clients; raise",
        ),
        (
            ["strategy.pre_aggregation={name='nnm',f=5}"],
            "strategy.pre_aggregation",
            "'weighted-mean' after 'nnm' combines at least 11",
        ),
        (
            [KRUM, "clients.stragglers={fraction=0.4,partial=false}"],
            "strategy.aggregator",
            "a round asks 10 clients, of whom stragglers leave 6",
        ),
    ],
)
def test_a_round_that_its_aggregator_cannot_combine_is_told(
    overrides: list[str], place: str, message: str
) -> None:
    """Krum needs 2f + 3 = 7 updates, NNM 2f + 1 = 11; of 10 clients round(0.6 · 10) = 6 are no stragglers."""
    problems = told(BASE, *overrides)
    assert list(problems) == [place] and message in problems[place]


def test_a_round_of_just_enough_clients_is_valid() -> None:
    assert load(BASE, [KRUM, "strategy.cohort=7"])
    assert load(BASE, [KRUM, "clients.stragglers={fraction=0.3,partial=false}"])
    assert load(BASE, [KRUM, "clients.stragglers={fraction=0.9}", "clients.local_epochs=2"])


@pytest.mark.parametrize(
    "override",
    [
        "task.dataset='mnist'",  # whether its files are here is for the run to say
        "clients.count=1438",
        "task={dataset={name='npz',path='mine.npz'},model={name='vit',patch=11}}",  # of 33 x 33, perhaps
        "task={dataset={name='npz',path='mine.npz'},model={name='convnet',depth=8}}",
        "clients.partition={name='shards',per_client=3}",
        "task={dataset='own',model='own'}",
    ],
)
def test_what_only_the_data_can_tell_is_left_to_the_run(override: str) -> None:
    assert load(BASE, [override])


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_the_known_shapes_are_those_of_the_data(name: str) -> None:
    train, _ = plugins.build("datasets", name)
    assert train.shape == trial.SHAPES[name]
