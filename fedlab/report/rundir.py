"""Read a run directory, believing nothing that it says.

Names must be plain file names and resolve inside the directory, also through symbolic links; JSON is
strict (NaN and infinity become null); text loses its control and direction-changing characters and its
excess length. What remains may still be `<script>`: the page escapes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlab.errors import DataError
from fedlab.foreign import clean as clean
from fedlab.foreign import refuse_newer
from fedlab.report import reading

LARGEST_FILE = 256 * 2**20
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,200}")


@dataclass(frozen=True)
class Run:
    """Everything that the report is made of.

    Attributes:
        manifest, scenario: as parsed; a missing scenario.toml is {}.
        metrics, privacy, truth: by cell name.
        attacks: one dictionary per (cell, attack) file, with its "cell", ordered as the scenario names them.
        memberships: the same for attacks that score records instead of reconstructing them.
        claims: the same for attacks on a recording of a deployment, whose answers nobody can score.
        hashes: sha256 of each file that the report rests on, by relative path.
        map: what map.json holds; None without a map.
        checks: what was measured of the proofs (`privacy/<cell>.checks.json`), by cell name.
    """

    directory: Path
    manifest: dict[str, Any]
    scenario: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    privacy: dict[str, dict[str, Any]]
    truth: dict[str, dict[str, Any]]
    attacks: list[dict[str, Any]]
    hashes: dict[str, str] = field(default_factory=dict)
    map: dict[str, Any] | None = None
    memberships: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The trained cells, in the manifest's order."""
        return list(self.manifest["cells"])

    @property
    def pools(self) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
        """(what tells a row from others, its cells of all seeds), in the manifest's order."""
        pools: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for cell in self.cells:
            pools.setdefault(reading.key(cell), []).append(cell)
        return [(dict(zip(reading.AXES, key, strict=True)), cells) for key, cells in pools.items()]

    @property
    def strategies(self) -> list[dict[str, Any]]:
        """What each of `[[strategies]]` is, or what `[strategy]` is."""
        shared = self.scenario.get("strategy")
        shared = shared if isinstance(shared, dict) else {}
        entries = self.scenario.get("strategies")
        listed = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
        return [shared | one for one in listed] or [shared]

    @property
    def threshold(self) -> float:
        """PSNR in dB from which an image counts as recovered."""
        return float(self.scenario.get("audit", {}).get("success_psnr", 20.0))

    def file(self, *parts: str) -> Path:
        """A path inside the run directory.

        Raises:
            DataError: a part is no plain file name, or the path leads outside.
        """
        for part in parts:
            if not _NAME.fullmatch(part) or part.strip(".") == "":
                raise DataError(
                    f'{self.directory}: "{part[:80]!r}" is no name of a cell or an attack; expected letters,'
                    " digits, dots, dashes and underscores. The manifest was altered"
                )
        path = self.directory.joinpath(*parts)
        if not path.resolve().is_relative_to(self.directory.resolve()):
            raise DataError(f"{path} leads outside the run directory; remove that link")
        return path


