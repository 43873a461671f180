"""Observations on disk: safetensors for tensors, JSON for the rest, never pickle.

One file per round, `round-0001.safetensors`: `before/NAME` once, `update/CLIENT/NAME` and
`buffers/CLIENT/NAME` per client. `index.json` lists who was observed, and what clients were told.
Rounds are added as they end; a round that a resumed run sees again replaces itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from fedlab import files
from fedlab.audit.observation import KnownConfig, Observation
from fedlab.errors import DataError
from fedlab.tasks import State


def add(directory: Path, observations: Sequence[Observation]) -> None:
    """Add the observations of whole rounds of one cell, each file atomically, the index last.

    Raises:
        BackendError: the disk refuses.
        DataError: the index that is there is damaged.
    """
    by_round: dict[int, list[Observation]] = {}
    for observation in observations:
        by_round.setdefault(observation.round, []).append(observation)
    for number, group in by_round.items():
        tensors = {
            f"before/{name}": value for name, value in (group[0].before | group[0].buffers_before).items()
        }
        for one in group:
            tensors |= {f"update/{one.client}/{name}": value for name, value in one.update.items()}
            tensors |= {f"buffers/{one.client}/{name}": value for name, value in one.buffers_after.items()}
        files.write_tensors(directory / _file(number), tensors)
    index = directory / "index.json"
    entries = [entry for entry in _entries(index) if entry["round"] not in by_round]
    entries += [
        {"round": o.round, "client": o.client, "examples": o.examples, "config": asdict(o.config)}
        for o in observations
    ]
    entries.sort(key=lambda entry: (entry["round"], entry["client"]))
    files.write_json(index, {"schema": 1, "observations": entries})


def _entries(index: Path) -> list[dict[str, Any]]:
    """What the index lists; nothing where there is none yet."""
    try:
        found: list[dict[str, Any]] = json.loads(index.read_text())["observations"] if index.exists() else []
    except (ValueError, KeyError) as error:
        raise DataError(f"{index}: the index is damaged ({error}); run again") from error
    return found


def load(directory: Path) -> list[Observation]:
    """Read what `add` wrote, in the order of (round, client).

    Raises:
        DataError: a file is missing, damaged, or does not hold what the index says.
    """
    try:
        index = json.loads((directory / "index.json").read_text())["observations"]
        tensors = {
            number: load_file(directory / _file(number)) for number in {int(e["round"]) for e in index}
        }
        return [_observation(entry, tensors[int(entry["round"])]) for entry in index]
    except DataError:
        raise
    except Exception as error:  # safetensors and json raise their own kinds; all mean the same here
        raise DataError(
            f"{directory}: the observations cannot be read ({type(error).__name__}: {error}); run again"
        ) from error


def _observation(entry: dict[str, object], tensors: State) -> Observation:
    client = int(str(entry["client"]))
    before = _under(tensors, "before/")
    update = _under(tensors, f"update/{client}/")
    after = _under(tensors, f"buffers/{client}/")
    if not update or update.keys() | after.keys() != before.keys():
        raise DataError(f"round {entry['round']}, client {client}: the observation is incomplete; run again")
    return Observation(
        round=int(str(entry["round"])),
        client=client,
        before={name: before[name] for name in update},
        update=update,
        buffers_before={name: before[name] for name in after},
        buffers_after=after,
        config=KnownConfig(**entry["config"]),  # type: ignore[arg-type]
        examples=None if entry["examples"] is None else int(str(entry["examples"])),
    )


def _under(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _file(number: int) -> str:
    return f"round-{number:04d}.safetensors"
