"""Looking at what ran, one question at a time: which network, which records, which labels, and do they fit?

Each answer is written down with its source; what cannot be attacked is written down as an obstacle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlab.apps.architecture import unwrapped
from fedlab.apps.contract import Arrays, Ran, Recording, Sight
from fedlab.apps.given import Adapter
from fedlab.apps.messages import told, whole
from fedlab.apps.missing import ADAPTER, RANGE, SHAPE, missing
from fedlab.apps.naming import Naming, match
from fedlab.apps.notes import Notes
from fedlab.apps.pixels import PixelRange, Surety, pixel_range, stated
from fedlab.apps.replay import compare
from fedlab.clients.config import Mode
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel

COMPARED = 3
"""Clients whose training is replayed and compared with their update."""


def find_network(
    notes: Notes, seen: Sequence[tuple[Sight, Recording]], adapter: Adapter
) -> tuple[nn.Module, Naming]:
    """The network and the names of its tensors in messages."""
    sight, recording = seen[0]
    said = adapter.network is not None
    network = adapter.network() if adapter.network else unwrapped(recording.network or nn.Identity())
    recorded = f"the module that clients ran, recorded in all {len(seen)} updates"
    source = "stated by the app's author" if said else recorded
    sure: Surety = "stated" if said else "recorded"
    count = sum(value.numel() for value in network.parameters())
    notes.add("network", f"{type(network).__name__}, {count:,} parameters", source, sure)
    state = network.state_dict()
    naming = match(sight.before, state, adapter.names)
    if naming is None and (model := _first_record(sight.before)):
        naming = match(model, state, adapter.names)
    if naming is None:
        tensors = {key: value.numpy() for key, value in state.items()}
        raise missing(
            f"the arrays of a message cannot be matched with the tensors of {type(network).__name__}:"
            f" sent are {told(sight.before)}; the network has {told(tensors)}",
            ADAPTER,
        )
    equal = "; before its first step a client held the very numbers that were sent"
    other = "; what a client held before its first step is not what it was sent"
    notes.add(
        "names",
        f"{len(naming.names)} of {len(network.state_dict())} tensors are sent",
        naming.words + (equal if naming.equal else "" if adapter.network else other),
        "checked" if naming.equal else "assumed",
    )
    return network, naming


def _first_record(arrays: Arrays) -> Arrays:
    """Without the arrays of other records (a control variate, say), if there are any."""
    own = {key: value for key, value in arrays.items() if "/" not in key}
    return own if 0 < len(own) < len(arrays) else {}


def find_shape(
    notes: Notes, recordings: Sequence[Recording], adapter: Adapter
) -> tuple[int, int, int] | None:
    """(C, H, W) of a record."""
    shapes = Counter(tuple(step.inputs.shape[1:]) for one in recordings for step in one.steps)
    inner, first = shapes.most_common(1)[0][0], recordings[0].steps[0].inputs
    words = f"({', '.join(map(str, inner))})"
    if len(shapes) > 1:
        notes.obstacles.append(f"records have {len(shapes)} different shapes, {words} most often")
    elif not first.is_floating_point():
        notes.obstacles.append(
            f"the network is fed with {str(first.dtype).removeprefix('torch.')} of shape {words}: these are"
            " no pixels (token ids, say), and attacks and scores here are about images"
        )
    elif adapter.input_shape is not None:
        if torch.Size(adapter.input_shape).numel() != torch.Size(inner).numel():
            raise UsageError(f"input-shape = {list(adapter.input_shape)}; the network is fed with {words}")
        notes.add("input", f"{tuple(adapter.input_shape)} as {words}", "stated by the app's author", "stated")
        return adapter.input_shape
    elif len(inner) != 3:
        notes.obstacles.append(
            f"the network is fed with {words} per record, which is no image (C, H, W): scores here are about"
            f" pixels. If it is one in another shape, write into the app's pyproject.toml:\n{SHAPE}"
        )
    else:
        channels, height, width = inner
        notes.add("input", words, "what clients fed their networks", "recorded")
        return channels, height, width
    return None


def set_aside(notes: Notes, ran: Ran, seen: Sequence[tuple[Sight, Recording]]) -> None:
    """Which updates are not looked at, and which arrays."""
    count = len(ran.sights) - len(seen)
    if count:
        source = "their training was not recorded as a whole, or they are of another network than the first"
        notes.add("left out", f"{count} of {len(ran.sights)} updates", source, "recorded")
    looked = {(sight.round, sight.client): sight for sight, _ in seen}
    for one in ran.sights:
        mine = looked.get((one.round, one.client))
        if mine is not None and not whole(one):
            counts = f"{len(one.before)} that were sent and {len(one.after)} that came back"
            value = f"{len(mine.before)} arrays of {counts}"
            source = f"those that came back as they were sent; others: {told(_others(one, mine), 3)}"
            notes.add("answers", value, source, "recorded")
            break


def _others(sight: Sight, mine: Sight) -> Arrays:
    """Arrays of a message or its answer that have no counterpart."""
    return {
        key: value
        for arrays in (sight.before, sight.after)
        for key, value in arrays.items()
        if key not in mine.before
    }


def noted(notes: Notes, ran: Ran) -> None:
    """What the recorder has to say of any update, and what went wrong beside training."""
    if ran.unevaluated:
        notes.add("evaluation", "not all of it", ran.unevaluated, "recorded")
    words = Counter(text for one in ran.recordings.values() for text in one.notes)
    for text, times in words.items():
        notes.add("noted", text, f"in {times} of {len(ran.recordings)} updates", "recorded")


def find_pixels(
    notes: Notes,
    recordings: Sequence[Recording],
    adapter: Adapter,
    shape: tuple[int, int, int] | None,
) -> PixelRange | None:
    if shape is None or notes.obstacles:
        return None
    if adapter.pixel_low is not None and adapter.pixel_high is not None:
        if len(adapter.pixel_low) not in (1, shape[0]):
            raise UsageError(f"pixel-low has {len(adapter.pixel_low)} numbers; expected 1 or {shape[0]}")
        found = stated(adapter.pixel_low, adapter.pixel_high, shape[0])
    else:
        found = pixel_range(step.inputs.reshape(-1, *shape) for one in recordings for step in one.steps)
    ends = [", ".join(f"{value:.4g}" for value in end.flatten().tolist()) for end in (found.low, found.high)]
    source = found.words
    if found.sure == "assumed":
        source += "; if you know better: " + " ".join(RANGE.splitlines()[1:])
    notes.add("pixels", f"black is {ends[0]}, white is {ends[1]}", source, found.sure)
    return found


def find_outputs(recording: Recording, network: nn.Module) -> tuple[int, ...]:
    """Shape of one record's output.

    Raises:
        MissingFacts: the network gives no tensor, or does not run by itself.
    """
    inputs, mode = recording.steps[0].inputs[:2], network.training
    try:
        network.eval()
        with torch.no_grad():
            outputs = network(inputs)
    except Exception as error:  # somebody else's code
        raise missing(
            f"{type(network).__name__} does not run on what clients fed it"
            f" ({type(error).__name__}: {str(error)[:200]})",
            ADAPTER,
        ) from error
    finally:
        network.train(mode)
    if not isinstance(outputs, Tensor):
        raise missing(
            f"{type(network).__name__} gives a {type(outputs).__name__}; expected a tensor of logits, (B,"
            " classes)",
            ADAPTER,
        )
    return tuple(outputs.shape[1:])


def check_labels(notes: Notes, recordings: Sequence[Recording], outputs: tuple[int, ...]) -> None:
    """Whether targets are labels of as many classes as there are outputs."""
    if len(outputs) != 1:
        notes.obstacles.append(f"the network gives {outputs} per record; expected one number per class")
        return
    notes.add("classes", outputs[0], "outputs of the network", "recorded")
    targets = [step.targets for one in recordings for step in one.steps]
    if any(one is None for one in targets):
        notes.obstacles.append("no loss was seen in some steps: which labels were trained on is not known")
        return
    labels = [one for one in targets if one is not None]
    whole = all(not one.is_floating_point() and one.dim() == 1 for one in labels)
    if not whole or any(int(one.min()) < 0 or int(one.max()) >= outputs[0] for one in labels if len(one)):
        first = labels[0]
        notes.obstacles.append(
            f"targets are {str(first.dtype).removeprefix('torch.')} of shape {tuple(first.shape)}; expected"
            f" one label from 0 to {outputs[0] - 1} per record"
        )


def agreed(modes: Counter[Mode], said: bool, count: int) -> tuple[str, Surety]:
    if said:
        return "stated by the app's author", "stated"
    if len(modes) == 1:
        return f"recorded in all {count} updates, at the first step", "recorded"
    return f"recorded in {modes.most_common(1)[0][1]} of {count} updates; the others differ", "assumed"


def compare_updates(notes: Notes, seen: Sequence[tuple[Sight, Recording]], names: Mapping[str, str]) -> None:
    """Hold the first few updates against their replays; where they differ, scores are to be doubted."""
    found = [compare(one, sight.before, sight.after, names) for sight, one in seen[:COMPARED]]
    apart = [one for one in found if one.distance is not None and not one.agrees]
    worst = apart[0] if apart else found[0]
    agree = sum(one.agrees for one in found)
    value = f"{agree} of {len(found)} agree" if worst.distance is not None else "not compared"
    words = worst.words
    if apart:
        words += (
            "; something that was not recorded acts on it (a clip, a penalty, a changing learning rate, a"
            " mechanism behind the training), and attacks take it for plain training"
        )
        notes.doubts.append(f"{words}. Who knows what it is may recover more than is shown here")
    notes.add("update", value, words, "checked" if agree == len(found) else "assumed")


def unfit(network: nn.Module, shape: tuple[int, int, int], mode: Mode) -> str:
    """Why the network cannot be run as a pure function, which all attacks do; "" where it can."""
    try:
        model = FunctionalModel(network, shape)
    except Exception as error:  # somebody else's network
        return f"the network cannot be run as a pure function: {error}"
    if mode == "train":
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, *shape, generator=generator)
        masks = model.draw_masks(2, generator)
        try:
            twice = [model(model.state(), images, training=True, masks=masks)[0] for _ in range(2)]
        except Exception as error:
            return f"the network cannot be run as a pure function: {error}"
        if not torch.equal(*twice):
            return (
                "the network draws randomness of its own in training (torch.nn.functional.dropout?), which no"
                " attack can hold still; use layers such as torch.nn.Dropout to have it audited"
            )
    return ""
