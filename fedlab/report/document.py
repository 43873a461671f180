"""Assemble report.json: the whole report as plain data, schema version 1 (see docs/report.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fedlab.audit.metrics import METRICS
from fedlab.report.acting import acting
from fedlab.report.adaptive import adaptive
from fedlab.report.advice import Findings
from fedlab.report.annex import warnings
from fedlab.report.app import NAME as APP
from fedlab.report.app import app
from fedlab.report.checks import alarms, check_rows
from fedlab.report.client_map import client_map
from fedlab.report.cost import cost
from fedlab.report.exposure import exposure
from fedlab.report.fleet import fleet
from fedlab.report.formal import proofs_in_full
from fedlab.report.frontier import frontier
from fedlab.report.gates import gate_results
from fedlab.report.integrity import integrity_rows
from fedlab.report.knowledge import knowledge
from fedlab.report.limits import limits, threat_models
from fedlab.report.matrix import matrix
from fedlab.report.membership import membership_rows, with_membership
from fedlab.report.reading import LEVELS, namer
from fedlab.report.recommendations import recommendations
from fedlab.report.rows import attack_rows, guarantee_rows, utility_rows
from fedlab.report.rundir import Run, malformed
from fedlab.report.scope import scope
from fedlab.report.tasks import task_rows
from fedlab.report.tried import tried, with_reasons
from fedlab.report.verdict import verdict

_DATASET = ("name", "source", "licence", "sha256", "synthetic", "train", "test", "classes")
_MODEL = ("name", "parameters")
_CELL = ("name", "strategy", "defense", "client_mode", "seed", "weights_sha256")


def assemble(run: Run, fail_on: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that is known about the run, as strict JSON; `fail_on` are gates beside the scenario's own.

    Raises:
        BadGate: one of `fail_on` cannot be read, or nothing fits it.
        DataError: a file of the run directory lacks what its version promises.
    """
    undefended = undefended_labels(run)
    attacks = attack_rows(run)
    utility = utility_rows(run, undefended)
    guarantees = with_reasons(run, guarantee_rows(run))
    membership = membership_rows(run)
    checks = check_rows(run, guarantees)
    pairs = adaptive(run, attacks)
    trade = frontier(attacks, utility, guarantees, undefended)
    advice = recommendations(
        Findings(
            attacks,
            utility,
            guarantees,
            trade,
            checks,
            pairs,
            membership,
            undefended,
            len({cell["seed"] for cell in run.cells}),
            bool((run.scenario.get("audit") or {}).get("include_samples")),
            app(run) is None,
            namer(run.cells),
        )
    )
    prices = cost(run, utility, undefended)
    tries = tried(run, attacks, utility, prices, guarantees, undefended)
    found = verdict(
        attacks, utility, guarantees, undefended, run.threshold, _settings(run), of_baseline=tries is not None
    )
    return {
        "schema_version": 1,
        "threshold_db": run.threshold,
        "verdict": with_membership(found, membership, attacks),
        "alarms": alarms(checks, run),
        "gates": gate_results(run, undefended, fail_on),
        "limits": limits(run, attacks, utility, guarantees),
        "recommendations": advice,
        "scope": scope(run),
        "app": app(run),
        "acting": acting(run),
        "tried": tries,
        "attacks": attacks,
        "matrix": matrix(attacks, utility, guarantees),
        "frontier": trade,
        "adaptive": pairs,
        "knowledge": knowledge(run, attacks),
        "membership": membership,
        "utility": utility,
        "cost": prices,
        "exposure": exposure(run),
        "guarantees": guarantees,
        "proofs": proofs_in_full(run, guarantees),
        "checks": checks,
        "integrity": integrity_rows(run),
        "fleet": fleet(run),
        "tasks": task_rows(run),
        "map": client_map(run),
        "threat_models": threat_models(run, attacks),
        "metrics": {
            name: {
                "unit": metric.unit,
                "definition": metric.definition,
                "higher_is_worse": metric.higher_is_worse,
            }
            for name, metric in METRICS.items()
        },
        "levels": {
            level.key: {"symbol": level.symbol, "word": level.word, "meaning": level.meaning}
            for level in LEVELS.values()
        },
        "warnings": warnings(run),
        "run": _about(run),
    }


def undefended_labels(run: Run) -> set[str]:
    """Labels of the baseline: defenses of plugin "none", or so called."""
    entries = run.scenario.get("defenses")
    listed = entries if isinstance(entries, list) else []
    labels = {
        str(entry.get("label") or entry.get("name"))
        for entry in listed
        if isinstance(entry, dict) and entry.get("name") == "none"
    }
    return labels or {"none"}


