"""`audit_app`: from a Flower app's folder to a run directory with observations, attacks, scores and a report.

The app's code is somebody else's: it may print, seed, exit or hang. `fedlab audit-app` therefore does all of
this in a process of its own (`fedlab.apps.process`); called from Python, it happens in yours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from fedlab.apps import folder as folders
from fedlab.apps.asked import ATTACKS, SUPERNODES, Asked, plain
from fedlab.apps.facts import infer
from fedlab.apps.folder import AppFolder, Value
from fedlab.apps.given import given
from fedlab.apps.loading import load
from fedlab.apps.running import run
from fedlab.apps.trying import attacked, described, unattacked
from fedlab.errors import BackendError, Interrupted
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
        out: a new or empty directory; `runs/<name>-<n>` in `home` unless given.
        home: the working directory unless given.
        include_samples: keep records and reconstructions as images, and show them.

    Raises:
        UsageError: no app, or one that cannot work (`BadApp`); what cannot be found (`MissingFacts`).
        AppFailed: the app failed by itself; has its own traceback.
    """
    home, listener = home or Path.cwd(), progress or Quiet()
    app = folders.read(path)
    changes = folders.overrides(run_config) if isinstance(run_config, str) else dict(run_config)
    asked = Asked(
        name=plain(app.name),
        clients=supernodes if supernodes is not None else app.supernodes or SUPERNODES,
        observe=tuple(sorted(set(observe))),
        attacks=tuple(attacks) or ATTACKS,
        include_samples=include_samples,
        seed=seed,
    )
    asked.check()
    app.configured(changes)
    listener.message(f"importing {app.name}")
    apps = load(app, seed=seed)
    adapter = given(app)
    with contextlib.chdir(home):
        directory = RunDirectory.create(Path(out) if out is not None else None, asked.name)
    with directory.locked(), _ending(directory) as stop, stop.installed(), single_thread():
        _begin(directory, app, asked, command)
        ran = run(
            apps,
            app,
            run_config=changes,
            supernodes=asked.clients,
            rounds=rounds,
            observe=asked.observe,
            seed=seed,
            progress=listener,
        )
        facts = infer(ran, adapter, seed)
        for obstacle in facts.obstacles:
            listener.message(f"not attacked: {obstacle}")
        for doubt in facts.doubts:
            listener.message(f"in doubt: {doubt}")
        written = described(directory, app, asked, ran, facts)
        if facts.view is None:
            unattacked(directory, written, ran, facts)
        else:
            attacked(directory, written, ran, facts, facts.view, listener)
        report = build(directory.path, status="finished")
        directory.event("finished")
        directory.update_manifest(status="finished", finished=now())
    return report


def _begin(directory: RunDirectory, app: AppFolder, asked: Asked, command: str) -> None:
    directory.update_manifest(
        name=asked.name,
        claim=f"What the Flower app {app.name} tells its server about its clients' records, as it is.",
        objects={"strategy": f"that of {app.name}"},
        versions=versions(),
        machine=machine(),
        seeds=[asked.seed],
        command=command,
        started=now(),
        cells=[],
        weights_sha256={},
    )
    directory.event("started", app=app.name)


@contextlib.contextmanager
def _ending(directory: RunDirectory) -> Iterator[Stop]:
    """Let the manifest say how it ended; an app is run again from its start, and not resumed.

    Raises:
        Interrupted: in place of KeyboardInterrupt.
    """
    try:
        yield Stop()
    except KeyboardInterrupt:
        directory.update_manifest(status="interrupted", finished=now())
        directory.event("interrupted")
        raise Interrupted(f"stopped by the user; {directory.path} holds what was done until then") from None
    except BaseException as error:
        with contextlib.suppress(BackendError):  # the disk that failed the run cannot take the news either
            directory.update_manifest(status="failed", error=str(error)[:4000], finished=now())
            directory.event("failed", kind=type(error).__name__)
        raise
