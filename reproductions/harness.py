"""Runs the cells of a study (variant × seed) in worker processes, each cell once.

A finished cell is a file in reproductions/cache, which git ignores, and is not run again while the scenario
that it came from is the same; an interrupted one goes on from its last checkpoint. Remove the folder to
begin anew, after a change of fedlab itself, say. Two workers at most, each with one thread.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

from safetensors.torch import load_file

import fedlab
from fedlab.experiment import resume
from fedlab.experiment.setup import set_up
from fedlab.scenario import load
from reproductions.study import Bar, Figures, Outcome, Study

HERE = Path(__file__).parent
CACHE, RESULTS = HERE / "cache", HERE / "results"
WORKERS = 2
INLINE = ("runtime.executor=inline",)


@dataclass
class Result:
    """What a study found.

    Attributes:
        table: its head, then one line per variant.
        seconds: processor time of all its cells.
    """

    name: str
    title: str
    paper: str
    work: str
    seeds: list[int]
    table: list[list[str]]
    bars: list[Bar]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return all(bar.met for bar in self.bars)

    def write(self, directory: Path = RESULTS) -> Path:
        """NAME.json."""
        path = directory / f"{self.name}.json"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self) | {"met": self.met}, indent=1, ensure_ascii=False) + "\n")
        return path


def read(path: Path) -> Result:
    """The result in a JSON file."""
    content = json.loads(path.read_text())
    content.pop("met")
    bars = [Bar(**bar | {"values": tuple(bar["values"])}) for bar in content.pop("bars")]
    return Result(bars=bars, **content)


def study_named(name: str) -> Study:
    """STUDY of `reproductions.NAME`."""
    study: Study = importlib.import_module(f"reproductions.{name}").STUDY
    return study


def run(study: Study, cache: Path = CACHE, workers: int = WORKERS) -> Result:
    """Run what is not in the cache, and put all of it together."""
    cells = [(variant, seed) for variant in study.variants for seed in study.seeds]
    left = [cell for cell in cells if cached(study, *cell, cache) is None]
    if len(left) < len(cells):
        print(
            f"{study.name}: {len(cells) - len(left)} of {len(cells)} runs were done before", file=sys.stderr
        )
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers, which are started now
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(left))), mp_context=spawn) as pool:
        try:
            jobs = {pool.submit(run_cell, study.name, *cell, cache): cell for cell in left}
            for done, job in enumerate(as_completed(jobs), start=1):
                variant, seed = jobs[job]
                seconds = job.result()
                print(
                    f"{study.name}: {done} of {len(left)}, {variant}, seed {seed}: {seconds:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return collect(study, cache)


def collect(study: Study, cache: Path = CACHE) -> Result:
    """The result of a study all of whose cells are in the cache."""
    cells = {
        variant: [cached(study, variant, seed, cache) for seed in study.seeds] for variant in study.variants
    }
    missing = [variant for variant, runs in cells.items() if None in runs]
    if missing:
        raise SystemExit(f"{study.name}: no runs yet of {', '.join(missing)}")
    whole = {variant: [one for one in runs if one is not None] for variant, runs in cells.items()}
    found = {variant: [one["figures"] for one in runs] for variant, runs in whole.items()}
    first = next(iter(whole.values()))[0]
    return Result(
        study.name,
        study.title,
        study.paper,
        study.work,
        list(study.seeds),
        [["", *study.columns], *study.table(found)],
        study.bars(found),
        list(study.notes),
        sum(one["seconds"] for runs in whole.values() for one in runs),
        first["versions"],
    )


def cached(study: Study, variant: str, seed: int, cache: Path = CACHE) -> dict[str, Any] | None:
    """A finished cell, if the scenario is still the one that it came from."""
    path = _place(study, variant, seed, cache).with_suffix(".json")
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content if content["scenario"] == _hash(study, variant, seed) else None


def run_cell(name: str, variant: str, seed: int, cache: Path = CACHE) -> float:
    """Run one cell and keep its figures; returns its seconds of processor time."""
    study, started = study_named(name), process_time()
    place = _place(study, variant, seed, cache)
    rule = study.variants[variant].rule
    own = rule() if rule else None
    settings = load(study.scenario, [*study.changes(variant, seed), *INLINE])
    known, same = place / "manifest.json", place.with_suffix(".key")
    digest = _hash(study, variant, seed)
    if known.exists() and same.exists() and same.read_text() == digest:
        resume(place, local_rule=own, force=True)
    else:
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        same.write_text(digest)
        fedlab.run(settings, out=place, local_rule=own)
    setup = set_up(settings, local_rule=own)
    manifest = json.loads(known.read_text())
    (metrics,) = json.loads((place / "metrics.json").read_text())["cells"].values()
    (cell,) = setup.cells
    state = load_file(place / "models" / cell.name / "model.safetensors")
    figures: Figures = study.measure(Outcome(setup, metrics, state))
    seconds = process_time() - started
    content = {
        "scenario": digest,
        "figures": figures,
        "seconds": seconds,
        "versions": manifest["versions"],
    }
    place.with_suffix(".json").write_text(json.dumps(content) + "\n")
    shutil.rmtree(place)
    same.unlink()
    return seconds


def _place(study: Study, variant: str, seed: int, cache: Path) -> Path:
    word = "".join(letter if letter.isalnum() else "-" for letter in variant)
    return cache / study.name / f"{word}-s{seed}"


def _hash(study: Study, variant: str, seed: int) -> str:
    """Of what decides a cell: the scenario, what is changed in it, and a rule of the study's own."""
    written = tomllib.loads(study.scenario.read_text()) | {"claim": ""}
    rule = study.variants[variant].rule
    told = [written, study.changes(variant, seed), getattr(rule, "__qualname__", repr(rule))]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
