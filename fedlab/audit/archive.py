"""Observations on disk: safetensors for tensors, JSON for the rest, never pickle.

One file per round, `round-0001.safetensors`: `before/NAME` once, `update/CLIENT/NAME` and
`buffers/CLIENT/NAME` per client (CLIENT.REPEAT where it was sent the same model again). `index.json` lists
who was observed, and what clients were told.
Observations are added as they are made, those of an asynchronous round over many others; one that a
resumed run makes again replaces itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from fedlab import files
from fedlab.audit.observation import KnownConfig, Observation, Part
from fedlab.errors import DataError
from fedlab.tasks import State


def add(directory: Path, observations: Sequence[Observation]) -> None:
    """Add observations of one cell, each file atomically, the index last.

    Raises:
        BackendError: the disk refuses.
        DataError: the index that is there is damaged.
    """
    by_round: dict[int, list[Observation]] = {}
    for observation in observations:
        by_round.setdefault(observation.round, []).append(observation)
    index = directory / "index.json"
    entries = {_key(entry): entry for entry in _entries(index)}
    known = {number for number, _, _ in entries}
    for number, group in by_round.items():
        path = directory / _file(number)
        tensors = _read(path) if number in known else {}
        tensors |= {
            f"before/{name}": value for name, value in (group[0].before | group[0].buffers_before).items()
        }
        for one in group:
            who = _who(one.client, one.repeat)
            tensors |= {f"update/{who}/{name}": value for name, value in one.update.items()}
            tensors |= {f"buffers/{who}/{name}": value for name, value in one.buffers_after.items()}
        files.write_tensors(path, tensors)
    entries |= {_key(entry): entry for entry in map(_entry, observations)}
    files.write_json(index, {"schema": 1, "observations": [entries[key] for key in sorted(entries)]})


def _entry(one: Observation) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "round": one.round,
        "client": one.client,
        "examples": one.examples,
        "config": asdict(one.config),
    }
    if one.repeat:
        entry["repeat"] = one.repeat
    if one.parts:
        entry["parts"] = [[part.client, part.round, part.repeat, part.epochs] for part in one.parts]
    return entry


def _key(entry: dict[str, Any]) -> tuple[int, int, int]:
    return int(entry["round"]), int(entry["client"]), int(entry.get("repeat", 0))


def _who(client: int, repeat: int) -> str:
    return f"{client}.{repeat}" if repeat else str(client)


def _read(path: Path) -> State:
    """What a file holds already.

    Raises:
        DataError: it is damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise DataError(
            f"{path}: the observations cannot be read ({type(error).__name__}: {error}); run again"
        ) from error


def _entries(index: Path) -> list[dict[str, Any]]:
    """What the index lists; nothing where there is none yet."""
    try:
        found: list[dict[str, Any]] = json.loads(index.read_text())["observations"] if index.exists() else []
    except (ValueError, KeyError) as error:
        raise DataError(f"{index}: the index is damaged ({error}); run again") from error
    return found


def load(directory: Path) -> list[Observation]:
    """Read what `add` wrote, in the order of (round, client, repeat).

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


def _observation(entry: dict[str, Any], tensors: State) -> Observation:
    number, client, repeat = _key(entry)
    before = _under(tensors, "before/")
    update = _under(tensors, f"update/{_who(client, repeat)}/")
    after = _under(tensors, f"buffers/{_who(client, repeat)}/")
    if not update or update.keys() | after.keys() != before.keys():
        raise DataError(f"round {number}, client {client}: the observation is incomplete; run again")
    return Observation(
        round=number,
        client=client,
        before={name: before[name] for name in update},
        update=update,
        buffers_before={name: before[name] for name in after},
        buffers_after=after,
        config=KnownConfig(**entry["config"]),
        examples=None if entry["examples"] is None else int(entry["examples"]),
        repeat=repeat,
        parts=tuple(Part(*map(int, part)) for part in entry.get("parts", ())),
    )


def _under(tensors: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _file(number: int) -> str:
    return f"round-{number:04d}.safetensors"
