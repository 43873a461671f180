"""Facts in words: the loss, the optimizer, batches, and what of it the run config says, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.apps.contract import Recording
from fedlab.apps.given import Adapter
from fedlab.apps.notes import Notes
from fedlab.apps.schedule import key_of
from fedlab.apps.stepping import NORMALISED, SUMS, untold
from fedlab.audit import KnownConfig

CROSS_ENTROPY = {"CrossEntropyLoss", "cross_entropy"}
NEGATIVE_LOG = {"NLLLoss", "nll_loss"}
"""Of log-probabilities: cross entropy, for a log-softmax changes no log-probabilities."""
LONG = 60
"""Characters of a setting that are shown."""


def of_loss(notes: Notes, recordings: Sequence[Recording], adapter: Adapter) -> None:
    """The loss; one that is no cross entropy is an obstacle."""
    names = Counter(one.loss for one in recordings)
    name = names.most_common(1)[0][0]
    if adapter.loss is not None:
        notes.add("loss", adapter.loss, "stated by the app's author", "stated")
    elif name in CROSS_ENTROPY | NEGATIVE_LOG and len(names) == 1:
        value = name if name in CROSS_ENTROPY else f"{name} of log-probabilities, which is cross entropy"
        notes.add("loss", value, f"recorded in all {len(recordings)} updates", "recorded")
    elif not name:
        notes.obstacles.append(
            "no loss was seen: clients compute it in a way of their own. If it is the cross entropy of"
            " the network's outputs, write into the app's pyproject.toml:\n"
            '[tool.fedlab.audit]\nloss = "cross-entropy"'
        )
    else:
        notes.add("loss", " and ".join(names), "recorded", "recorded")
        notes.obstacles.append(
            f"the loss is {' and '.join(names)}: attacks here invert gradients of the cross entropy of"
            " labels, and would answer with nonsense"
        )
    if adapter.loss is None and (unusual := changed(recordings)):
        notes.obstacles.append(
            f"the loss has {' and '.join(unusual)}: attacks here invert gradients of the plain cross entropy,"
            " its mean over a batch, and would look for the wrong ones. That it protects is not shown by this"
        )


def changed(recordings: Sequence[Recording]) -> list[str]:
    """Settings of the loss that change its gradient.

    Without a reduction the app takes its mean by itself, which the replay checks; labels that are below 0,
    and left out, are refused as labels.
    """
    found = {
        f"{key} = {text if len(text) <= LONG else text[:LONG] + '...'}": None
        for one in recordings
        for key, value in one.loss_settings.items()
        if (key, value) != ("reduction", "none") and not (key == "ignore_index" and value < 0)
        for text in [str(value)]
    }
    return list(found)


def of_sizes(notes: Notes, recordings: Sequence[Recording]) -> None:
    """How many records clients used in a round."""
    used = [sum(len(step.inputs) for step in one.steps) for one in recordings]
    notes.add("records used", span(used), f"recorded in {len(recordings)} updates", "recorded")


def of_batches(notes: Notes, told: Sequence[KnownConfig], configuration: Mapping[str, Any]) -> None:
    """Batch size and steps or epochs."""
    sizes = [one.batch_size or 0 for one in told]
    key = key_of(configuration, max(sizes), "batch")
    source = f"recorded; the run config says {key} = {configuration[key]}" if key else "recorded in each step"
    notes.add("batch size", span(sizes), source, "checked" if key else "recorded")
    epochs = [one.local_epochs for one in told if one.local_epochs]
    if len(epochs) == len(told):
        key = key_of(configuration, max(epochs), "epoch")
        source = "the recorded steps are whole passes over as many records as clients say that they have"
        notes.add("local epochs", span(epochs), source + (f"; {key} says so, too" if key else ""), "checked")
    else:
        steps = [one.local_steps or 0 for one in told if not one.local_epochs]
        notes.add("local steps", span(steps), "recorded", "recorded")


def of_optimizer(
    notes: Notes, recordings: Sequence[Recording], adapter: Adapter, configuration: Mapping[str, Any]
) -> None:
    """The optimizer; one whose steps are no gradients is an obstacle."""
    names = Counter(one.optimizer.name for one in recordings if one.optimizer is not None)
    if not names:
        if adapter.learning_rate is None:
            notes.obstacles.append(
                "no optimizer of torch was seen to step, and how far a step goes is not known; if it is plain"
                " SGD, write into the app's pyproject.toml:\n[tool.fedlab.audit]\nlearning-rate = 0.1"
            )
        else:
            notes.add(
                "optimizer", f"SGD, learning rate {adapter.learning_rate:g}", "stated by the author", "stated"
            )
        return
    settings = next(one.optimizer.settings for one in recordings if one.optimizer is not None)
    name, rate = " and ".join(names), settings.get("lr")
    if settings.get("maximize"):
        notes.obstacles.append(f"clients step uphill ({name} with maximize): no attack here looks that way")
    told = [f"learning rate {rate:g}"] if isinstance(rate, int | float) else []
    told += [
        f"{word} {settings[key]:g}"
        for key, word in (("momentum", "momentum"), ("weight_decay", "weight decay"))
        if isinstance(settings.get(key), int | float) and settings[key]
    ]
    told += ["Nesterov's"] if settings.get("nesterov") else []
    key = key_of(configuration, rate, "lr", "rate") if isinstance(rate, int | float) else ""
    source = "recorded at the first step" + (
        f"; the run config says {key} = {configuration[key]}" if key else ""
    )
    notes.add("optimizer", ", ".join([name, *told]), source, "checked" if key else "recorded")
    if len(names) > 1 or not set(names) <= {SUMS} | NORMALISED:
        notes.obstacles.append(
            f"clients step with {name}: what they send is no sum of gradients, and none of the attacks here"
            " inverts it. That it protects is not shown by this: nothing was measured"
        )
        return
    if name in NORMALISED:
        source = f"a first step of {name} is one size wherever the gradient is not zero"
        notes.add("update tells", "the signs of a gradient, hardly its sizes", source, "recorded")
    if clauses := untold(recordings):
        notes.doubts.append(
            f"clients step with {', and with '.join(clauses)}. Who reckons with it may recover more than is"
            " shown here"
        )


def span(values: Sequence[int]) -> str:
    """One number, or from the least to the most.

    >>> span([3, 3]), span([2, 5])
    ('3', '2 to 5')
    """
    low, high = min(values, default=0), max(values, default=0)
    return str(low) if low == high else f"{low} to {high}"
