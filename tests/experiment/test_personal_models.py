"""Personal models in whole runs: trained, tested by their clients, resumed, on Ray, reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.errors import UsageError
from fedlab.scenario import load
from tests.experiment import crashes

RULES = {
    "hyperfl": {"local_rule": {"name": "hyperfl", "embedding": 8, "hidden": 8}},
    "personal-head": {"local_rule": "personal-head"},
    "pfedhn": {"name": "pfedhn", "options": {"hidden": [16], "mip": True, "learning_rate": 0.1}},
    "pfedhn-pc": {
        "name": "pfedhn-pc",
        "local_rule": "personal-head",
        "options": {"hidden": [16], "learning_rate": 0.1},
    },
}


def scenario(strategy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 4,
        "name": "personal",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": [8]}},
        "clients": {"count": 6, "partition": {"name": "dirichlet", "alpha": 0.1}, "local_epochs": 2},
        "strategy": {"rounds": 4, "cohort": 3, "evaluate_every": 2} | strategy,
        "runtime": {"executor": "inline"},
        "checkpoint": {"every": 1},
        "audit": {"rounds": [1], "victims": 2},
    }
    return base | changes


def metrics(out: Path) -> dict[str, Any]:
    (cell,) = json.loads((out / "metrics.json").read_text())["cells"].values()
    found: dict[str, Any] = cell
    return found


@pytest.mark.parametrize("name", RULES)
def test_a_killed_run_ends_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes.quick_plugins(monkeypatch)
    out = tmp_path / "run"
    copies = crashes.moments(lambda: fedlab.run(scenario(RULES[name]), out=out), out, tmp_path)
    whole = crashes.result(out)
    copies = [copy for copy in copies if list(copy.glob("checkpoints/*/round-*"))]
    assert len(copies) > 8
    for copy in copies[5::12]:
        fedlab.resume(copy)
        assert crashes.result(copy) == whole, copy


@pytest.mark.parametrize("name", RULES)
def test_clients_say_how_good_their_models_are(name: str, tmp_path: Path) -> None:
    """Accuracy is their mean, weighted by records; it takes no virtual time: four rounds of a second."""
    report = fedlab.run(scenario(RULES[name]), out=tmp_path / "run")
    found = metrics(tmp_path / "run")
    rows = found["per_client"]
    assert [row["client"] for row in rows] == list(range(6))
    weighted = sum(row["records"] * row["accuracy"] for row in rows) / sum(row["records"] for row in rows)
    assert found["personal"] is True
    assert found["accuracy"] == found["client_accuracy"] == pytest.approx(weighted)
    assert [entry["round"] for entry in found["rounds"]] == [2, 4]
    assert found["virtual_seconds"] == 4.0
    (utility,) = report.data["utility"]
    assert utility["personal"] is True and utility["accuracy_ci95"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no model is everybody" in page and "On the wire, a client receives" in page


def test_evaluating_in_between_changes_no_bit(tmp_path: Path) -> None:
    hashes = []
    for every in (1, 4):
        out = tmp_path / str(every)
        fedlab.run(scenario(RULES["hyperfl"] | {"rounds": 3, "evaluate_every": every}), out=out)
        manifest = json.loads((out / "manifest.json").read_text())
        hashes.append((manifest["cells"][0]["weights_sha256"], metrics(out)["per_client"]))
    assert hashes[0] == hashes[1]


def test_bytes_on_the_wire_are_those_of_all_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLP 64-8-10: base 64·8 + 8 = 520 numbers, head 90. HyperFL: hidden layer 8·8 + 8, heads (8 + 1)·520.
    SCAFFOLD sends a control variate beside the model, both ways."""
    crashes.quick_plugins(monkeypatch)
    sizes = {
        "fedavg": 4 * 610,
        "personal-head": 4 * 520,
        "hyperfl": 4 * (72 + 9 * 520),
        "pfedhn": 4 * 610,
        "scaffold": 2 * 4 * 610,
    }
    for name, expected in sizes.items():
        out = tmp_path / name
        fedlab.run(scenario(RULES.get(name, {"local_rule": name}) | {"rounds": 1}), out=out)
        assert metrics(out)["wire"] == {"received": expected, "sent": expected}, name


