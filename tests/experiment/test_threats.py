"""What a threat model grants: recomputed from the seed tree, and never more than it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedlab
from fedlab.audit import Attack, Observation, Reconstruction, ThreatModel, Victim, archive
from fedlab.experiment.attacking import AttackJob, _records, attack, choose, public, threat_model
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.granting import PROXIES, folded, masks_of, proxy_of, steps_of
from fedlab.experiment.leaving import trained
from fedlab.experiment.setup import set_up
from fedlab.scenario import Scenario, load
from fedlab.tasks import Dataset


def table(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 5,
        "name": "threats",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.5}},
        "clients": {"count": 6, "batch_size": 3, "local_steps": 1},
        "strategy": {"rounds": 2, "cohort": 4},
        "runtime": {"executor": "inline"},
        "audit": {"rounds": [1, 2], "victims": 4},
        "attacks": [{"name": "linear-layer"}],
    }
    return base | changes


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def cell_of(out: Path, scenario: Scenario) -> tuple[Trained, list[Observation]]:
    """The one trained cell of a run, and what was observed of it."""
    setup = set_up(scenario, None, None)
    cell: Cell = setup.cells[0]
    return trained(cell, setup, setup.parts(cell), {}, ""), archive.load(out / "observations" / cell.name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("threats") / "run"
    threats = [{"level": "oracle"}, {"label": "blind", "batch_size": False}, {"label": "sums", "sums": True}]
    attacks = [{"name": "linear-layer"}, {"name": "inverting-gradients", "iterations": 2}]
    fedlab.run(table(threats=threats, attacks=attacks), out=out)
    return out


@pytest.fixture(scope="module")
def oracle(run: Path) -> tuple[Trained, list[Observation], Scenario]:
    scenario = load(table(threat={"level": "oracle"}))
    return *cell_of(run, scenario), scenario


def test_with_its_masks_the_simulated_gradient_is_the_observed_update(
    oracle: tuple[Trained, list[Observation], Scenario],
) -> None:
    """One step of plain SGD: update = -learning rate x gradient, on the truth under the granted masks."""
    one, seen, scenario = oracle
    victims = choose(one, seen, scenario)
    victim = public(one, victims, scenario)[0]
    for observation, truth in zip(victims.observations, victims.truths, strict=True):
        (masks,) = observation.masks
        assert {name: mask.shape[0] for name, mask in masks.items()} == dict.fromkeys(masks, 3)
        assert observation.labels is not None and torch.equal(observation.labels, truth.labels)
        slope = victim.gradient(
            observation.before, {}, truth.images, truth.labels, training=True, masks=masks
        )
        assert all(
            torch.allclose(-0.1 * slope[name], change, atol=1e-7)
            for name, change in observation.update.items()
        )
        wrong = {name: mask.roll(1, 0) for name, mask in masks.items()}
        other = victim.gradient(
            observation.before, {}, truth.images, truth.labels, training=True, masks=wrong
        )
        assert any(not torch.allclose(slope[name], other[name], atol=1e-6) for name in slope)


def test_every_local_step_has_masks_of_its_own(tmp_path: Path) -> None:
    """Three steps are replayed from their masks alone, momentum and all."""
    clients = {"count": 3, "batch_size": 100, "local_epochs": 2, "momentum": 0.5, "learning_rate": 0.2}
    scenario = load(
        table(clients=clients, strategy={"rounds": 1}, audit={"rounds": [1], "victims": 1}, attacks=[])
    )
    fedlab.run(scenario, out=tmp_path / "run")
    one, seen = cell_of(tmp_path / "run", scenario)
    steps, masks = steps_of(one, seen[0]), masks_of(one, seen[0])
    assert len(steps) == len(masks) == 10, "479 records in batches of 100, twice"
    victim = Victim(one.model, one.task.loss, one.task.input_shape, one.task.classes)
    state, velocity = dict(seen[0].before), {name: torch.zeros(()) for name in seen[0].before}
    for ids, mask in zip(steps, masks, strict=True):
        ids = np.sort(ids)
        images, labels = one.task.train.images(ids), one.task.train.labels(ids)
        slope = victim.gradient(state, {}, images, labels, training=True, masks=mask)
        velocity = {name: 0.5 * velocity[name] + slope[name] for name in slope}
        state = {name: state[name] - 0.2 * velocity[name] for name in state}
    for name, change in seen[0].update.items():
        assert torch.allclose(state[name] - seen[0].before[name], change, atol=1e-5), name


def test_nothing_is_dropped_in_evaluation_mode(run: Path) -> None:
    scenario = load(table())
    one, seen = cell_of(run, scenario)
    assert masks_of(replace(one, config=replace(one.config, mode="eval")), seen[0]) == ()


def test_proxy_data_are_held_out_records_and_never_a_clients(
    oracle: tuple[Trained, list[Observation], Scenario],
) -> None:
    one, seen, scenario = oracle
    truths = choose(one, seen, scenario).truths
    proxy = proxy_of(one, truths)
    assert proxy is not None and 0 < len(proxy.images) == len(proxy.labels) <= PROXIES
    train = one.task.train.images(range(len(one.task.train)))
    assert all(not (train == image).flatten(1).all(1).any() for image in proxy.images)
    again = proxy_of(one, truths)
    assert again is not None and torch.equal(again.images, proxy.images), "drawn by the seed"
    # A task that tests on what it trains on has none to give, and its attacker has none.
    same = replace(one, task=replace(one.task, test=one.task.train))
    assert isinstance(one.task.train, Dataset) and proxy_of(same, truths) is None
    victim, threat = public(same, choose(one, seen, scenario), scenario)
    assert victim.proxy is None and not threat.proxy_data


def test_a_sum_is_the_mean_by_records_and_its_truth_is_everybodys(run: Path) -> None:
    scenario = load(table(threat={"sums": True}))
    one, seen = cell_of(run, scenario)
    first, second = folded(seen, one.config)
    group = [each for each in seen if each.round == 1]
    assert [part.client for part in first.parts] == sorted(each.client for each in group)
    assert (first.round, second.round, first.config.batch_size) == (1, 2, 4 * 3)
    total = sum(each.examples or 0 for each in group)
    for name in first.update:
        mean = sum((each.examples or 0) / total * each.update[name].double() for each in group)
        assert torch.allclose(first.update[name].double(), torch.as_tensor(mean), atol=1e-8)
    assert folded([first], one.config) == [first], "a sum stays as it is"
    assert set(_records(one, first)) == {i for each in group for i in _records(one, each)}
    victims = choose(one, seen, scenario)
    assert all(observation.parts and not observation.masks for observation in victims.observations)


class Nosy(Attack):
    """Answers with what it was given, in words."""

    def run(
        self, observations: Sequence[Observation], threat: ThreatModel, victim: Victim, **_: Any
    ) -> list[Reconstruction]:
        one = observations[0]
        seen = {
            "labels": one.labels is not None,
            "masks": bool(one.masks),
            "proxy": victim.proxy is not None,
            "momentum": one.config.momentum is not None,
            "mode": one.config.mode is not None,
        }
        return [Reconstruction(refusal=json.dumps(seen)) for _ in observations]


@pytest.mark.parametrize("level", ["weights", "protocol", "proxy", "labels", "oracle"])
def test_an_attack_gets_what_its_level_grants_and_no_more(run: Path, level: str) -> None:
    scenario = load(table(threat={"level": level}))
    one, seen = cell_of(run, scenario)
    victims = choose(one, seen, scenario)
    victim, threat = public(one, victims, scenario)
    job = AttackJob("cell", "nosy", Nosy(), victims.observations, threat, victim, 0)
    (refusal, *_) = [answer.refusal for answer in attack(job, lambda done, total: None).victims]
    known = level != "weights"
    assert json.loads(refusal or "") == {
        "labels": level in ("labels", "oracle"),
        "masks": level == "oracle",
        "proxy": level in ("proxy", "oracle"),
        "momentum": known,
        "mode": known,
    }


def test_every_attack_runs_under_every_threat_on_the_same_victims(run: Path) -> None:
    files = {path.stem: read(path) for path in (run / "attacks/none-train-s5").glob("*.json")}
    assert set(files) == {
        f"{attack}{threat}"
        for attack in ("linear-layer", "inverting-gradients")
        for threat in ("", "@oracle", "@blind", "@sums")
    }
    base, blind = files["linear-layer"], files["linear-layer@blind"]
    assert (base["threat_label"], blind["threat_label"], base["attack"], blind["attack"]) == (
        "",
        "blind",
        "linear-layer",
        "linear-layer",
    )
    assert [(v["round"], v["client"]) for v in base["victims"]] == [
        (v["round"], v["client"]) for v in blind["victims"]
    ]
    assert blind["threat"]["batch_size"] is False and base["threat"]["batch_size"] is True
    assert files["linear-layer@oracle"]["threat"]["dropout_masks"] is True
    denied = files["inverting-gradients@blind"]
    assert denied["victims"] == [] and denied["chosen"] == 4 and "batch_size" in denied["error"]
    assert not denied["failed"], "what is denied knowledge declines; it has not crashed"
    assert len(files["linear-layer@sums"]["victims"]) == 2, "one sum per observed round"
    assert {len(v["psnr"]) for v in files["linear-layer@sums"]["victims"]} == {12}


def test_a_run_whose_own_attacker_sees_sums_says_whose_they_are(tmp_path: Path) -> None:
    audit = {"rounds": [1, 2], "victims": 2}
    report = fedlab.run(table(threat={"sums": True}, audit=audit), out=tmp_path / "run")
    truth = read(tmp_path / "run/truth/none-train-s5.json")
    assert [len(victim["clients"]) for victim in truth["victims"]] == [4, 4]
    tested = report.data["threat_models"]
    assert any("the sum of each round's updates" in text for text in tested["tested"])
    assert not any("Secure aggregation" in text for text in tested["not_tested"])


def test_the_threat_model_is_the_scenarios_word_for_word(run: Path) -> None:
    settings = {"level": "weights", "server": "malicious", "sums": True, "client_mode_known": True}
    scenario = load(table(threat=settings))
    one, _ = cell_of(run, scenario)
    assert threat_model(scenario, one) == ThreatModel(
        client_mode="train",
        batch_size=False,
        learning_rate=False,
        local_steps=False,
        momentum=False,
        dropout_rate=False,
        batch_norm_buffers=False,
        defense=False,
        server="malicious",
        sums=True,
    )


@pytest.mark.parametrize(("defense", "steps"), [("none", 0), ("none", 2), ("oasis", 2), ("ats", 0)])
def test_what_a_rule_or_a_defense_trains_on_instead_is_no_proven_record(
    tmp_path: Path, defense: str, steps: int
) -> None:
    """Adversarial training moves pixels under whatever defense; without steps of its search it is FedAvg."""
    scenario = load(
        table(
            clients={"count": 6, "batch_size": 1, "local_steps": 1},
            strategy={
                "rounds": 1,
                "cohort": 2,
                "local_rule": {"name": "fal", "rho": 0.3, "steps": steps},
            },
            audit={"rounds": [1], "victims": 2, "adaptive": False},
            defenses=[{"name": defense}],
        )
    )
    setup = set_up(scenario, None, None)
    (cell,) = setup.cells
    plain = defense == "none" and steps == 0
    assert trained(cell, setup, setup.parts(cell), {}, "").disclosure.altered is not plain
    fedlab.run(scenario, out=tmp_path / "run")
    answers = read(tmp_path / "run" / "attacks" / cell.name / "linear-layer.json")["victims"]
    verdicts = {one["verdict"] for answer in answers for one in answer["certificates"]}
    assert ("unique" in verdicts) is plain
    assert plain or defense == "oasis" or "not unique" in verdicts