def _settings(run: Run) -> dict[str, str]:
    """Each defense's own parameters, by label: a label alone does not say what was done."""
    entries = run.scenario.get("defenses")
    return {
        str(entry.get("label") or entry.get("name")): ", ".join(
            " + ".join(map(_plain, value))  # protocol (batch_size 64) + dp-sgd (epsilon 8)
            if _composed(value)
            else f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in entry.items()
            if key not in ("name", "label")
        )
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    }


def _composed(value: Any) -> bool:
    """Whether this is a list of defenses, as a stack has."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "name" in v for v in value)


def _about(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    with malformed("manifest.json"):
        objects = {str(key): str(value) for key, value in (manifest.get("objects") or {}).items()}
        dataset, model = dict(manifest.get("dataset") or {}), dict(manifest.get("model") or {})
        return {
            "name": str(manifest.get("name") or run.directory.name),
            "claim": manifest.get("claim"),
            "status": str(manifest.get("status", "unknown")),
            "error": manifest.get("error"),
            "dataset": {**dict.fromkeys(_DATASET), **dataset, "shape": list(dataset.get("shape") or [])},
            "model": {**dict.fromkeys(_MODEL), **model, "params": dict(model.get("params") or {})},
            "setup": _setup(run, objects),
            "objects": objects,
            "command": _command(manifest.get("command")),
            "versions": {str(k): str(v) for k, v in sorted((manifest.get("versions") or {}).items())},
            "seeds": list(manifest.get("seeds") or []),
            "chunk_size": manifest.get("chunk_size"),
            "cells": [{key: cell.get(key) for key in _CELL} for cell in run.cells],
            "weights_sha256": dict(manifest.get("weights_sha256") or {}),
            "artefacts": dict(run.hashes),
        }


def _command(command: Any) -> str:
    return " ".join(map(str, command)) if isinstance(command, list) else str(command or "")


def _setup(run: Run, objects: dict[str, str]) -> dict[str, str]:
    """What an engineer asks first, in the scenario's own words, unless Python passed something else."""
    places = {
        "clients": ("clients", "count"),
        "partition": ("clients", "partition"),
        "batch size": ("clients", "batch_size"),
        "local steps": ("clients", "local_steps"),
        "local epochs": ("clients", "local_epochs"),
        "client mode": ("clients", "mode"),
        "learning rate": ("clients", "learning_rate"),
        "momentum": ("clients", "momentum"),
        "strategy": ("strategy", "name"),
        "options": ("strategy", "options"),
        "rounds": ("strategy", "rounds"),
        "clients per round": ("strategy", "cohort"),
        "local rule": ("strategy", "local_rule"),
        "sampling": ("strategy", "sampling"),
        "pre-aggregation": ("strategy", "pre_aggregation"),
        "aggregator": ("strategy", "aggregator"),
        "server optimizer": ("strategy", "server_optimizer"),
        "target": ("strategy", "target"),
        "virtual time at most (s)": ("strategy", "until"),
        "executor": ("runtime", "executor"),
        "observed rounds": ("audit", "rounds"),
        "victims per cell": ("audit", "victims"),
        "recovered from (dB)": ("audit", "success_psnr"),
    }
    found = {}
    for name, (table, key) in places.items():
        tables = run.strategies if table == "strategy" else [run.scenario.get(table) or {}]
        if text := _each([one.get(key) for one in tables], [str(one.get("label", "")) for one in tables]):
            found[name] = text
    if "local steps" in found:
        found.pop("local epochs", None)
    # A task is no line of the set-up: it is the data and the model.
    whence = "" if run.file(APP).is_file() else " (passed from Python)"
    found |= {name: value + whence for name, value in objects.items() if name != "task"}
    return found


def _each(values: list[Any], labels: list[str]) -> str:
    """A value in words; where strategies differ in it, each one's that has it."""
    given = {label: _plain(one) for label, one in zip(labels, values, strict=True) if one not in (None, {})}
    words = list(given.values())
    if len(words) == len(values) and len(set(words)) == 1:
        return words[0]
    return "; ".join(f"{label}: {text}" for label, text in given.items())


def _plain(value: Any) -> str:
    """{name = "dirichlet", alpha = 0.5} as `dirichlet (alpha 0.5)`."""
    if isinstance(value, dict):
        rest = ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if key != "name")
        name = str(value.get("name", ""))
        return f"{name} ({rest})" if name and rest else name or rest
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
