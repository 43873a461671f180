"""Whole runs with adversaries, on the digits: what they break, what holds, and what the report says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fedlab
from fedlab.adversaries import poison
from fedlab.audit import Observation, archive
from fedlab.clients.app import CohortApp
from fedlab.errors import FedlabError, Interrupted, ScenarioError, UsageError
from fedlab.experiment import flower
from fedlab.experiment.setup import set_up
from fedlab.scenario import load, resolved_toml
from tests.experiment import crashes

FOUR_OF_TWENTY = 0.2
FLIPPED = {"name": "sign-flip", "scale": 10.0, "fraction": FOUR_OF_TWENTY}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


def scenario(adversaries: list[dict[str, Any]], **strategy: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": 3,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 32, "depth": 1}},
        "clients": {"count": 20, "batch_size": 16, "local_epochs": 2, "learning_rate": 0.3},
        "strategy": {"rounds": 5, "cohort": 20, "aggregator": "mean", **strategy},
        "runtime": {"executor": "inline"},
        "audit": {"rounds": [1], "victims": 1},
        "defenses": [{"name": "none"}],
        "adversaries": adversaries,
    }


def trimmed_mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Without the four largest and smallest of each coordinate."""
    return deltas.sort(0).values[4:-4].mean(0)


def bounded_mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Of updates that are at most of norm 1."""
    return (deltas / deltas.norm(dim=1, keepdim=True).clamp_min(1.0)).mean(0)


def train(
    out: Path,
    adversaries: list[dict[str, Any]],
    own: Callable[[Tensor, Tensor], Tensor] | None = None,
    **strategy: Any,
) -> dict[str, Any]:
    fedlab.run(scenario(adversaries, **strategy), out=out, aggregator=own)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())["cells"]["none-train-s3"]
    return found


def test_four_of_twenty_break_the_mean_but_neither_median_nor_trimmed_mean(tmp_path: Path) -> None:
    assert train(tmp_path / "mean", [FLIPPED])["accuracy"] < 0.3
    assert train(tmp_path / "median", [FLIPPED], aggregator="median")["accuracy"] > 0.75
    assert train(tmp_path / "trimmed", [FLIPPED], trimmed_mean)["accuracy"] > 0.75


def test_a_model_is_replaced_in_one_round_and_a_bounded_norm_prevents_it(tmp_path: Path) -> None:
    """One attacker of twenty, whose update is twenty times as long; the others have one round to learn."""
    attack = {"name": "model-replacement", "fraction": 0.05}
    (free,) = train(tmp_path / "free", [attack], rounds=1)["adversaries"]
    assert free["success"] > 0.9 and free["trials"] > 300
    (held,) = train(tmp_path / "held", [attack], bounded_mean, rounds=1)["adversaries"]
    assert held["success"] < free["success"] - 0.4


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "gaussian"},
        {"name": "ipm", "epsilon": 0.1},
        {"name": "alie"},
        {"name": "min-max"},
        {"name": "mimic"},
        {"name": "label-flip"},
        {"name": "backdoor"},
    ],
    ids=lambda attack: str(attack["name"]),
)
def test_each_attack_passes_the_guard(tmp_path: Path, attack: dict[str, Any]) -> None:
    found = train(tmp_path / "x", [attack | {"clients": [2, 5]}], rounds=2)
    assert found["rejected"] == {} and found["failures"] == 0 and found["skipped_rounds"] == 0
    (told,) = found["adversaries"]
    assert told["clients"] == [2, 5] and told["label"] == attack["name"]
    assert (told["success"] is None) == (attack["name"] not in ("label-flip", "backdoor"))
    marked = [row["client"] for row in found["per_client"] if row.get("adversary") == attack["name"]]
    assert marked == [2, 5] and sum("adversary" in row for row in found["per_client"]) == 2


def test_all_labels_flipped_are_learned_as_flipped(tmp_path: Path) -> None:
    """With everybody an attacker, the flipped labels are the labels."""
    found = train(tmp_path / "x", [{"name": "label-flip", "fraction": 1.0}], rounds=3)
    (told,) = found["adversaries"]
    assert told["success"] > 0.75 and found["accuracy"] < 0.1


def test_without_adversaries_nothing_is_said(tmp_path: Path) -> None:
    found = train(tmp_path / "x", [], rounds=1)
    assert found["adversaries"] == [] and not any("adversary" in row for row in found["per_client"])
    assert json.loads((tmp_path / "x/report.json").read_text())["integrity"] == []


def test_the_report_says_who_attacked_and_what_it_came_to(tmp_path: Path) -> None:
    attacks = [FLIPPED | {"label": "flip"}, {"name": "backdoor", "target": 3, "clients": [0]}]
    found = train(tmp_path / "x", attacks, rounds=2)
    report = json.loads((tmp_path / "x/report.json").read_text())
    (row,) = report["integrity"]
    assert (row["defense"], row["client_mode"], row["seeds"]) == ("none", "train", [3])
    assert row["accuracy"] == found["accuracy"]
    flip, backdoor = row["adversaries"]
    assert (flip["label"], flip["plugin"], flip["clients"], flip["of"]) == ("flip", "sign-flip", 4, 20)
    assert flip["settings"]["scale"] == 10.0 and flip["success"] is None
    assert flip["threat"] == (
        "4 clients of 20 attack together, in every round that asks them."
        " Attackers know nothing but their own records."
    )
    assert backdoor["success"] == found["adversaries"][1]["success"]
    assert "of other classes that are called class 3" in backdoor["success_definition"]
    honest = [one["accuracy"] for one in found["per_client"] if "adversary" not in one]
    assert len(honest) == 15 and report["utility"][0]["per_client"]["values"] == sorted(honest)
    assert not any("Poisoning" in text for text in report["threat_models"]["not_tested"])


def test_the_truth_behind_an_adversarys_update_is_what_it_trained_on(tmp_path: Path) -> None:
    """Everybody flips, so the victim's labels are flipped ones."""
    base = scenario([{"name": "label-flip", "source": 1, "target": 7, "fraction": 1.0}], rounds=1)
    base["audit"]["victims"] = 20
    fedlab.run(base, out=tmp_path / "x")
    victims = json.loads((tmp_path / "x/truth/none-train-s3.json").read_text())["victims"]
    labels = {label for one in victims for label in one["labels"]}
    assert labels == set(range(10)) - {1}


