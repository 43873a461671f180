"""The scripts that take runs to a cluster: with stand-ins for SLURM's commands, on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from ray.autoscaler._private.util import fillout_defaults, validate_config

from fedlab.experiment.directory import RunDirectory
from fedlab.sweeps import resume

SCRIPTS = Path(__file__).parents[2] / "scripts" / "cluster"
SCENARIO = """
schema = 1
[task]
dataset = "digits"
model = { name = "mlp", width = 16 }
[clients]
count = 6
[strategy]
rounds = 2
cohort = 6
[runtime]
chunk = 2
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
printf '%s\\n' ${3//,/ }
"""
RECORDED = """#!/bin/bash
echo "$(basename "$0") $*" >> "$RECORD"
"""


def commands(folder: Path, **scripts: str) -> Path:
    """A folder of commands."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def batch(script: str, *words: str, path: list[Path], **variables: str) -> subprocess.CompletedProcess[str]:
    """What SLURM would do on the first node; the file cannot be a pipe, which Ray's processes would hold."""
    places = [*map(str, path), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def cells() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cells", SCRIPTS / "cells.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_of_ray_up_is_one_that_ray_takes() -> None:
    config = yaml.safe_load((SCRIPTS / "ray-up.yaml").read_text())
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])
    validate_config(fillout_defaults(config))


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm-cells.sbatch"])
def test_scripts_are_sound_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", str(SCRIPTS / script)], check=True)


def test_a_job_without_a_command_says_how_to_submit_it() -> None:
    ended = batch("slurm.sbatch", path=[])
    assert ended.returncode == 2 and ended.stderr.startswith("usage: sbatch")


@pytest.mark.cluster
def test_a_cluster_that_does_not_come_up_is_exit_code_six(tmp_path: Path) -> None:
    """`ray` and `python` only note down what they are asked: nobody is at the address."""
    noted = tmp_path / "noted"
    path = commands(
        tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, ray=RECORDED, fedlab=RECORDED, sleep="#!/bin/bash\n"
    )
    ended = batch(
        "slurm.sbatch",
        *("run", "tiny.toml"),
        path=[path],
        RECORD=str(noted),
        SLURM_JOB_ID="12345",
        SLURM_JOB_NODELIST="n1,n2",
        SLURM_CPUS_PER_TASK="3",
        SLURM_GPUS_ON_NODE="2",
        FEDLAB_TRIES="1",
    )
    assert ended.returncode == 6 and "error: no Ray cluster of 2 nodes at" in ended.stderr
    told = noted.read_text()
    assert "ray start --head" in told and "--num-cpus=3 --num-gpus=2" in told and ":22345" in told
    assert "fedlab" not in told


def test_cells_of_an_array_end_as_a_sweep_does(
    cells: ModuleType, tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cells, one by one; resuming the sweep finds nothing left, and writes the report."""
    place = str(tmp_path / "sweep")
    inline = ["--set", "runtime.executor=inline", "--sweep", "seed=1,2"]
    assert cells.main(["plan", place, str(scenario), *inline]) == 0
    assert capsys.readouterr().out.strip() == "2"
    for number in ("0", "1"):
        with pytest.raises(SystemExit) as ended:
            cells.main(["run", place, number])
        assert ended.value.code == 0
    capsys.readouterr()
    assert cells.main(["run", place, "1"]) == 0
    assert "cell 1 is finished" in capsys.readouterr().out
    assert cells.main(["run", place, "2"]) == 2
    assert "expected a number from 0 to 1" in capsys.readouterr().err
    assert [cell["status"] for cell in resume(place).data["cells"]] == ["finished", "finished"]
    assert not (tmp_path / "sweep" / "events.jsonl").exists(), "no cell ran again"


@pytest.mark.ray
@pytest.mark.cluster
def test_a_job_of_two_nodes_runs_and_leaves_nothing(tmp_path: Path, scenario: Path) -> None:
    path = commands(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n1,n2", "SLURM_CPUS_PER_TASK": "1"}
    out = tmp_path / "run"
    ended = batch("slurm.sbatch", "run", str(scenario), "--out", str(out), path=[path], **slurm)
    assert ended.returncode == 0, ended.stderr
    assert RunDirectory.open(out).manifest["status"] == "finished"
    runtime = RunDirectory.open(out).manifest["scenario"]["runtime"]
    assert runtime["executor"] == "ray" and runtime["address"].endswith(":24711")


@pytest.mark.ray
@pytest.mark.cluster
def test_a_sweep_on_a_cluster_has_the_cells_of_one_without(tmp_path: Path, scenario: Path) -> None:
    """Two cells whose processes join the cluster, of which one takes all: one after the other."""
    path = commands(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL)
    slurm = {"SLURM_JOB_ID": "4712", "SLURM_JOB_NODELIST": "n1,n2", "SLURM_CPUS_PER_TASK": "1"}
    axes = ["--sweep", "seed=1,2", "--quiet"]
    out = tmp_path / "sweep"
    ended = batch("slurm.sbatch", "sweep", str(scenario), "--out", str(out), *axes, path=[path], **slurm)
    assert ended.returncode == 0, ended.stderr
    alone = tmp_path / "alone"
    fedlab = str(Path(sys.executable).with_name("fedlab"))
    words = [fedlab, "sweep", str(scenario), "--out", str(alone), *axes]
    subprocess.run([*words, "--set", "runtime.executor=inline"], check=True, capture_output=True)

    def weights(of: Path) -> list[str]:
        manifests = sorted((of / "cells").glob("*/manifest.json"))
        return [json.loads(one.read_text())["cells"][0]["weights_sha256"] for one in manifests]

    assert weights(out) == weights(alone) and len(weights(out)) == 2
