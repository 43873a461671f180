"""Whatever runs, on Ray it has the bits that it has in this process.

All of it on one Ray and in two pools: to start them takes longer than most of what is compared here. One run
has its own.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab import runtime
from fedlab.clients import ClientConfig
from fedlab.errors import Interrupted
from fedlab.runtime import Executor, InlineExecutor, RayExecutor, quiet_logger
from fedlab.runtime.ray.cluster import RayCluster
from fedlab.scenario import load
from fedlab.tasks import Task
from fedlab.testing.contract import same as alike
from tests.adversaries import test_attacked_runs as attacked
from tests.clients.rules import RULES, same, trained
from tests.experiment import crashes, test_determinism
from tests.experiment import test_client_map as maps
from tests.experiment import test_personal_models as personal
from tests.experiment import test_run as plain
from tests.experiment import test_several_tasks as several
from tests.experiment.test_resume import stop_at
from tests.runtime.apps import check_busy_app, squares_app
from tests.runtime.ray_apps import KillingThird
from tests.runtime.test_flower_strategies import CASES, bare, start
from tests.strategies.asynchronous.test_snapshots import ROUNDS, Scene

pytestmark = pytest.mark.ray

Left = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Executors find it, and leave it running."""
    quiet_logger()
    started = RayCluster()
    yield
    started.close()


def on_ray(workers: int) -> Left:
    return {"executor": "ray", "workers": workers}


def same_bytes(one: Path, other: Path, *names: str) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_with_attacks(tmp_path: Path) -> None:
    """With workers of its own, and its page, which is drawn by whoever directs."""
    for name, more in (("inline", {}), ("ray", {"runtime": on_ray(2)})):
        fedlab.run(plain.scenario(**more), out=tmp_path / name)
    here, there = tmp_path / "inline", tmp_path / "ray"
    for key in ("weights_sha256", "chunk_size"):
        assert plain.load(there / "manifest.json")[key] == plain.load(here / "manifest.json")[key]
    same_bytes(here, there, "metrics.json", "attacks/none-train-s3/linear-layer.json")
    assert (there / "report.html").is_file()


def test_an_asynchronous_server_with_two_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    with closing(RayExecutor(workers=2)) as executor:
        killing = Scene(executor, functools.partial(KillingThird, folder=tmp_path))
        assert alike(killing.path(ROUNDS), Scene().path(ROUNDS))
    assert len(list(tmp_path.iterdir())) == 3, "a worker was killed"


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, RayExecutor]]:
    """Of one worker and of two, which serve one run after the other."""
    with ExitStack() as stack:
        yield {
            workers: stack.enter_context(closing(RayExecutor(num_cpus=0.5, workers=workers)))
            for workers in (1, 2)
        }


@pytest.fixture
def executor(pools: dict[int, RayExecutor]) -> Executor:
    return pools[1]


