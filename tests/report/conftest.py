"""A finished run to report on, built once, and a fresh copy for each test that alters it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_run import write_run

from fedlab.report import AuditReport, build


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """Read only."""
    return build(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def run_dir(report: AuditReport, tmp_path: Path) -> Path:
    """A run directory to alter."""
    return Path(shutil.copytree(report.directory, tmp_path / "run"))
