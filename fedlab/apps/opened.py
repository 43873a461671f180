"""An app, opened: imported and asked about, and run, as it is and under each defense that is to be tried."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from fedlab.progress import Progress


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
        UsageError: as `fedlab.apps.audit_app`.
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
    for doubt in () if facts.obstacles else facts.doubts:  # a doubt is about attacks
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
