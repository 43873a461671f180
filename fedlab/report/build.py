"""Run directory in, report.json and report.html out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab import files
from fedlab.errors import DataError
from fedlab.report.complete import require_complete
from fedlab.report.deployment import tiles, with_deployment
from fedlab.report.document import assemble
from fedlab.report.gallery import collect
from fedlab.report.page import render
from fedlab.report.rundir import parse_json, read_run

if TYPE_CHECKING:
    from fedlab.report.notebook import Display

JSON_NAME = "report.json"
HTML_NAME = "report.html"


@dataclass(frozen=True)
class AuditReport:
    """Utility, guarantees, attack scores and the limits of the evidence.

    A notebook shows it as a summary, and each of `gallery`, `frontier` and `curve` as pictures; a terminal
    shows words.

    Attributes:
        directory: the run directory; html: the page; data: what report.json holds.
    """

    directory: Path
    html: Path
    data: dict[str, Any] = field(repr=False)

    @property
    def json(self) -> Path:
        """Where the machine-readable report lies."""
        return self.directory / JSON_NAME

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> AuditReport:
        """The report that `build` has written.

        Raises:
            DataError: there is none, or it is damaged.
        """
        path = Path(directory) / JSON_NAME
        if not path.is_file():
            raise DataError(f"no {JSON_NAME} in {Path(directory)}; build it with `fedlab report {directory}`")
        data = parse_json(path.read_bytes(), path)
        if not isinstance(data, dict) or data.get("schema_version") != 1:
            raise DataError(
                f"{path}: not a report of schema version 1; rebuild it with `fedlab report {directory}`"
            )
        return cls(Path(directory), Path(directory) / HTML_NAME, data)

    def gallery(self, *, defense: str | None = None, attack: str | None = None) -> Display:
        """Private images above what attacks made of them, of all defenses and attacks or of one.

        Raises:
            UnknownName: no sheet of the gallery is about this defense or attack.
            DataError: the run directory is gone or damaged.
        """
        from fedlab.report.notebook import gallery

        return gallery(self, defense=defense, attack=attack)

    def frontier(self) -> Display:
        """What each defense leaks against the accuracy that it costs.

        Raises:
            DataError: the report is damaged.
        """
        from fedlab.report.notebook import frontier

        return frontier(self)

    def curve(self, of: str = "accuracy", *, against: str = "round") -> Display:
        """How training went, a line per trained model.

        Args:
            of: "accuracy", "loss", "train_loss" or "epsilon".
            against: "round"; or "seconds", "uploads" or "bytes" where the report tells of the fleet.

        Raises:
            UnknownName: it is none of these.
            DataError: the run directory is gone or damaged.
        """
        from fedlab.report.notebook import curve

        return curve(self, of, against)

    def _repr_html_(self) -> str:
        from fedlab.report.notebook import overview

        return overview(self)._repr_html_()


def build(
    run_dir: str | os.PathLike[str], *, status: str | None = None, fail_on: Sequence[str] = ()
) -> AuditReport:
    """Read a run directory and write its report.json, then its report.html, each in one step.

    `status` stands in for the manifest's, for a run whose last act is this report. `fail_on` are gates
    that are held against it beside the scenario's own; what came of them stands in `data["gates"]`.

    Raises:
        BadGate: a gate cannot be read, or nothing fits it; nothing is written.
        DataError: the directory is no run, a file is damaged, or one that a finished run has is missing;
            an earlier report is left as it is.
        BackendError: the report cannot be written.
    """
    directory = Path(run_dir)
    run = read_run(directory)
    if status is not None:
        run.manifest["status"] = status
    if run.manifest.get("status") == "finished":
        require_complete(run)
    data = with_deployment(assemble(run, fail_on), run)
    html = render(data, collect(run), tiles(run))
    # allow_nan=False: a number that is none must fail here, not in a reader's parser.
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files.write_text(directory / JSON_NAME, text)
    files.write_text(directory / HTML_NAME, html)
    return AuditReport(directory, directory / HTML_NAME, data)
