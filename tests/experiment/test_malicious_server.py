"""A malicious server in a run: clients answer its model with the records that they used anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fedlab
from fedlab.audit import Attack, Observation, Reconstruction, ThreatModel, Victim, archive
from fedlab.errors import NotApplicable, PluginError
from fedlab.experiment.attacking import AttackJob, attack, choose
from fedlab.experiment.cells import Trained
from fedlab.experiment.leaving import trained
from fedlab.experiment.malicious import _agreed, provoke
from fedlab.experiment.setup import Setup, set_up
from fedlab.experiment.trials import provoked
from fedlab.scenario import load
from fedlab.tasks import State

SETTINGS: dict[str, Any] = {
    "schema": 1,
    "seed": 3,
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16, "depth": 1}},
    "clients": {"count": 4, "batch_size": 4, "local_steps": 1},
    "strategy": {"rounds": 2},
    "runtime": {"executor": "inline"},
    "audit": {"rounds": [2], "victims": 3},
    "threat": {"server": "malicious"},
}


class Louder(Attack):
    """Sends ten times the head's weights, behind a wrapper of its own, and answers with nothing."""

    server = "malicious"

    def network(
        self, factory: Callable[[], nn.Module], input_shape: Sequence[int]
    ) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(nn.Identity(), factory())

    def parameters(self, state: State, victim: Victim, *, generator: torch.Generator) -> State:
        return {name: value * (10.0 if "head" in name else 1.0) for name, value in state.items()}

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Callable[[int, int], None],
    ) -> list[Reconstruction]:
        return [Reconstruction(refusal=f"saw round {one.round}, client {one.client}") for one in observations]


class Scene:
    """A finished run, opened again as an attack finds it."""

    def __init__(self, settings: dict[str, Any], out: Path) -> None:
        fedlab.run(settings, out=out)
        scenario = load(settings)
        self.setup: Setup = set_up(scenario)
        (cell,) = self.setup.cells
        self.trained: Trained = trained(cell, self.setup, self.setup.parts(cell), {}, "")
        self.victims = choose(self.trained, archive.load(out / "observations" / cell.name), scenario)

    def job(self, louder: Attack, threat: ThreatModel) -> AttackJob:
        task = self.trained.task
        victim = Victim(self.trained.model, task.loss, task.input_shape, task.classes)
        return AttackJob("cell", "louder", louder, self.victims.observations, threat, victim, 1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(SETTINGS, tmp_path_factory.mktemp("malicious") / "run")


def test_clients_answer_the_tampered_model_with_the_same_records(scene: Scene) -> None:
    """Update of one step = -rate * gradient on the true batch, at the weights that the attack made."""
    found = provoke(Louder(), scene.trained, scene.victims.observations, scene.setup)
    assert found.refused == {} and len(found.observations) == 3
    for seen, agreed, truth in zip(
        found.observations, scene.victims.observations, scene.victims.truths, strict=True
    ):
        head = next(name for name in seen.before if name.endswith("head.weight"))
        assert torch.equal(seen.before[head], 10.0 * agreed.before["head.weight"])
        slope = found.victim.gradient(seen.before, {}, truth.images, truth.labels, training=False)
        for name, change in seen.update.items():
            torch.testing.assert_close(change, -0.1 * slope[name], atol=1e-6, rtol=1e-3)


def test_a_job_without_a_malicious_server_is_left_to_say_so(scene: Scene) -> None:
    job = provoked(scene.job(Louder(), ThreatModel()), scene.trained, scene.setup)
    answer = attack(job, lambda done, total: None)
    assert answer.error is not None and "server that sends altered models" in answer.error
    assert not answer.failed


def test_a_client_that_refuses_is_a_refusal_in_its_place(scene: Scene) -> None:
    job = provoked(scene.job(Louder(), ThreatModel(server="malicious")), scene.trained, scene.setup)
    first, _, last = job.observations
    answer = attack(
        replace(job, observations=[first, last], refused={1: "looks odd"}), lambda done, total: None
    )
    told = [one.refusal for one in answer.victims]
    assert told[1] == "the client did not answer: looks odd"
    assert (
        told[0] == f"saw round 2, client {first.client}" and told[2] == f"saw round 2, client {last.client}"
    )


def test_hooks_that_fail_or_do_not_fit_end_the_attack_only(scene: Scene) -> None:
    class Short(Louder):
        def parameters(self, state: State, victim: Victim, *, generator: torch.Generator) -> State:
            return dict(list(state.items())[1:])

    with pytest.raises(PluginError, match=r"Short sends .* with shape None"):
        provoke(Short(), scene.trained, scene.victims.observations, scene.setup)
    job = provoked(scene.job(Short(), ThreatModel(server="malicious")), scene.trained, scene.setup)
    answer = attack(job, lambda done, total: None)
    assert answer.failed and answer.error is not None and "PluginError" in answer.error


def test_sums_are_refused(scene: Scene) -> None:
    from fedlab.audit import Part

    summed = [replace(scene.victims.observations[0], parts=(Part(0, 2), Part(1, 2)))]
    with pytest.raises(NotApplicable, match="sums only"):
        provoke(Louder(), scene.trained, summed, scene.setup)


def test_imprint_in_a_run_reads_records_and_inspecting_clients_refuse(tmp_path: Path) -> None:
    settings = SETTINGS | {
        "clients": {"count": 4, "batch_size": 16, "local_steps": 1},
        "audit": {"rounds": [1], "victims": 4},
        "threat": {"server": "malicious", "proxy_data": True},
        "attacks": [{"name": "imprint", "bins": 200}],
        "defenses": [{"name": "none"}, {"name": "model-inspection"}],
    }
    report = fedlab.run(settings, out=tmp_path / "run").data
    plain, inspected = report["attacks"]
    assert plain["fraction_recovered"] > 0.6 and plain["psnr_median"] > 40.0
    assert plain["control"]["fraction_recovered"] in (None, 0.0)
    assert inspected["refused"] == 4 and inspected["fraction_recovered"] in (0.0, None)
    assert "the client did not answer: refused to train: imprint." in inspected["refusal"]
    card = report["verdict"]["findings"][1]["leakage"]
    assert "Clients refused the altered model of imprint in 4 of 4 updates: imprint." in card
    assert "Not applicable" not in card
    first, second = report["utility"]
    assert first["accuracy"] == second["accuracy"]


def test_agreed_values_go_to_the_layers_of_that_name_not_to_deeper_ones() -> None:
    """`block.norm` comes first and ends in the name of `norm`, too."""

    class Agreed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.ModuleDict({"norm": nn.Linear(3, 3)})
            self.norm = nn.Linear(3, 3)

    agreed = {name: torch.full_like(value, len(name)) for name, value in Agreed().state_dict().items()}
    wrapped = nn.ModuleDict({"imprint": nn.Linear(3, 3), "net": Agreed()})
    parts = SimpleNamespace(model=SimpleNamespace(state=wrapped.state_dict))
    seen = SimpleNamespace(before=agreed, buffers_before={})
    sent = _agreed(parts, seen)  # type: ignore[arg-type]
    assert all(torch.equal(sent[f"net.{name}"], value) for name, value in agreed.items())
