"""The benchmark of a GPU: that its code works without one, and what it says where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import cohorts
from benchmarks.gpu.__main__ import main
from benchmarks.harness import ROOT, read
from benchmarks.work import WORKS


def test_the_whole_of_it_on_a_cpu_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--tiny", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "tiny: the figures say that the code works, and nothing else" in told
    rows = {row.what: row for row in read(tmp_path / "gpu.json").rows}
    assert {"clients one by one: client updates", "2 clients stacked: client updates"} <= set(rows)
    assert all(row.value > 0.0 for row in rows.values())
    assert sum("PSNR" in what for what in rows) == 3
    assert json.loads((tmp_path / "gpu.json").read_text())["versions"]["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, which would be measured")
def test_without_a_gpu_it_says_so_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 6
    told = capsys.readouterr()
    assert (
        told.out == "" and told.err.startswith("error: no GPU: torch") and "--device cpu --tiny" in told.err
    )


def test_the_shape_is_the_published_one() -> None:
    """1,000 users x 50 records, cohort 50, one epoch in batches of 10 at 0.1: 5 steps each."""
    work = cohorts.FULL.work
    assert (work.clients, work.records, work.cohort, work.epochs, work.batch) == (1000, 50, 50, 1, 10)
    assert work.learning_rate == 0.1 and work.network is WORKS["cnn"].network
    assert cohorts.FULL.test == 10_000 and (cohorts.ROUNDS, cohorts.EVALUATIONS) == (1500, 150)


def test_it_needs_neither_ray_nor_opacus() -> None:
    """A machine that is lent with a GPU may have little else."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'opacus', 'sklearn', 'matplotlib']));"
        " import benchmarks.gpu.__main__"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
