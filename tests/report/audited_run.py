"""A run directory with all that a report can hold: proofs with course and curve, checks, informed and unaware
attackers, a certificate, traffic and a warning. Written as a run would, from the fake run's scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_run import write_run

GAIN = 6.0
"""dB that knowing the defense is worth on "no-first-bias"."""


def write_audited(directory: Path, **options: Any) -> Path:
    """As `write_run`, with the files of later stages beside it."""
    write_run(directory, **options)
    for cell in json.loads((directory / "manifest.json").read_text())["cells"]:
        name, defense = cell["name"], cell["defense"]
        if defense == "dp-sgd":
            edit(directory / "privacy" / f"{name}.json", lambda g: g.update(proof()))
            path = directory / "privacy" / f"{name}.checks.json"
            path.write_text(json.dumps(checks()))
        if defense == "none":
            edit(directory / "attacks" / name / "linear-layer.json", certify)
        if defense == "no-first-bias":
            whole = json.loads((directory / "attacks" / name / "inverting-gradients.json").read_text())
            whole["threat"]["defense"], whole["threat_label"] = False, "unaware"
            for one in whole["victims"]:
                one["psnr"] = [value - GAIN for value in one["psnr"]]
            path = directory / "attacks" / name / "inverting-gradients@unaware.json"
            path.write_text(json.dumps(whole))
    edit(directory / "metrics.json", wired)
    caution = {"event": "caution", "cell": "dp-sgd-train-s7", "reason": "δ is large for so few records"}
    lines = [json.dumps({"time": time, **caution}) for time in (1.0, 2.0)]
    (directory / "events.jsonl").write_text("\n".join([*lines, '{"event": "caution", "rea']))
    return directory


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def proof() -> dict[str, Any]:
    """What a guarantee comes with when the training is over."""
    return {
        "place": "client",
        "history": [[0.95, 0.02, 210]],
        "rounds": 400,
        "attempts": 1,
        "most_exposed": 0,
        "cautions": ["ε is large"],
        "cross_check": [
            {"accountant": "RDP (opacus 1.6.0)", "epsilon": 8.31},
            {"accountant": "PLD (dp-accounting 0.6.0)", "epsilon": 7.82},
        ],
        "curve": [[1e-3, 5.1], [1e-5, 7.8412], [1e-9, None]],
        "course": [[200, 5.2], [400, 7.8412]],
        "beside": [
            {
                "mechanism": "user-level DP",
                "epsilon": 3.0,
                "delta": 1e-5,
                "unit": "one client",
                "adjacency": "add or remove one client",
                "accountant": "RDP",
                "noise": "",
                "assumptions": [{"text": "uniform weights", "holds": False}],
                "reason": None,
            }
        ],
    }


def checks(**changes: Any) -> dict[str, Any]:
    """privacy/<cell>.checks.json of a cell that does what it claims."""
    whole = {
        "client": 0,
        "checks": [
            {"name": "noise", "statistic": 1.02, "p": 0.41, "verdict": "passed", "words": "fits σ C"},
            {"name": "sampling", "statistic": None, "p": None, "verdict": "not tested", "words": "no plan"},
        ],
        "one_run": {
            "m": 1000,
            "guesses": 100,
            "right": 71,
            "epsilon_hat": 0.52,
            "confidence": 0.95,
            "epsilon": 7.8412,
        },
        "why_no_one_run": "",
        "rero": [{"kappa": 0.1, "gamma": 0.6, "upper": 0.7}, {"kappa": 0.001, "gamma": 0.01, "upper": None}],
        "alarm": None,
    }
    return whole | changes


def certify(attack: dict[str, Any]) -> None:
    """Let a closed form have proved each answer the only one."""
    one = {"method": "linear layer", "verdict": "unique", "solved": "the record", "rank": 64, "unknowns": 64}
    for victim in attack["victims"]:
        victim["certificates"] = [one]


def wired(metrics: dict[str, Any]) -> None:
    """What went over the wire, and what a defense would make of it."""
    for name, cell in metrics["cells"].items():
        cell["wire"] = {"received": 340_008.0, "sent": 340_008.0}
        cell["uplink_bytes"] = 85_002.0 if name.startswith("no-first-bias") else 340_008.0
