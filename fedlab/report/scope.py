"""What was audited: purpose, data, model, federation, and who may see what of it."""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import key, listed, mode_word, namer
from fedlab.report.rundir import Run

Row = dict[str, Any]

_UPDATES = "each client's own update of each round in which it takes part, and the model before and after"
_SUMS = "the sum of a round's updates, and no single one"


def scope(run: Run) -> Row:
    """Facts of the scenario and the manifest; `roles` says who sees what, under which defense."""
    clients, strategy = _table(run, "clients"), run.strategies[0]
    dataset = run.manifest.get("dataset") or {}
    return {
        "purpose": str(run.manifest.get("claim") or "") or None,
        "dataset": dataset.get("name"),
        "synthetic": bool(dataset.get("synthetic")),
        "model": (run.manifest.get("model") or {}).get("name"),
        "clients": clients.get("count"),
        "partition": (clients.get("partition") or {}).get("name"),
        "rounds": strategy.get("rounds"),
        "cohort": strategy.get("cohort"),
        "modes": list(dict.fromkeys(cell["client_mode"] for cell in run.cells)),
        "sees": [{**place, "sees": "sums" if _sums(run, place) else "updates"} for place, _ in run.pools],
        "roles": _roles(run),
    }


def _roles(run: Run) -> list[Row]:
    """Client, server and outsider: what each may see."""
    who = namer(run.cells)
    summed = [place for place, _ in run.pools if _sums(run, place)]
    server = _SUMS if summed and len(summed) == len(run.pools) else _UPDATES
    if summed and len(summed) < len(run.pools):
        server += f"; under {listed([who(place) for place in summed])} only {_SUMS}"
    modes = listed(list(dict.fromkeys(mode_word(cell["client_mode"]) for cell in run.cells)) or ["no mode"])
    return [
        {
            "role": "Client",
            "sees": "its own records, and the model that it is sent in each round in which it takes part;"
            f" it runs the network in {modes}",
            "role_in_audit": "the one to be protected",
        },
        {"role": "Server", "sees": server, "role_in_audit": "the attacker, unless a section says otherwise"},
        {
            "role": "Outsider",
            "sees": "what is published, at most the final model",
            "role_in_audit": "not tested: what an outsider learns is contained in what the server sees",
        },
    ]


def _sums(run: Run, place: Row) -> bool:
    """Whether attackers of this pool were shown sums of updates, and no single ones."""
    cells = {cell["name"] for cell in run.cells if key(cell) == key(place)}
    threats = [
        one.get("threat") or {} for one in run.attacks if one["cell"] in cells and not one["threat_label"]
    ]
    victims = [one for cell in cells for one in run.truth.get(cell, {}).get("victims") or []]
    return any(one.get("sums") for one in threats) or any("clients" in one for one in victims)


def _table(run: Run, name: str) -> Row:
    found = run.scenario.get(name)
    return found if isinstance(found, dict) else {}
