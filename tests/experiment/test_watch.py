"""The watcher: what failed, what was turned away, and what both cost in privacy."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedlab.clients import ClientConfig, LocalRule
from fedlab.experiment.planned import (
    NOT_POISSON,
    OTHER_NOISE,
    OTHER_RATE,
    OTHER_STEPS,
    SENSELESS,
    SILENT,
    Plan,
)
from fedlab.experiment.watch import LONGEST_REASON, Watcher, shortened
from fedlab.privacy import Event, Ledger
from fedlab.runtime import SimulationGrid
from fedlab.runtime.guard import REJECTED
from fedlab.tasks import FunctionalModel
from tests.runtime.apps import adding_app

NOISE = {"dp-noise-multiplier": 1.5, "dp-sample-rate": 0.25, "dp-steps": 4}


class Scene:
    """A watcher that observes nothing, and what it said at once."""

    def __init__(self) -> None:
        SimulationGrid(adding_app(), 1)  # so that messages can be made
        self.said: list[tuple[Any, ...]] = []
        model: Any = FunctionalModel.__new__(FunctionalModel)
        self.ledger = Ledger()
        self.watcher = Watcher(model, ClientConfig(), [], self._say, self.ledger, self._say, self._say)

    def _say(self, *what: Any) -> None:
        self.said.append(what)

    def asked(self, round: int, client: int, kind: str = "train") -> Message:
        content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"server-round": round})})
        return Message(content, dst_node_id=client + 2, message_type=kind)


def answer(message: Message, **metrics: Any) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1} | metrics)}), reply_to=message)


def test_failures_and_rejections_are_counted_apart_and_told_at_once() -> None:
    scene = Scene()
    watcher = scene.watcher
    message = scene.asked(3, 1)
    watcher(message, Message(Error(2, "it broke"), reply_to=message))
    watcher.reject(message, answer(message), "norm", "too long")
    watcher(message, Message(Error(REJECTED, "norm: too long"), reply_to=message))
    watcher.reject(None, answer(scene.asked(9, 2)), "late", "is no longer waited for")
    assert watcher.failures == [(3, 1, "it broke")]
    assert watcher.rejections == [(3, 1, "norm", "too long"), (3, 2, "late", "is no longer waited for")]
    assert scene.said == [*watcher.failures, *watcher.rejections]
    assert watcher.rejected_by_kind == {"late": 1, "norm": 1}


def test_counts_survive_a_checkpoint() -> None:
    scene, other = Scene(), Scene()
    message = scene.asked(1, 0)
    scene.watcher(message, Message(Error(2, "it broke"), reply_to=message))
    scene.watcher.reject(message, answer(message), "norm", "too long")
    scene.watcher(scene.asked(1, 1), answer(scene.asked(1, 1)))
    scene.watcher.missing([scene.asked(2, 1), scene.asked(2, 2)], "late")
    scene.watcher.missing([scene.asked(3, 0)], "stopped")
    snapshot = scene.watcher.snapshot()
    snapshot.values = json.loads(json.dumps(snapshot.values))
    other.watcher.restore(snapshot)
    assert other.watcher.failures == scene.watcher.failures
    assert other.watcher.rejections == scene.watcher.rejections
    assert (
        other.watcher.lost(2)
        == scene.watcher.lost(2)
        == {"failed": 0, "rejected": 0, "late": 2, "stopped": 0}
    )
    assert other.watcher.asked == 5 and other.watcher.never_contributed == [0, 2]
    assert other.watcher.snapshot() == scene.watcher.snapshot()


def test_who_is_not_waited_for_is_counted_and_told() -> None:
    """Of clients 0 to 3, only 1 is ever heard: 0 fails, 2 is late twice, 3 is told to stop."""
    scene = Scene()
    watcher = scene.watcher
    for round in (1, 2):
        message = scene.asked(round, 1)
        watcher(message, answer(message))
        watcher.missing([scene.asked(round, 2)], "late")
    message = scene.asked(2, 0)
    watcher(message, Message(Error(2, "it broke"), reply_to=message))
    watcher.missing([scene.asked(3, 3), scene.asked(3, 1)], "stopped")
    assert scene.said == [(1, "late", [2]), (2, "late", [2]), (2, 0, "it broke"), (3, "stopped", [1, 3])]
    assert watcher.asked == 7 and watcher.never_contributed == [0, 2, 3]
    assert watcher.lost(2) == {"failed": 1, "rejected": 0, "late": 1, "stopped": 0}
    assert watcher.why_lost(2) == "1 failed, 1 late" and watcher.why_lost(4) == ""


def test_only_updates_are_asked_for() -> None:
    """Clients that evaluate too late cost no update."""
    scene = Scene()
    message = scene.asked(1, 0, "evaluate")
    scene.watcher.missing([message], "late")
    scene.watcher(message, answer(message))
    assert scene.said == [] and scene.watcher.asked == 0 and scene.watcher.never_contributed == []


def test_the_reasons_of_a_lost_round_name_the_kinds() -> None:
    scene = Scene()
    for client, kind in enumerate(["quorum", "norm", "quorum"]):
        message = scene.asked(2, client)
        scene.watcher.reject(message, answer(message), kind, "why")
    assert scene.watcher.why_lost(2) == "3 rejected (1 norm, 2 quorum)"


def test_what_was_turned_away_is_charged_all_the_same() -> None:
    """It reached the server. A reply that nobody asked for has no round to be charged to."""
    scene = Scene()
    for client in (0, 1):
        message = scene.asked(2, client)
        if client == 0:
            scene.watcher(message, answer(message, **NOISE))
        else:
            scene.watcher.reject(message, answer(message, **NOISE), "quorum", "1 of 2 valid replies")
    scene.watcher.reject(None, answer(scene.asked(1, 5), **NOISE), "late", "")
    assert scene.ledger.events == [Event(client, 2, 1.5, 0.25, 4) for client in (0, 1)]


def test_a_client_that_is_sent_the_same_model_again_is_charged_again() -> None:
    scene = Scene()
    for repeat in (0, 1):
        message = scene.asked(2, 0)
        if repeat:
            message.content["config"] = ConfigRecord({"server-round": 2, "repeat": repeat})
        scene.watcher(message, answer(message, **NOISE))
    assert scene.ledger.events == [Event(0, 2, 1.5, 0.25, 4), Event(0, 2, 1.5, 0.25, 4, 1)]


def test_the_ledger_knows_whose_updates_were_turned_away_for_what_they_held() -> None:
    """Not those that came too late or were too many; and again after a checkpoint."""
    scene, other = Scene(), Scene()
    for client, kind in enumerate(["norm", "late", "quorum", "not-finite", "surplus"]):
        message = scene.asked(1, client)
        scene.watcher.reject(message, answer(message), kind, "why")
    other.watcher.restore(scene.watcher.snapshot())
    assert scene.ledger.turned_away == other.ledger.turned_away == {0, 3}


@pytest.mark.parametrize(
    "claim",
    [
        {"dp-noise-multiplier": math.nan},
        {"dp-noise-multiplier": math.inf},
        {"dp-noise-multiplier": [1.0]},
        {"dp-sample-rate": 1.5},
        {"dp-sample-rate": -0.1},
        {"dp-steps": -1},
        {"dp-steps": 10**5000},
    ],
)
def test_noise_that_makes_no_sense_is_no_noise(claim: dict[str, Any]) -> None:
    """ε is then infinite: a client cannot talk the accountant into a proof, nor end the run."""
    scene = Scene()
    message = scene.asked(2, 0)
    scene.watcher(message, answer(message, **NOISE | claim))
    assert scene.ledger.events == [Event(0, 2, 0.0, 1.0, 1, amiss=SENSELESS)]


class Told(LocalRule):
    """Says of its noise what it is told to."""

    def __init__(self, **figures: float) -> None:
        self.figures = figures

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        return dict(self.figures)


def planned(sampling: Literal["shuffle", "poisson"] = "poisson") -> Scene:
    scene = Scene()
    scene.watcher.plan = Plan(Told(**NOISE), ClientConfig(sampling=sampling), [8] * 4)
    return scene


@pytest.mark.parametrize(
    ("claim", "amiss"),
    [
        ({}, ""),
        ({"dp-noise-multiplier": 1.4}, OTHER_NOISE),
        ({"dp-noise-multiplier": 9.0}, OTHER_NOISE),  # to claim more than there is would lower ε
        ({"dp-sample-rate": 0.3}, OTHER_RATE),
        ({"dp-steps": 5}, OTHER_STEPS),
        ({"dp-steps": 3, "dp-sample-rate": 0.2}, f"{OTHER_RATE}; {OTHER_STEPS}"),
    ],
)
def test_what_clients_say_is_held_against_the_plan(claim: dict[str, float], amiss: str) -> None:
    scene = planned()
    message = scene.asked(2, 0)
    scene.watcher(message, answer(message, **NOISE | claim))
    (event,) = scene.ledger.events
    assert event.amiss == amiss and event.noise_multiplier == (NOISE | claim)["dp-noise-multiplier"]


def test_an_update_without_a_word_of_its_noise_has_none() -> None:
    """Turned away or not; of a federation without noise nothing is written down."""
    scene = planned()
    message = scene.asked(1, 0)
    scene.watcher(message, answer(message))
    message = scene.asked(1, 1)
    scene.watcher.reject(message, answer(message), "keys", "not named as in 3 other replies")
    assert scene.ledger.events == [Event(client, 1, 0.0, 1.0, 1, amiss=SILENT) for client in (0, 1)]
    scene = Scene()
    scene.watcher.plan = Plan(LocalRule(), ClientConfig(), [8] * 4)
    message = scene.asked(1, 0)
    scene.watcher(message, answer(message))
    assert scene.ledger.events == []


def test_shuffled_batches_are_not_accounted_as_poisson_samples() -> None:
    scene = planned("shuffle")
    message = scene.asked(2, 0)
    scene.watcher(message, answer(message, **NOISE))
    assert [event.amiss for event in scene.ledger.events] == [NOT_POISSON]


@pytest.mark.parametrize("recalled", [True, False])
def test_what_comes_too_late_is_charged_as_planned(recalled: bool) -> None:
    """Its update will reach the server all the same. Who is told to stop sends none, unless nobody can be."""
    scene = planned()
    scene.watcher.recalled = recalled
    scene.watcher.missing([scene.asked(2, 0)], "late")
    scene.watcher.missing([scene.asked(2, 1)], "stopped")
    assert scene.ledger.events == [Event(client, 2, 1.5, 0.25, 4) for client in range(1 if recalled else 2)]


def test_long_tracebacks_are_cut_in_the_middle() -> None:
    assert shortened("x" * LONGEST_REASON) == "x" * LONGEST_REASON
    cut = shortened("first line\n" + "x" * 1_000_000 + "\nValueError: last line")
    assert cut.startswith("first line") and cut.endswith("ValueError: last line")
    assert "characters left out" in cut and len(cut) < LONGEST_REASON + 50