MANY = [
    {"name": "gaussian", "std": 0.1, "fraction": 0.25},
    {"name": "min-max", "clients": [0]},
    {"name": "backdoor", "clients": [2], "share": 0.5},
]


def mixed(**changes: Any) -> dict[str, Any]:
    """Slow devices, a deadline, checkpoints, noise: whatever could come out of step."""
    base = crashes.quick_scenario(adversaries=copy.deepcopy(MANY), attacks=[], **changes)
    base["clients"] |= {"count": 8}
    base["strategy"] |= {"cohort": 6, "deadline": 3.0}
    base["devices"] = {"time": {"name": "log-normal", "sigma": 0.5}}
    return base


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    fedlab.run(mixed(), out=tmp_path / "whole")

    def stop(what: str, done: int) -> None:
        if what.startswith("train") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fedlab.run(mixed(), out=tmp_path / "cut", progress=crashes.Steps(stop))
    fedlab.resume(tmp_path / "cut")
    assert crashes.result(tmp_path / "cut") == crashes.result(tmp_path / "whole")


@pytest.mark.parametrize(
    "adversary, message",
    [
        ({"name": "sign-flop", "fraction": 0.1}, "sign-flip"),
        ({"name": "sign-flip", "fraction": 0.1, "scale": -1.0}, "scale"),
        ({"name": "sign-flip"}, "fraction"),
        ({"name": "sign-flip", "clients": [20]}, "below 20"),
        ({"name": "backdoor", "fraction": 0.1, "share": 2.0}, "share"),
        ({"name": "label-flip", "fraction": 0.1, "source": 1}, "belong together"),
    ],
)
def test_a_mistake_is_named_before_the_run(adversary: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load(scenario([adversary]))


@pytest.mark.parametrize(
    "adversaries, message",
    [
        ([{"name": "backdoor", "fraction": 0.1, "target": 10}], "expected a class from 0 to 9"),
        ([{"name": "backdoor", "fraction": 0.1, "size": 9}], "at most 8"),
    ],
)
def test_what_only_the_data_can_tell_is_told_before_anything_is_written(
    adversaries: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        set_up(load(scenario(adversaries)))


def test_a_client_under_two_labels_is_refused() -> None:
    twice = [{"name": "mimic", "clients": [1]}, {"name": "ipm", "clients": [1]}]
    with pytest.raises(FedlabError, match="client 1 is named twice"):
        set_up(load(scenario(twice)))


def test_deployed_clients_poison_their_records_as_simulated_ones_do() -> None:
    """A node builds its client from the message's scenario: the same copies, for the same owners."""
    settings = load(scenario([{"name": "backdoor", "clients": [4]}]))
    here = set_up(settings)
    (group,) = here.adversaries[3]
    task, owners = poison(here.task, here.owners[3], [group], 3)
    client = flower._clients(resolved_toml(settings), "none-train-s3")
    assert isinstance(client, CohortApp)
    assert np.array_equal(client.task.train.x, task.train.x) and len(task.train) > len(here.task.train)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(owners, client.owners, strict=True))


def test_the_honest_send_the_same_bits_whoever_attacks(tmp_path: Path) -> None:
    def first_round(out: Path, adversaries: list[dict[str, Any]]) -> dict[int, Observation]:
        train(out, adversaries, rounds=1)
        return {one.client: one for one in archive.load(out / "observations" / "none-train-s3")}

    alone = first_round(tmp_path / "alone", [])
    attacks = [{"name": "min-max", "clients": [1]}, {"name": "label-flip", "clients": [7]}]
    beside = first_round(tmp_path / "beside", attacks)
    for client, one in alone.items():
        other = beside[client]
        same = all(torch.equal(value, other.update[name]) for name, value in one.update.items())
        assert same == (client not in (1, 7))
