"""Whether a finished run still has what its report needs.

Results that are gone would make a report quieter, not louder: an attack that is missing looks like one that
was never tried. A run that stopped early may lack them, and its report says so on top; one that finished may
not. Pixels (`*.safetensors`) may be removed at any time: they are private, and no score rests on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedlab.errors import DataError
from fedlab.report.rundir import Run, labels, malformed


def require_complete(run: Run) -> None:
    """Look for every result of every cell.

    Raises:
        DataError: one is missing; names the first.
    """
    for path in _needed(run):
        if not path.is_file():
            raise _incomplete(run, f"{path.relative_to(run.directory)} is missing")
    with malformed("metrics.json"):
        absent = [cell["name"] for cell in run.cells if cell["name"] not in run.metrics]
    if absent:
        raise _incomplete(run, f"metrics.json lacks the cell {absent[0]}")


def _needed(run: Run) -> Iterator[Path]:
    yield run.file("scenario.toml")
    yield run.file("metrics.json")
    if run.scenario.get("map"):
        yield run.file("map.json")
    paired = run.manifest.get("paired")
    for cell in run.cells:
        for stem in paired.get(cell["name"], []) if isinstance(paired, dict) else []:
            yield run.file("attacks", cell["name"], f"{stem}.json")
        yield run.file("truth", f"{cell['name']}.json")
        for label in labels(run.scenario.get("attacks")):
            yield run.file("attacks", cell["name"], f"{label}.json")
            for threat in labels(run.scenario.get("threats")):
                yield run.file("attacks", cell["name"], f"{label}@{threat}.json")


def _incomplete(run: Run, what: str) -> DataError:
    return DataError(
        f"{run.directory}: {what}, but the manifest says that this run finished; restore it from a copy, or"
        " run again. A report that was built before is left as it is"
    )
