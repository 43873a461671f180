"""`fedlab info` for the parts of an algorithm: equation, parameters with ranges, paper, what to write."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from fedlab.cli import catalogue
from fedlab.cli.plugins import usage
from fedlab.scenario import load

BASE = 'schema = 1\nseed = 3\n[task]\ndataset = "digits"\nmodel = "mlp"\n[clients]\nlocal_epochs = 2\n'
"""HyperFL needs an epoch for the classifier and one for the rest."""
KINDS = ("local_rules", "samplers", "preaggregators", "aggregators", "server_optimizers", "adversaries")
EVERYTHING = [(kind, name) for kind in KINDS for name in catalogue.names(kind) if name != "own"]
WITHOUT_PAPER = {"uniform", "poisson", "available", "mean"}


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_what_info_says_to_write_can_be_pasted_into_a_scenario(kind: str, name: str) -> None:
    entry = catalogue.entry(kind, name)
    assert not entry.broken, entry.broken
    found = load(tomllib.loads(BASE + usage(entry)))
    if kind == "adversaries":
        assert [one.name for one in found.adversaries] == [name]
    else:
        key = {"samplers": "sampling", "preaggregators": "pre_aggregation"}.get(kind, kind.removesuffix("s"))
        assert getattr(found.strategy, key).name == name


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_part_has_a_paper_and_every_parameter_a_meaning(kind: str, name: str) -> None:
    entry = catalogue.entry(kind, name)
    assert name in WITHOUT_PAPER or "https://" in entry.paper
    for item in entry.parameters:
        assert item.doc, f"{name}.{item.name} has no meaning"
        assert re.fullmatch(r'[\w" |\[\],.]+', item.type_name), f"{item.type_name} is no type to read"
        assert "Optional" not in item.type_name and "FieldInfo" not in item.type_name
        if item.type_name.removesuffix(" | None") in ("float", "int"):
            assert item.range, f"{name}.{item.name} has no range"


def test_info_prints_them(fedlab: Any) -> None:
    shown = fedlab("info", "yogi").out
    for text in (
        "yogi  server optimizer, from fedlab-audit",
        "v <- v − (1 − β₂) Δ² sign(v − Δ²)",
        'paper  Reddi et al., "Adaptive Federated Optimization", ICLR 2021',
        "learning_rate  float > 0",
        "beta1          float >= 0 and < 1  0.9",
        '  server_optimizer = { name = "yogi", learning_rate = 0.01, beta1 = 0.9, beta2 = 0.99, tau = 0.0',
    ):
        assert text in shown
    assert shown.count("ICLR 2021") == 1, "a citation is shown once"
    (entry,) = fedlab("info", "yogi", "--json").json
    assert {one["name"]: one["range"] for one in entry["parameters"]} == {
        "learning_rate": "> 0",
        "beta1": ">= 0 and < 1",
        "beta2": ">= 0 and < 1",
        "tau": "> 0",
    }
    assert '  local_rule = { name = "fedprox", mu = 1.0 }' in fedlab("info", "fedprox").out
    assert '  sampling = "poisson"' in fedlab("info", "poisson").out
    assert "[[adversaries]]\n" in fedlab("info", "sign-flip").out


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("local-rules", "local_rules"),
        ("rule", "local_rules"),
        ("server-optimizer", "server_optimizers"),
        ("optimizers", "server_optimizers"),
        ("sampler", "samplers"),
        ("adversary", "adversaries"),
        ("preaggregator", "preaggregators"),
        ("pre-aggregators", "preaggregators"),
    ],
)
def test_kinds_go_by_several_names(word: str, kind: str) -> None:
    assert catalogue.kind_of(word) == kind
