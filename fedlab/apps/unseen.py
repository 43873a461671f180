"""What can be told of an app of whose training nothing was seen: its messages, and why that is all."""

from __future__ import annotations

from fedlab.apps.contract import Ran
from fedlab.apps.messages import paired, told, whole
from fedlab.apps.notes import Notes
from fedlab.apps.schedule import examples
from fedlab.apps.spoken import span


def of_messages(notes: Notes, ran: Ran) -> None:
    """Facts that stand in the messages themselves."""
    if not ran.sights:
        return
    first = ran.sights[0]
    sent = sum(value.size for value in first.before.values())
    notes.add(
        "sent to clients", f"{sent:,} numbers: {told(first.before)}", "the first message seen", "recorded"
    )
    if not whole(first):
        count = sum(value.size for value in first.after.values())
        notes.add("answered", f"{count:,} numbers: {told(first.after)}", "the first answer seen", "recorded")
    records = [count for count in map(examples, ran.sights) if count is not None]
    if records:
        notes.add("records", span(records), "what clients say that they have", "recorded")
    told_too = sorted({key for one in ran.sights for key in one.metrics})
    if told_too:
        notes.add("clients also tell", ", ".join(told_too), "metrics beside their arrays", "recorded")


def why(ran: Ran) -> str:
    """Why no update can be attacked, in a sentence."""
    if ran.masked:
        return (
            f"clients mask their updates (SecAgg+, {ran.masked} replies): the server sees their sum and no"
            " client's own, and attacks on sums are not run on apps. A sum of few clients, or of clients of"
            " whom the server knows some, may give away nearly as much"
        )
    recordings = list(ran.recordings.values())
    if any(one.steps and not one.dropped and one.network is not None for one in recordings):
        first = next((one for one in ran.sights if not paired(one).before), None)
        if first is not None:
            return (
                f"clients answer with other arrays ({told(first.after, 3)}) than they are sent"
                f" ({told(first.before, 3)}): no change of a network's weights can be read off them"
            )
    if any(one.dropped for one in recordings):
        return (
            "no client's training could be recorded from beginning to end (see what was noted): what was not"
            " recorded can be neither modelled nor scored"
        )
    if any(one.optimizer is not None or one.notes for one in recordings):
        return (
            "clients train with torch, but no network was seen that takes records and gives what a loss is of"
            " (see what was noted): what was not recorded can be neither modelled nor scored"
        )
    return (
        "no client was seen to train a torch network: they train with something else, or not at all, and what"
        " was not recorded can be neither modelled nor scored. That it protects is not shown by this"
    )
