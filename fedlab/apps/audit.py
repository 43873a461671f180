"""`audit_app`: from a Flower app's folder to a run directory with observations, attacks, scores and a report.

The app's code is somebody else's: it may print, seed, exit or hang. `fedlab audit-app` therefore does all of
this in a process of its own (`fedlab.apps.process`); called from Python, it happens in yours.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.clientapp.typing import Mod

from fedlab import plugins
from fedlab.apps import folder as folders
from fedlab.apps.asked import ATTACKS, SUPERNODES, Asked, plain
from fedlab.apps.contract import Ran
from fedlab.apps.defended.plan import Seen
from fedlab.apps.defended.trial import Tried, tried
from fedlab.apps.defended.wishes import AS_IT_IS
from fedlab.apps.facts import Facts, infer
from fedlab.apps.folder import AppFolder, Value
from fedlab.apps.given import Adapter, given
from fedlab.apps.loading import Apps, forget, load
from fedlab.apps.recorder import OnStep
from fedlab.apps.running import planned, run
from fedlab.apps.same import code_of
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


@dataclass(frozen=True, eq=False)
class Audit:
    """An app, imported, and what is asked of it."""

    app: AppFolder
    apps: Apps
    adapter: Adapter
    asked: Asked
    changes: Mapping[str, Value]
    rounds: int | None

    def to_dict(self) -> dict[str, Any]:
        """The arguments of `opened`, for the manifest; and what the app's code is."""
        return {
            "path": str(self.app.path),
            "run_config": dict(self.changes),
            "supernodes": self.asked.clients,
            "rounds": self.rounds,
            "observe": list(self.asked.observe),
            "attacks": list(self.asked.attacks),
            **({"tries": list(self.asked.tries)} if self.asked.tries else {}),
            "seed": self.asked.seed,
            "include_samples": self.asked.include_samples,
            "code": code_of(self.app.path),
        }


def opened(
    path: str | Path,
    *,
    run_config: str | Mapping[str, Value] = "",
    supernodes: int | None = None,
    rounds: int | None = None,
    observe: Collection[int] = (1,),
    attacks: Sequence[str] = (),
    tries: Sequence[str] = (),
    seed: int = 0,
    include_samples: bool = False,
    progress: Progress,
) -> Audit:
    """Import an app and check what is asked of it; arguments as for `audit_app`. Nothing is written.

    Raises:
        UsageError: as `audit_app`.
    """
    app = folders.read(path)
    changes = folders.overrides(run_config) if isinstance(run_config, str) else dict(run_config)
    asked = Asked(
        name=plain(app.name),
        clients=supernodes if supernodes is not None else app.supernodes or SUPERNODES,
        observe=tuple(sorted(set(observe))),
        attacks=tuple(attacks) or ATTACKS,
        include_samples=include_samples,
        seed=seed,
        tries=tuple(tries),
    )
    asked.check()
    planned(app, changes, rounds, asked.observe)
    progress.message(f"importing {app.name}")
    return Audit(app, load(app, seed=seed), given(app), asked, changes, rounds)


def proceed(directory: RunDirectory, audit: Audit, progress: Progress) -> AuditReport:
    """Run the app, attack what was seen of it, and report; an attack that was done before is not done again.

    Raises:
        AppFailed: the app failed by itself.
    """
    with _ending(directory) as stop, stop.installed(), single_thread():
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


def witnessed(audit: Audit, progress: Progress) -> tuple[Ran, Facts]:
    """Run the app, and read it from what it did.

    Raises:
        MissingFacts: the app's author has to say something.
        AppFailed: the app failed by itself.
    """
    ran = run(
        audit.apps,
        audit.app,
        run_config=audit.changes,
        supernodes=audit.asked.clients,
        rounds=audit.rounds,
        observe=audit.asked.observe,
        seed=audit.asked.seed,
        progress=progress,
    )
    facts = infer(ran, audit.adapter, audit.asked.seed)
    for obstacle in facts.obstacles:
        progress.message(f"not attacked: {obstacle}")
    for doubt in facts.doubts:
        progress.message(f"in doubt: {doubt}")
    return ran, facts


def tries_of(audit: Audit, ran: Ran, facts: Facts, progress: Progress) -> Iterator[Tried]:
    """Run the app under each defense that is to be tried, loaded anew each time; one that fails says why.

    Args:
        ran, facts: of the app as it is.
    """
    apps, first = audit.apps, Seen(AS_IT_IS, plugins.build("defenses", {"name": AS_IT_IS}), ran, facts)

    def again(changes: Mapping[str, Value], mods: Sequence[Mod], on_step: OnStep | None) -> Ran:
        nonlocal apps
        # What an app keeps in its modules is not to leak from run to run, whoever imported them.
        forget(replace(apps, before=_installed()), audit.app)
        apps = load(audit.app, seed=audit.asked.seed)
        return run(
            apps,
            audit.app,
            run_config={**audit.changes, **changes},
            supernodes=audit.asked.clients,
            rounds=audit.rounds,
            observe=audit.asked.observe,
            seed=audit.asked.seed,
            progress=progress,
            mods=mods,
            on_step=on_step,
        )

    for wish in audit.asked.wishes():
        progress.message(f"trying {wish.label}")
        one = tried(wish, first, again, audit.adapter, audit.app, audit.asked.clients, audit.asked.seed)
        if one.why:
            progress.message(f"not tried: {wish.label}: {one.why}")
        yield one


def _installed() -> frozenset[str]:
    """Names of modules that are installed: an environment in the app's folder is not the app's own code."""
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    return frozenset(name for name, file in files.items() if "site-packages" in file)


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