def test_hyperfl_learns_what_each_client_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 clients with a few classes each: better on each client's own mix than one model for all."""
    crashes.quick_plugins(monkeypatch)
    clients = {
        "count": 20,
        "partition": {"name": "dirichlet", "alpha": 0.1},
        "batch_size": 20,
        "local_epochs": 3,
    }
    found = {}
    for name, sizes in (("hyperfl", {"embedding": 16, "hidden": 16}), ("fedavg", {})):
        rule: dict[str, Any] = {"local_rule": {"name": name, **sizes}}
        out = tmp_path / name
        rule |= {"rounds": 3, "cohort": 20, "evaluate_every": 3}
        fedlab.run(scenario(rule, clients=clients), out=out)
        found[name] = metrics(out)["client_accuracy"]
    assert found["hyperfl"] > 0.8
    assert found["hyperfl"] > found["fedavg"] + 0.1


def test_what_a_hypernetwork_sends_is_attacked_without_the_personal_part(tmp_path: Path) -> None:
    """One step on one record: the generated first layer gives the image away, and its twin gives nothing."""
    rule = {"name": "hyperfl", "embedding": 8, "hidden": 8, "head_learning_rate": 1e-6}
    told = scenario({"local_rule": rule, "rounds": 1}, attacks=[{"name": "hypernetwork-pullback"}])
    told["clients"] = {"count": 1000, "batch_size": 1, "local_epochs": 2}
    fedlab.run(told, out=tmp_path / "run")
    (path,) = (tmp_path / "run" / "attacks").glob("*/hypernetwork-pullback.json")
    answers = json.loads(path.read_text())
    alone = [one["psnr"][0] for one in answers["victims"] if len(one["psnr"]) == 1]
    assert alone and min(alone) > 100.0
    assert all(one["refusal"] for one in answers["control"])


def test_attacks_that_need_the_whole_model_are_refused(tmp_path: Path) -> None:
    attacks = [{"name": "linear-layer"}, {"name": "hypernetwork-pullback"}]
    with pytest.raises(UsageError, match="the attacks linear-layer need the whole of it; leave them out"):
        fedlab.run(scenario(RULES["hyperfl"], attacks=attacks), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_of_pfedhn_is_attacked_as_the_server_sees_it(tmp_path: Path) -> None:
    """It sent θ_i and gets it back trained, as under FedAvg: a batch of one gives its image away."""
    told = scenario(RULES["pfedhn"], attacks=[{"name": "linear-layer"}])
    told["clients"] = {"count": 6, "batch_size": 1, "local_steps": 1}
    report = fedlab.run(told, out=tmp_path / "run")
    (row,) = report.data["attacks"]
    assert row["fraction_recovered"] == 1.0


@pytest.mark.parametrize(
    ("strategy", "what"),
    [
        ({"name": "pfedhn-pc"}, 'strategy.local_rule = "personal-head"'),
        ({"name": "pfedhn", "server_optimizer": {"name": "sgd", "momentum": 0.5}}, "leave"),
        ({"local_rule": "hyperfl", "cohort": 3}, "local_epochs of at least 2"),
        ({"name": "pfedhn", "options": {"momentum": 1.5}}, "options.momentum: got 1.5"),
        ({"name": "pfedhn", "options": {"momentun": 0.5}}, "unknown parameter. Did you mean"),
        ({"options": {"hidden": [3]}}, "unknown parameter"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    strategy: dict[str, Any], what: str, tmp_path: Path
) -> None:
    clients = {"count": 6}
    with pytest.raises(UsageError) as caught:
        fedlab.run(scenario(strategy, clients=clients), out=tmp_path / "run")
    assert what in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_options_can_be_set_on_the_command_line() -> None:
    found = load(scenario(RULES["pfedhn"]), ["strategy.options.hidden=[7]", "strategy.options.clip=1.0"])
    assert found.strategy.options == {"hidden": [7], "clip": 1.0, "mip": True, "learning_rate": 0.1}
