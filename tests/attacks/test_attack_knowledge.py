"""No attack can import or be handed what an attacker does not have: records, labels, masks."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, replace
from pathlib import Path

import fedlab_attacks
import pytest
import torch
from attack_scene import stream
from fedlab_attacks.exact.imprint import Imprint
from fedlab_attacks.random_gradient import INNER, RandomGradient
from test_training_mode import clients
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, silent
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel

ALLOWED = {
    "fedlab.audit.attack",
    "fedlab.audit.certificate",
    "fedlab.audit.disclosure",
    "fedlab.audit.membership",
    "fedlab.audit.observation",
    "fedlab.audit.threat",
    "fedlab.audit.victim",
    "fedlab.tasks",
    "fedlab.tasks.hypernetwork",
    "fedlab.tasks.layers",
    "fedlab.tasks.precision",
    "fedlab.errors",
}
BACK_DOORS = {"builtins", "ctypes", "gc", "importlib", "inspect", "os", "pathlib", "pickle", "runpy", "sys"}
CALLS = {"__import__", "compile", "eval", "exec", "globals", "open"}


def test_no_attack_module_can_reach_the_truth() -> None:
    files = sorted(Path(fedlab_attacks.__file__).parent.rglob("*.py"))
    assert len(files) >= 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                assert not name.startswith("fedlab.") or name in ALLOWED, f"{file.name} imports {name}"
                assert name != "fedlab", f"{file.name} imports the whole of fedlab"
                assert name.split(".")[0] not in BACK_DOORS, f"{file.name} imports {name}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in CALLS, f"{file.name} calls {node.func.id}"


@pytest.mark.parametrize("attack", [*INNER.values(), Imprint, RandomGradient])
def test_no_argument_of_an_attack_carries_the_truth(attack: type[Attack]) -> None:
    expected = ["self", "observations", "threat", "victim", "generator", "report"]
    for method in (attack.run, attack.__call__):
        assert list(inspect.signature(method).parameters) == expected


def tensors(found: object, seen: set[int]) -> list[Tensor]:
    """Every tensor that can be reached from an object by its attributes, items and closures."""
    if id(found) in seen or isinstance(found, type | str | int | float | torch.Generator):
        return []
    seen.add(id(found))
    if isinstance(found, Tensor):
        return [found]
    inside: list[object] = []
    if isinstance(found, dict):
        inside = list(found.values())
    elif isinstance(found, list | tuple | set | frozenset):
        inside = list(found)
    else:
        inside = [*vars(found).values()] if hasattr(found, "__dict__") else []
        inside += [cell.cell_contents for cell in getattr(found, "__closure__", None) or ()]
        inside += [getattr(found, "__self__", None)]
    return [one for each in inside for one in tensors(each, seen)]


class Spy(Attack):
    """Keeps all that it is handed."""

    def run(self, observations, threat, victim, *, generator, report):  # type: ignore[no-untyped-def]
        self.handed = (list(observations), threat, victim, report)
        return [Reconstruction(refusal="a spy")] * len(observations)


def test_what_an_attack_is_handed_holds_no_record_and_no_label() -> None:
    """Not even where the observation was labelled and masked, and the victim held data of the same kind."""
    real = clients(victims=1)
    labels = torch.tensor([3, 1])
    masks = ({"6": real.images[0].clone()},)
    spy = Spy()
    handed = [replace(one, labels=labels, masks=masks) for one in real.observations]
    spy(handed, ThreatModel(batch_norm_buffers=False), real.victim, generator=stream(), report=silent)
    reached = tensors(spy.handed, set())
    assert any(one.shape == (16, 1, 3, 3) for one in reached)  # the network is there
    records = [*real.images[0], *real.victim.proxy.images]  # type: ignore[union-attr]
    for one in reached:
        for record in records:
            assert record.numel() > one.numel() or not contains(one, record)
        assert one is not labels and (one.dtype != torch.int64 or one.dim() == 0)
    (seen,) = spy.handed[0]
    assert seen.labels is None and seen.masks == () and seen.buffers_after == {}
    assert {one.name for one in fields(Observation)} == {
        "round", "client", "before", "update", "buffers_before", "buffers_after", "config", "examples",
        "labels", "masks", "repeat", "parts",
    }  # fmt: skip


def contains(values: Tensor, record: Tensor) -> bool:
    """Whether a tensor ends in a record's shape and has it as a row."""
    if values.shape[values.dim() - record.dim() :] != record.shape:
        return False
    rows = values.reshape(-1, record.numel())
    return bool((rows == record.flatten()).all(dim=1).any())
