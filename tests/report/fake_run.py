"""Write a run directory as a real run would, from real digits and real scores, without training.

The reconstructions are the originals with a known error, so every score is the scorer's own; the
controls are noise. Three defenses, three image attacks and one label attack, eight victims each.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from fedlab.audit.attack import Reconstruction
from fedlab.audit.scoring import score
from fedlab.audit.threat import ThreatModel
from fedlab.audit.truth import Truth

DEFENSES = ("none", "dp-sgd", "no-first-bias")
ATTACKS = {
    "linear-layer": "Phong et al., Privacy-preserving deep learning, 2018.",
    "dropout-inversion": "Scheliga, Mäder and Seeland, Dropout is not all you need, AAAI 2023.",
    "inverting-gradients": "Geiping et al., Inverting gradients, NeurIPS 2020.",
    "label-recovery": "Zhao, Mopuri and Bilen, iDLG, 2020.",
}
# Standard deviation of the pixel error; None: the attack refuses.
ERROR: dict[tuple[str, str], float | None] = {
    ("linear-layer", "none"): 3e-8,
    ("linear-layer", "dp-sgd"): 0.6,
    ("linear-layer", "no-first-bias"): None,
    ("dropout-inversion", "none"): 0.012,
    ("dropout-inversion", "dp-sgd"): 0.55,
    ("dropout-inversion", "no-first-bias"): 0.02,
    ("inverting-gradients", "none"): 0.33,
    ("inverting-gradients", "dp-sgd"): 0.55,
    ("inverting-gradients", "no-first-bias"): 0.12,
}
ACCURACY = {"none": 0.944, "dp-sgd": 0.717, "no-first-bias": 0.939}
SCENARIO = """schema = 1
seed = 7
[task]
dataset = "digits"
model = { name = "mlp", width = 256, dropout = 0.5 }
[clients]
count = 20
partition = { name = "dirichlet", alpha = 0.5 }
batch_size = 1
local_steps = 1
mode = "train"
learning_rate = 0.1
[strategy]
name = "fedavg"
rounds = 400
cohort = 10
aggregator = "weighted-mean"
[runtime]
executor = "ray"
[audit]
rounds = [1]
victims = 8
success_psnr = 20.0
include_samples = true
[[attacks]]
name = "linear-layer"
[[attacks]]
name = "dropout-inversion"
[[attacks]]
name = "inverting-gradients"
[[attacks]]
name = "label-recovery"
[[defenses]]
name = "none"
[[defenses]]
name = "dp-sgd"
[[defenses]]
name = "architecture"
label = "no-first-bias"
"""


def write_run(
    directory: Path,
    *,
    samples: bool = True,
    seeds: tuple[int, ...] = (7,),
    modes: tuple[str, ...] = ("train",),
    batch: int = 1,
    defenses: tuple[str, ...] = DEFENSES,
    strategies: dict[str, dict[str, Any]] | None = None,
    **manifest: Any,
) -> Path:
    """Fill `directory`; further keyword arguments replace entries of the manifest.

    `strategies`: label -> what its entry of [[strategies]] holds besides; accuracy falls by 0.1 from one to
    the next.
    """
    directory.mkdir(parents=True, exist_ok=True)
    labels = list(strategies or {"": {}})
    cells = [(a, d, m, s) for a in labels for d in defenses for m in modes for s in seeds]
    metrics: dict[str, Any] = {}
    for label, defense, mode, seed in cells:
        name = _name(label, defense, mode, seed)
        rng = np.random.default_rng(seed)
        accuracy = ACCURACY.get(defense, 0.9) + 0.01 * (seed - 7) - 0.1 * labels.index(label)
        metrics[name] = _metrics(accuracy, rng)
        _json(directory / "privacy" / f"{name}.json", _privacy(defense))
        weights = directory / "models" / name / "model.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.full((2,), float(seed))}, weights)
        _cell(directory, name, defense, mode, seed, samples, batch)
    _json(directory / "metrics.json", {"cells": metrics})
    entries = [{"label": label, **entry} for label, entry in (strategies or {}).items()]
    listed = tomli_w.dumps({"strategies": entries}) if entries else ""
    (directory / "scenario.toml").write_text(listed + SCENARIO)
    base = {
        "schema": 1,
        "status": "finished",
        "name": "quickstart",
        "claim": "Dropout alone does not stop gradient inversion.",
        "command": "fedlab run quickstart --out runs/quickstart",
        "objects": {},
        "versions": {"fedlab": "0.1.0", "torch": "2.13.0+cpu", "flwr": "1.41.0", "ray": "2.55.1"},
        "seeds": list(seeds),
        "chunk_size": 10,
        "cells": [
            {
                "name": _name(a, d, m, s),
                **({"strategy": a} if a else {}),
                "defense": d,
                "client_mode": m,
                "seed": s,
                "weights_sha256": hashlib.sha256(f"{a}{d}{m}{s}".encode()).hexdigest(),
            }
            for a, d, m, s in cells
        ],
        "weights_sha256": {d: hashlib.sha256(d.encode()).hexdigest() for d in defenses},
        "dataset": {
            "name": "digits",
            "source": "UCI ML hand-written digits, as shipped by scikit-learn",
            "licence": "CC BY 4.0",
            "sha256": hashlib.sha256(b"digits").hexdigest(),
            "synthetic": False,
            "train": 1437,
            "test": 360,
            "shape": [1, 8, 8],
            "classes": 10,
        },
        "model": {"name": "mlp", "parameters": 85002, "params": {"width": 256, "dropout": 0.5}},
        "started": "2026-11-21T07:00:00Z",
        "finished": "2026-11-21T07:03:00Z",
    }
    _json(directory / "manifest.json", base | manifest)
    return directory


def _name(strategy: str, defense: str, mode: str, seed: int) -> str:
    return "-".join(filter(None, [strategy, defense, mode, f"s{seed}"]))


def _cell(directory: Path, name: str, defense: str, mode: str, seed: int, samples: bool, batch: int) -> None:
    digits = load_digits()
    generator = torch.Generator().manual_seed(seed + len(defense))
    ids = torch.randperm(len(digits.target), generator=generator)[: 8 * batch].reshape(8, batch)
    truths = [
        Truth(
            1,
            client,
            tuple(row.tolist()),
            torch.from_numpy(digits.images[row.numpy()]).float()[:, None] / 16,
            torch.from_numpy(digits.target[row.numpy()]).long(),
        )
        for client, row in enumerate(ids)
    ]
    chosen = [
        {"round": 1, "client": t.client, "record_ids": list(t.record_ids), "labels": t.labels.tolist()}
        for t in truths
    ]
    counts = (
        {"observed": 40, "empty": 15, "eligible": 14}
        if defense == "dp-sgd"
        else {"observed": 10, "empty": 0, "eligible": 10}
    )
    _json(directory / "truth" / f"{name}.json", {"victims": chosen, **counts})
    if samples:
        save_file({f"1-{t.client}": t.images for t in truths}, directory / "truth" / f"{name}.safetensors")
    for attack, paper in ATTACKS.items():
        kept: dict[str, torch.Tensor] = {}
        entries: dict[str, list[Any]] = {"victim": [], "control": []}
        for t in truths:
            for kind in entries:
                answer = _answer(attack, defense, kind, t, generator)
                entries[kind].append(score(answer, t).to_dict())
                if answer.images is not None:
                    kept[f"{kind}/1-{t.client}"] = answer.images
        _json(
            directory / "attacks" / name / f"{attack}.json",
            {
                "attack": attack,
                "plugin": attack,
                "paper": paper,
                "needs": ["learning_rate"],
                "threat": asdict(ThreatModel(client_mode="train" if mode == "train" else "eval")),
                "defense": defense,
                "client_mode": mode,
                "seed": seed,
                "error": None,
                "failed": False,
                "victims": entries["victim"],
                "control": entries["control"],
            },
        )
        if samples and kept:
            save_file(kept, directory / "attacks" / name / f"{attack}.safetensors")


def _answer(attack: str, defense: str, kind: str, truth: Truth, generator: torch.Generator) -> Reconstruction:
    labels = torch.randint(10, truth.labels.shape, generator=generator)
    if kind == "victim" and defense != "dp-sgd":
        labels = truth.labels
    if attack == "label-recovery":
        return Reconstruction(labels=labels)
    error = ERROR.get((attack, defense), 0.3)
    if error is None:
        return Reconstruction(
            refusal="the first linear layer has no bias, so its input cannot be divided out"
        )
    noise = torch.randn(truth.images.shape, generator=generator)
    if kind == "control":
        return Reconstruction((0.4 + 0.35 * noise).clamp(0, 1), labels, residual=0.98)
    return Reconstruction((truth.images + error * noise).clamp(0, 1), labels, residual=error)


def _metrics(accuracy: float, rng: np.random.Generator) -> dict[str, Any]:
    clients = np.clip(rng.normal(accuracy, 0.07, size=20), 0, 1)
    return {
        "accuracy": accuracy,
        "loss": 1.0 - accuracy,
        "rounds": [
            {"round": r, "accuracy": accuracy * r / 4, "loss": 1.0, "train_loss": 1.0} for r in range(1, 5)
        ],
        "per_client": [{"client": i, "records": 70, "accuracy": float(a)} for i, a in enumerate(clients)],
        "failures": 0,
    }


def _privacy(defense: str) -> dict[str, Any]:
    if defense != "dp-sgd":
        return {"mechanism": None, "epsilon": None, "delta": None, "assumptions": [], "per_client": {},
                "participations": {}, "reason": "this defense claims no proof"}  # fmt: skip
    return {
        "mechanism": "DP-SGD in each client: records clipped at norm 1, Gaussian noise of multiplier 1",
        "epsilon": 7.8412,
        "delta": 1e-5,
        "unit": "record",
        "adjacency": "add or remove one record",
        "accountant": "PRV (opacus 1.6.0)",
        "noise": "reproducible simulation noise: protects no real data",
        "assumptions": [
            {"text": "Each record enters a batch independently (Poisson sampling).", "holds": True},
            {
                "text": "The update is divided by the expected batch size, not the realised one.",
                "holds": True,
            },
        ],
        "per_client": {"0": 7.8412, "1": 6.2, "2": 5.1},
        "participations": {"0": 210, "1": 190, "2": 170},
        "reason": None,
    }


def _json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
