"""`audit_app`: from a Flower app's folder to a run directory with observations, attacks, scores and a report.

The app's code is somebody else's: it may print, seed, exit or hang. `fedlab audit-app` therefore does all of
this in a process of its own (`fedlab.apps.process`); called from Python, it happens in yours.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlab.apps.contract import Ran
from fedlab.apps.defended.trial import Tried
from fedlab.apps.facts import Facts
from fedlab.apps.folder import Value
from fedlab.apps.loading import forget
from fedlab.apps.opened import Audit as Audit
from fedlab.apps.opened import opened as opened
from fedlab.apps.opened import tries_of as tries_of
from fedlab.apps.opened import witnessed as witnessed
from fedlab.apps.trying import Written, attacked, described, unattacked, under
from fedlab.errors import BackendError, Interrupted, UsageError
from fedlab.experiment.cells import Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop, now
from fedlab.experiment.provenance import machine, versions
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport, build
from fedlab.runtime import single_thread


def audit_app(
    path: str | Path,
    *,
    run_config: str | Mapping[str, Value] = "",
    supernodes: int | None = None,
    rounds: int | None = None,
    observe: Collection[int] = (1,),
    attacks: Sequence[str] = (),
    tries: Sequence[str] = (),
    out: Path | str | None = None,
    home: Path | None = None,
    seed: int = 0,
    include_samples: bool = False,
    progress: Progress | None = None,
    command: str = "",
) -> AuditReport:
    """Run a Flower app, unmodified, and audit what a curious server would have seen.

    Args:
        path: the folder of the app, with its pyproject.toml.
        run_config: changes to its run config, as `flwr run --run-config` takes them, or by key.
        supernodes: clients; as many as the app's default federation says unless given, or 10.
        rounds: instead of the run config's own number.
        observe: rounds whose updates are attacked, from 1.
        attacks: `"NAME"` or `"NAME:key=value,..."`; `asked.ATTACKS` unless given.
        tries: defenses to run the app under as well, as `--try` takes them: `"dp-sgd,dropout,no-bias"`.
        out: a new or empty directory; `runs/<name>-<n>` in `home` unless given.
        home: the working directory unless given.
        include_samples: keep records and reconstructions as images, and show them.

    Raises:
        UsageError: no app, or one that cannot work (`BadApp`); what cannot be found (`MissingFacts`).
        AppFailed: the app failed by itself; has its own traceback.
    """
    home, listener = home or Path.cwd(), progress or Quiet()
    audit = opened(
        path,
        run_config=run_config,
        supernodes=supernodes,
        rounds=rounds,
        observe=observe,
        attacks=attacks,
        tries=tries,
        seed=seed,
        include_samples=include_samples,
        progress=listener,
    )
    with contextlib.chdir(home):
        there = out is not None and Path(out).exists()
        directory = RunDirectory.create(Path(out) if out is not None else None, audit.asked.name)
    with directory.locked():
        begin(directory, audit, command)
        try:
            return proceed(directory, audit, listener)
        except UsageError:  # a mistake that showed late; nothing was found that is worth a directory
            if not (directory.path / "observations").exists():
                _discard(directory.path, itself=not there)
            raise


def _discard(path: Path, *, itself: bool) -> None:
    """Remove what is in a run directory, and the directory `itself` where it was made for the run."""
    shutil.rmtree(path, ignore_errors=True)
    if not itself:
        path.mkdir(exist_ok=True)


def proceed(directory: RunDirectory, audit: Audit, progress: Progress) -> AuditReport:
    """Run the app, attack what was seen of it, and report; an attack that was done before is not done again.

    Raises:
        AppFailed: the app failed by itself.
    """
    with _ending(directory) as stop, stop.installed(), single_thread(), contextlib.ExitStack() as undo:
        undo.callback(forget, audit.apps, audit.app)  # another app may call its modules the same
        directory.update_manifest(cells=[], weights_sha256={})
        ran, facts = witnessed(audit, progress)
        walk = _Walk(directory, progress)
        walk.look(ran, facts, described(directory, audit.app, audit.asked, ran, facts))
        for one in tries_of(audit, ran, facts, progress):
            walk.tried.append(one)
            written = described(directory, audit.app, audit.asked, ran, facts, walk.tried)
            if one.seen is not None:
                walk.look(one.seen.ran, one.seen.facts, under(written.scenario, one.seen))
        report = build(directory.path, status="finished")
        directory.event("finished")
        directory.update_manifest(status="finished", finished=now())
    return report


@dataclass(eq=False)
class _Walk:
    """What was tried so far, and which cells can be attacked."""

    directory: RunDirectory
    progress: Progress
    tried: list[Tried] = field(default_factory=list)
    cells: list[Trained] = field(default_factory=list)

    def look(self, ran: Ran, facts: Facts, written: Written) -> None:
        """Keep a cell's updates, and attack them where that can be done."""
        if facts.view is None or not written.scenario.attacks:
            unattacked(self.directory, written, ran, facts)
        else:
            self.cells.append(
                attacked(self.directory, written, ran, facts, facts.view, self.progress, self.cells)
            )


def begin(directory: RunDirectory, audit: Audit, command: str) -> None:
    """Write down what is asked, before the app runs."""
    app, asked = audit.app, audit.asked
    labels = ", ".join(one.label for one in asked.wishes())
    how = f"as it is and under {labels}" if labels else "as it is"
    directory.update_manifest(
        name=asked.name,
        claim=f"What the Flower app {app.name} tells its server about its clients' records, {how}.",
        objects={"strategy": f"that of {app.name}"},
        versions=versions(),
        machine=machine(),
        seeds=[asked.seed],
        asked=audit.to_dict(),
        command=command,
        started=now(),
        cells=[],
        weights_sha256={},
    )
    directory.event("started", app=app.name)


@contextlib.contextmanager
def _ending(directory: RunDirectory) -> Iterator[Stop]:
    """Let the manifest say how it ended.

    Raises:
        Interrupted: in place of KeyboardInterrupt.
    """
    try:
        yield Stop()
    except KeyboardInterrupt:
        directory.update_manifest(status="interrupted", finished=now())
        directory.event("interrupted")
        raise Interrupted(
            f"stopped by the user. To run the app again and go on: fedlab resume {directory.path}"
        ) from None
    except BaseException as error:
        with contextlib.suppress(BackendError):  # the disk that failed the run cannot take the news either
            directory.update_manifest(status="failed", error=str(error)[:4000], finished=now())
            directory.event("failed", kind=type(error).__name__)
        raise