def read_run(directory: Path) -> Run:
    """Read what a run wrote; cells that did not finish are simply absent.

    Raises:
        DataError: no manifest, or a file that does not parse.
        NewerRun: a later fedlab wrote it.
    """
    if not (directory / "manifest.json").is_file():
        raise DataError(
            f"{directory}: no manifest.json; expected the directory of a run,"
            " which `fedlab run` prints when it ends"
        )
    run = Run(directory, {}, {}, {}, {}, {}, [])
    manifest, hashes = _json(run, "manifest.json"), run.hashes
    refuse_newer(manifest, directory)
    # The manifest carries the clock; everything else is a function of the scenario.
    hashes.clear()
    with malformed("manifest.json"):
        names = [str(cell["name"]) for cell in manifest["cells"]]
        for cell in manifest["cells"]:
            cell["defense"], cell["client_mode"] = str(cell["defense"]), str(cell["client_mode"])
            cell["strategy"] = str(cell.get("strategy") or "")
            cell["seed"] = int(cell["seed"])
    scenario = _scenario(run)
    metrics = _json(run, "metrics.json").get("cells", {}) if run.file("metrics.json").exists() else {}
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in ("privacy", "truth"):
        parts[kind] = {
            name: _json(run, kind, f"{name}.json")
            for name in names
            if run.file(kind, f"{name}.json").exists()
        }
    checks = {
        name: _json(run, "privacy", f"{name}.checks.json")
        for name in names
        if run.file("privacy", f"{name}.checks.json").exists()
    }
    attacks = [one for name in names for one in _attacks(run, name)]
    again = manifest.get("again")
    again = again if isinstance(again, dict) else {}
    order = [*labels(scenario.get("attacks")), *labels(again.get("attacks"))]
    threats = ["", *labels(scenario.get("threats")), *labels(again.get("threats"))]
    attacks.sort(key=lambda one: (_index(order, one["attack"]), _index(threats, one["threat_label"])))
    memberships = [one for one in attacks if one.get("kind") == "membership"]
    claims = [one for one in attacks if one.get("kind") == "claims"]
    attacks = [one for one in attacks if one.get("kind") not in ("membership", "claims")]
    for name in names:
        weights = run.file("models", name, "model.safetensors")
        if weights.is_file():
            hashes[f"models/{name}/model.safetensors"] = _sha256(weights)
    mapped = _json(run, "map.json") if run.file("map.json").exists() else None
    hashes = dict(sorted(hashes.items()))
    return Run(
        directory,
        manifest,
        scenario,
        metrics,
        parts["privacy"],
        parts["truth"],
        attacks,
        hashes,
        mapped,
        memberships,
        checks,
        claims,
    )


def parse_json(content: bytes, path: Path) -> Any:
    """Parse and clean.

    Raises:
        DataError: not JSON.
    """
    try:
        return clean(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); the file is damaged, run or attack again"
        ) from error


@contextmanager
def malformed(where: str) -> Iterator[None]:
    """Turn a missing key or a wrong type in a file into an error that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{where}: {error!r}; the file is damaged or of another version, run again"
        ) from error


def _attacks(run: Run, cell: str) -> list[dict[str, Any]]:
    folder = run.file("attacks", cell)
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        data = _json(run, "attacks", cell, path.name)
        with malformed(f"attacks/{cell}/{path.name}"):
            data["attack"], data["cell"], data["file"] = str(data["attack"]), cell, path.stem
            data["threat_label"] = str(data.get("threat_label") or "")
            found.append(data)
    return found


def _index(order: list[str], name: str) -> int:
    """Where a name stands; what the scenario does not have comes last."""
    return order.index(name) if name in order else len(order)


def _scenario(run: Run) -> dict[str, Any]:
    path = run.file("scenario.toml")
    if not path.exists():
        return {}
    content = path.read_bytes()
    run.hashes["scenario.toml"] = hashlib.sha256(content).hexdigest()
    try:
        scenario: dict[str, Any] = clean(tomllib.loads(content.decode()))
    except ValueError as error:
        raise DataError(f"{path}: not valid TOML ({error}); the file is damaged, run again") from error
    return scenario


def _json(run: Run, *parts: str) -> dict[str, Any]:
    path = run.file(*parts)
    if path.stat().st_size > LARGEST_FILE:
        raise DataError(f"{path}: {path.stat().st_size} bytes; expected at most {LARGEST_FILE}")
    content = path.read_bytes()
    run.hashes["/".join(parts)] = hashlib.sha256(content).hexdigest()
    data = parse_json(content, path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a JSON object; the file is damaged, run or attack again")
    return data


def labels(entries: Any) -> list[str]:
    """Labels of [[attacks]], [[defenses]] or [[threats]], in order."""
    listed = entries if isinstance(entries, list) else []
    return [str(e.get("label") or e.get("name")) for e in listed if isinstance(e, dict)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
