"""One defense, tried on one app: the app runs again under it, and is read as before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from flwr.clientapp.typing import Mod

from fedlab.apps.contract import Ran
from fedlab.apps.defended.plan import STEPS, Plan, Seen, answers_hold, plan
from fedlab.apps.defended.wishes import Wish
from fedlab.apps.facts import Facts, infer
from fedlab.apps.folder import AppFolder, Value
from fedlab.apps.given import Adapter
from fedlab.apps.recorder import OnStep
from fedlab.apps.schedule import EXAMPLES
from fedlab.audit import Defense
from fedlab.audit.stack import Stack
from fedlab.errors import BackendError, FedlabError, UsageError
from fedlab.runtime.memory import out_of_memory

TRIED, FAILED = "tried", "failed"


class Again(Protocol):
    """Loads the app anew, and runs it."""

    def __call__(self, changes: Mapping[str, Value], mods: Sequence[Mod], on_step: OnStep | None) -> Ran: ...


@dataclass(frozen=True, eq=False)
class Tried:
    """What became of a wish.

    Attributes:
        plan: None if it failed before it had one; seen: None if it failed.
        why: it failed, or "".
        before: the run config without the defense.
    """

    wish: Wish
    plan: Plan | None
    seen: Seen | None
    why: str
    before: Mapping[str, Value]

    def to_dict(self, app: AppFolder) -> dict[str, Any]:
        """For app.json."""
        surgery = self.plan.surgery if self.plan else None
        source = surgery.source() if surgery else None
        return {
            "label": self.wish.label,
            "name": self.wish.name,
            "params": dict(self.wish.params),
            "acts": self.plan.acts if self.plan else "",
            "status": TRIED if self.seen else FAILED,
            "why": self.why,
            "guarantee": _guarantee(self),
            "notes": list(self.plan.notes) if self.plan else [],
            "network": {
                "class": type(surgery.network).__name__,
                "file": _within(app.path, source[0]) if source else None,
                "line": source[1] if source else None,
                "changes": [asdict(one) for one in surgery.changes],
            }
            if surgery
            else None,
            "config": {
                key: [self.before.get(key), value]
                for key, value in (self.plan.config if self.plan else {}).items()
            },
            "where": {"client": _module(app, app.clientapp), "server": _module(app, app.serverapp)},
        }


def tried(
    wish: Wish, first: Seen, again: Again, adapter: Adapter, app: AppFolder, clients: int, seed: int
) -> Tried:
    """Run the app under a defense; what fails then is told, and hurts nothing else.

    Raises:
        BackendError: the machine refuses.
    """
    made: Plan | None = None
    before = first.ran.configuration
    try:
        made = plan(wish, first, clients, app.path, seed)
        mods = (*made.mods, made.actor.mod) if made.actor else made.mods
        with made.active():
            ran = again(made.config, mods, made.actor.on_step if made.actor and made.acts == STEPS else None)
        facts = infer(ran, _same_pixels(adapter, first.facts), seed, answers_hold(first))
        if made.actor and made.actor.refused:
            raise UsageError(made.actor.refused)
        made.check(first.facts, ran, facts)
        if first.facts.view is not None and facts.view is None:
            raise UsageError(f"what it sends cannot be attacked: {facts.obstacles[0]}")
    except BackendError:
        raise
    except Exception as error:  # the app's own code, or a plugin's
        if out_of_memory(error):
            raise
        told = made.actor.refused if made and made.actor else ""
        return Tried(wish, made, None, told or _words(error), before)
    return Tried(wish, made, Seen(wish.label, wish.built(), ran, facts), "", before)


def _same_pixels(adapter: Adapter, facts: Facts) -> Adapter:
    """Scores of both runs are on one scale: black and white are what they were."""
    if facts.view is None:
        return adapter
    ends = {"pixel_low": facts.view.pixels.low, "pixel_high": facts.view.pixels.high}
    return adapter.model_copy(update={key: tuple(end.flatten().tolist()) for key, end in ends.items()})


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, FedlabError) else f"{type(error).__name__}: {error}"


def _guarantee(one: Tried) -> str:
    """What is proved of what ran: nothing, and why not; "" of a defense that claims nothing."""
    if one.seen is None or one.plan is None or not _spends(one.seen.defense):
        return ""
    if one.plan.acts == STEPS:
        why = "batches are the app's own, not Poisson samples of a client's records"
    elif figures := _figures(one.seen.ran):
        why = f"clients also send figures computed from their records ({', '.join(figures)})"
    else:
        why = "nothing proves that the app's own code sends nothing else that it computes from records"
    return f"no formal guarantee: {why}"


def _spends(defense: Defense) -> bool:
    """Whether it adds noise that could be accounted for."""
    return bool(defense.spends) or (isinstance(defense, Stack) and any(map(_spends, defense.layers)))


def _figures(ran: Ran) -> list[str]:
    sent = dict.fromkeys(key for sight in ran.sights for key in sight.metrics)
    return [key for key in sent if key not in EXAMPLES][:5]


def _within(folder: Path, file: str) -> str:
    path = Path(file).resolve()
    return path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else file


def _module(app: AppFolder, reference: str) -> str:
    """The file of a component, relative to the app's folder."""
    place = Path(*reference.partition(":")[0].split("."))
    package = place / "__init__.py"
    return (package if (app.path / package).is_file() else place.with_suffix(".py")).as_posix()