@pytest.fixture
def shared(pools: dict[int, RayExecutor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on Ray get a pool that is there already, and draw no page: what is compared is data."""
    crashes.quick_plugins(monkeypatch)
    for pool in pools.values():
        monkeypatch.setattr(pool, "close", lambda: None)
    monkeypatch.setattr(runtime, "RayExecutor", lambda cpus, gpus, workers, *rest: pools[workers])


class TestOnOneWorker:
    @pytest.mark.parametrize("name", RULES)
    def test_local_rules(self, small_task: Task, executor: Executor, name: str) -> None:
        """Three rounds of five unequal clients in chunks of two: memory and uplinks travel, too."""
        config, sizes = ClientConfig(batch_size=4, local_epochs=2, learning_rate=0.05), [5, 12, 9, 20, 7]
        inline, ray = (
            trained(RULES[name](), small_task, config, sizes, number=3, executor=where)
            for where in (None, executor)
        )
        assert same(inline, ray)

    @pytest.mark.parametrize("name", ["FedAvg", "FedAdam", "DifferentialPrivacyClientSideAdaptiveClipping"])
    def test_strategies_of_flower(self, name: str, executor: Executor) -> None:
        """A plain strategy, one that keeps state, and one that works with a mod in the clients."""
        make, _, mods = CASES[name]
        found = []
        for where in (InlineExecutor(), executor):
            random.seed(1)
            found.append(start(make(), bare(squares_app(mods), where)).arrays["w"].numpy().tobytes())
        assert found[0] == found[1]

    def test_actions_queries_state_mods_and_lifespan(self, executor: Executor) -> None:
        check_busy_app(executor)

    def test_an_asynchronous_server(self, executor: Executor) -> None:
        assert alike(Scene(executor).path(ROUNDS), Scene().path(ROUNDS))


@pytest.mark.usefixtures("shared")
def test_everything_that_draws_or_rounds_at_once(tmp_path: Path) -> None:
    here = test_determinism.left_by(tmp_path / "inline", executor="inline")
    metrics = json.loads((tmp_path / "inline" / "metrics.json").read_text())["cells"]
    assert all(cell["failures"] > 0 for cell in metrics.values()), "some device fell silent"
    for workers in (1, 2):
        assert test_determinism.left_by(tmp_path / f"ray{workers}", **on_ray(workers)) == here


@pytest.mark.usefixtures("shared")
def test_several_tasks_at_once(tmp_path: Path) -> None:
    fedlab.run(several.SCENARIO, out=tmp_path / "inline")
    whole = crashes.result(tmp_path / "inline")
    same = ["metrics.json", "weights_sha256", "cells", *(n for n in whole if n.startswith("models/"))]
    for workers in (1, 2):
        out = tmp_path / f"ray{workers}"
        fedlab.run(several.SCENARIO | {"runtime": on_ray(workers)}, out=out)
        found = crashes.result(out)
        assert {name: found[name] for name in same} == {name: whole[name] for name in same}


@pytest.mark.usefixtures("shared")
def test_personal_models(tmp_path: Path) -> None:
    found = []
    for executor in ("inline", "ray"):
        for name in ("hyperfl", "pfedhn-pc"):
            out, runtime = tmp_path / f"{name}-{executor}", on_ray(2) | {"executor": executor, "chunk": 2}
            fedlab.run(personal.scenario(personal.RULES[name], runtime=runtime), out=out)
            manifest = json.loads((out / "manifest.json").read_text())
            found.append((personal.metrics(out), [cell["weights_sha256"] for cell in manifest["cells"]]))
    assert found[:2] == found[2:]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        (lambda **more: maps.scenario({"task.model.dropout": [0.0, 0.5]}, **more), ["map.json"]),
        (attacked.mixed, ["metrics.json", "truth/none-train-s3.json"]),
    ],
    ids=["maps", "adversaries"],
)
def test_runs(tmp_path: Path, scenario: Callable[..., Left], names: list[str]) -> None:
    fedlab.run(scenario(), out=tmp_path / "inline")
    fedlab.run(scenario(runtime=on_ray(2)), out=tmp_path / "ray")
    same_bytes(tmp_path / "inline", tmp_path / "ray", *names)


@pytest.mark.usefixtures("shared")
def test_begun_here_and_ended_on_ray_and_the_other_way_round(tmp_path: Path) -> None:
    here, ray = "runtime.executor=inline", "runtime.executor=ray"
    fedlab.run(crashes.quick_scenario(), out=tmp_path / "whole")
    theirs = crashes.result(tmp_path / "whole")
    del theirs["scenario.toml"], theirs["report.json"]  # the report names the scenario, which differs
    for begun, ended in ((here, ray), (ray, here)):
        out = tmp_path / begun
        with pytest.raises(Interrupted):
            settings = load(crashes.quick_scenario(), [begun, "runtime.workers=2"])
            fedlab.run(settings, out=out, progress=stop_at("train dp-sgd", 3))
        fedlab.resume(out, overrides=[ended])
        mine = crashes.result(out)
        del mine["scenario.toml"], mine["report.json"]
        assert mine == theirs
