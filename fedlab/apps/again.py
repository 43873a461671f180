"""`fedlab attack` and `fedlab resume` on the run directory of an audited app: the app runs again.

A run directory holds no records, and without them no answer could be scored. So the app is run once more as
the manifest says that it was run. If its clients send the same updates, bit for bit, their records are those
of the audit, and what is found is added to it. If they do not, nothing is added.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from fedlab import plugins
from fedlab.apps.audit import Audit, opened, proceed, tries_of, witnessed
from fedlab.apps.defended.plan import Seen
from fedlab.apps.defended.wishes import AS_IT_IS
from fedlab.apps.same import changed, difference, forget_all, kept
from fedlab.apps.trying import NAME, Prepared, prepared
from fedlab.apps.trying import under as cell_of
from fedlab.errors import DataError, Interrupted, UsageError
from fedlab.experiment import resuming
from fedlab.experiment.again import DEFAULT, additions, check_finished, check_truth, telling, wished
from fedlab.experiment.asked import EACH
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop
from fedlab.experiment.provenance import machine, versions
from fedlab.experiment.trials import Trial, attack_cells, missing, trials_of
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport, build
from fedlab.runtime import InlineExecutor, single_thread
from fedlab.scenario import Scenario


def attack_app(
    path: Path | str,
    *,
    attacks: Sequence[str] = (),
    threats: Sequence[str] = (),
    progress: Progress | None = None,
) -> AuditReport:
    """Run an audited app again, and attack the updates that it sent; adds to the report of the audit.

    Args:
        path: the run directory of a finished audit.
        attacks, threats: as for `fedlab.attack`.

    Raises:
        UsageError: the audit is not finished, its app cannot be attacked, or a name is unknown.
        DataError: the app sent other updates than those of the audit; tells what is known to have changed.
        AppFailed: the app failed by itself, this time.
        Interrupted: the user stopped it; the same call goes on.
    """
    listener = progress or Quiet()
    with RunDirectory.open(Path(path)).locked():
        directory = RunDirectory.open(Path(path))
        asked = asked_of(directory)
        check_finished(directory)
        _check_attackable(directory)
        directory.repair()
        began = resuming.same_scenario(directory, ())
        settings, chosen, under = wished(directory, began, attacks or (DEFAULT,), threats)
        if not _open(directory, chosen, under):
            listener.message(f"{directory.path}: all of that was done before; nothing new")
            return build(directory.path)
        stop = Stop()
        try:
            with stop.installed(), single_thread():
                audit = opened(**asked, progress=listener)
                again = _cells(directory, settings, audit, attacks, listener)
                listener.message("the same app, the same updates")
                _attack(directory, began, settings, again, chosen, under, EACH in threats, listener)
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped by the user; the answers so far are kept. To go on, give the same command again"
            ) from None
        return build(directory.path)


def resume_app(path: Path | str, *, force: bool = False, progress: Progress | None = None) -> AuditReport:
    """Go on with an audit of an app that was interrupted, failed or killed.

    The app runs from its start, as it is now. Answers about the updates that it sends are kept, if there are
    any; if it sends others, or its files were changed (what its author says of pixels, scores rest on), it is
    audited anew.

    Args:
        force: keep answers of other versions of the software too.

    Raises:
        UsageError: no such directory, or another process works on it.
        BackendError: other versions of the software, without `force`.
        AppFailed, MissingFacts: as `audit_app`.
    """
    listener = progress or Quiet()
    directory = RunDirectory.open(Path(path))
    asked = asked_of(directory)
    if directory.manifest["status"] == "finished":
        listener.message(f"{directory.path} is finished; nothing is left to do")
        return AuditReport.load(directory.path)
    with directory.locked():
        directory = RunDirectory.open(directory.path)  # as its last owner left it
        directory.repair()
        if (directory.path / "attacks").exists():
            resuming.same_versions(directory, force=force)
        audit = opened(**asked, progress=listener)
        if directory.manifest["asked"]["code"] != audit.to_dict()["code"] and forget_all(directory):
            listener.message("the app's files changed; what was found of it as it was is left behind")
        directory.event("resumed", app=audit.app.name, versions=versions())
        directory.update_manifest(
            status="running",
            error=None,
            finished=None,
            versions=versions(),
            machine=machine(),
            asked=audit.to_dict(),
        )
        return proceed(directory, audit, listener)


def asked_of(directory: RunDirectory) -> dict[str, Any]:
    """The arguments with which `opened` imports the app of a run directory again.

    Raises:
        UsageError: it is no audit of an app, or an earlier version wrote it.
    """
    resuming.no_recording(directory)
    asked = directory.manifest.get("asked")
    if isinstance(asked, dict):
        return {key: value for key, value in asked.items() if key != "code"}
    if directory.has(NAME):
        raise UsageError(
            f"{directory.path}: an earlier version wrote this audit and did not keep what was asked of it;"
            f" expected that in manifest.json. Audit the app again: {_command(directory, ())}"
        )
    raise UsageError(
        f"{directory.path} is no audit of a Flower app; expected one that fedlab audit-app wrote"
    )


def _check_attackable(directory: RunDirectory) -> None:
    obstacles = directory.read_json(NAME).get("obstacles") or []
    if obstacles:
        raise UsageError(f"{directory.path}: this app cannot be attacked: {'; '.join(obstacles)}")


def _attackable(directory: RunDirectory) -> list[str]:
    """Names of the cells whose network is known."""
    return [str(one["name"]) for one in directory.manifest["cells"] if "weights_sha256" in one]


def _open(directory: RunDirectory, chosen: Sequence[str], under: Sequence[str]) -> bool:
    """Whether an answer is missing, as far as the run directory tells."""
    stems = [label + (f"@{threat}" if threat else "") for label in chosen for threat in under]
    cells = _attackable(directory)
    return any(not directory.has(f"attacks/{cell}/{stem}.json") for cell in cells for stem in stems)


def _cells(
    directory: RunDirectory, settings: Scenario, audit: Audit, attacks: Sequence[str], progress: Progress
) -> list[Prepared]:
    """The cells of the run that can be attacked, with the records behind their observations.

    Raises:
        DataError: the updates are not those of the run.
    """

    def differs(how: str) -> NoReturn:
        _differs(directory, audit, how, attacks)

    ran, facts = witnessed(audit, progress)
    as_it_is = Seen(AS_IT_IS, plugins.build("defenses", {"name": AS_IT_IS}), ran, facts)
    tries = (one.seen for one in tries_of(audit, ran, facts, progress))
    left, found = _attackable(directory), []
    for one in chain([as_it_is], tries):  # no try runs if the app as it is differs
        if one is None or one.facts.view is None:
            continue
        written = cell_of(settings, one)
        if written.cell.name not in left:
            continue
        left.remove(written.cell.name)
        again = prepared(written, one.ran, one.facts, one.facts.view)
        apart = difference(kept(directory, written.cell), again.seen)
        if apart is not None:
            differs(f"of {written.cell.name}, {apart}")
        check_truth(directory, again.trained, settings)
        found.append(again)
    if left:
        differs(f"it cannot be attacked any more as {', '.join(left)}")
    return found


def _differs(directory: RunDirectory, audit: Audit, how: str, attacks: Sequence[str]) -> NoReturn:
    known = changed(directory.manifest, audit.app.path) or [
        "its code, the versions and the machine are those of the audit, so its data changed, or it draws from"
        " something that no seed reaches, such as the clock"
    ]
    lines = "".join(f"\n  {one}" for one in known)
    raise DataError(
        f"{directory.path}: run again, the app did not send what this audit saw: {how}.{lines}\n"
        "So nothing was attacked, and the audit is as it was. To attack the app as it is now, audit it"
        f" again:\n  {_command(directory, attacks)}"
    )


def _command(directory: RunDirectory, attacks: Sequence[str]) -> str:
    """What audits the app again, with these attacks too."""
    manifest = directory.manifest
    path = shlex.quote(str(manifest.get("asked", {}).get("path", "APP")))
    words = [shlex.quote(word) for one in attacks for word in ("--attack", one)]
    return " ".join([manifest.get("command") or f"fedlab audit-app {path}", *words])


def _attack(
    directory: RunDirectory,
    began: Scenario,
    settings: Scenario,
    cells: Sequence[Prepared],
    chosen: Sequence[str],
    under: Sequence[str],
    each: bool,
    listener: Progress,
) -> None:
    """The attacks that are left; a run that is finished stays so, whatever happens."""
    left: list[tuple[Prepared, list[Trial]]] = []
    for one in cells:
        trials = [trial for trial in trials_of(one.setup) if not trial.added]
        trials = [trial for trial in trials if trial.label in chosen and trial.under in under]
        if each:
            trials = telling(trials, one.setup, [one.trained], listener)
        left.append((one, trials))
    tried = [trial for _, trials in left for trial in trials]
    if not any(missing(directory, one.setup, [one.trained], trials) for one, trials in left):
        return
    directory.update_manifest(again=additions(began, settings, tried))
    for one, trials in left:
        attack_cells(directory, one.setup, [one.trained], trials, InlineExecutor(), listener)
    directory.event("attacked again", attacks=list(chosen), threats=list(filter(None, under)))
