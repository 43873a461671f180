"""What must be known of an app to attack what it sends: each fact with its source, and how surely.

Whatever could be recorded is. What cannot be attacked honestly (an optimizer whose update is no gradient, a
loss that is no cross entropy, records that are no images) is an obstacle with a reason, and no score. What
only the app's author can say is asked for, with the lines to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedlab.apps.architecture import FromPixels, as_sent, unsent, unwrapped
from fedlab.apps.contract import Ran, Recording, Sight
from fedlab.apps.given import Adapter
from fedlab.apps.missing import ADAPTER, RANGE, SHAPE, missing
from fedlab.apps.naming import Naming, match
from fedlab.apps.pixels import PixelRange, Surety, pixel_range, stated
from fedlab.apps.replay import compare
from fedlab.apps.schedule import known, mode_of
from fedlab.apps.spoken import of_batches, of_loss, of_optimizer, of_sizes
from fedlab.audit import KnownConfig
from fedlab.clients.config import Mode
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel

Key = tuple[int, int]
COMPARED = 3
"""Clients whose training is replayed and compared with their update."""


@dataclass(frozen=True)
class Fact:
    """One thing that is known of an app.

    Attributes:
        name, value: in words; source: where it is from.
        sure: "checked" (something else agrees with it), "recorded" (seen in clients), "stated" (by the app's
            author), or "assumed".
    """

    name: str
    value: str
    source: str
    sure: Surety


@dataclass(frozen=True, eq=False)
class View:
    """What attackers of an app hold beside its messages; nothing of it is a client's secret.

    Attributes:
        network: takes pixels in [0, 1] (B, C, H, W).
        names: its tensors by names of the messages' arrays.
        personal: parameters that no message carries.
        shape: (C, H, W); pixels: from what clients fed their networks.
    """

    network: FromPixels
    names: Mapping[str, str]
    personal: frozenset[str]
    shape: tuple[int, int, int]
    pixels: PixelRange
    classes: int


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of an app.

    Attributes:
        listed: for people, in an order that reads well.
        mode: how most clients ran their network.
        told: how each client trained, by (round, client).
        view: None where there are obstacles.
        obstacles: why nothing is attacked, in sentences; empty as a rule.
    """

    listed: Sequence[Fact]
    mode: Mode
    told: Mapping[Key, KnownConfig]
    view: View | None = None
    obstacles: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"facts": [asdict(one) for one in self.listed], "obstacles": list(self.obstacles)}


@dataclass
class _Notes:
    """What is written down while an app is read."""

    facts: list[Fact] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)

    def add(self, name: str, value: object, source: str, sure: Surety) -> None:
        self.facts.append(Fact(name, str(value), source, sure))


def infer(ran: Ran, adapter: Adapter, seed: int = 0) -> Facts:
    """Read an app from what it did.

    Args:
        seed: of what is drawn anew because no message carries it.

    Raises:
        MissingFacts: the author has to say something; shows the lines.
    """
    seen = watched(ran)
    notes = _Notes()
    recordings = [recording for _, recording in seen]
    modes = Counter(mode_of(one, adapter) for one in recordings)
    mode: Mode = modes.most_common(1)[0][0] if modes else "train"
    told = {(sight.round, sight.client): known(one, sight, adapter) for sight, one in seen}
    if not seen:
        notes.obstacles.append(
            "no client was seen to train a torch network: what was not recorded can be neither modelled nor"
            " scored"
        )
        return Facts(notes.facts, mode, told, None, notes.obstacles)
    sight, recording = seen[0]
    network, naming = _network(notes, seen, adapter)
    personal = unsent(network, list(naming.names.values()))
    if personal:
        notes.add(
            "stays with the clients",
            ", ".join(sorted(personal)),
            "parameters of the network that no message carries; attackers get them drawn anew",
            "checked" if naming.equal else "recorded",
        )
    of_loss(notes, recordings, adapter)
    shape = _shape(notes, recordings, adapter)
    pixels = _pixels(notes, recordings, adapter, shape)
    outputs = _outputs(recording, network)
    classes = outputs[0] if len(outputs) == 1 else 0
    _classes(notes, recordings, outputs)
    words = "training" if mode == "train" else "evaluation"
    notes.add("client mode", f"{words} mode", *_agreed(modes, adapter.mode is not None, len(seen)))
    of_sizes(notes, recordings)
    of_batches(notes, [told[sight.round, sight.client] for sight, _ in seen], ran.configuration)
    of_optimizer(notes, recordings, adapter, ran.configuration)
    _compared(notes, seen, naming.names)
    if notes.obstacles or shape is None or pixels is None:
        return Facts(notes.facts, mode, told, None, notes.obstacles)
    public = as_sent(network, sight.before, naming.names, seed)
    view = View(
        FromPixels(public, pixels, recording.steps[0].inputs.shape[1:]),
        naming.names,
        personal,
        shape,
        pixels,
        classes,
    )
    if why := _unfit(view, mode):
        notes.obstacles.append(why)
    return Facts(notes.facts, mode, told, None if notes.obstacles else view, notes.obstacles)


def watched(ran: Ran) -> list[tuple[Sight, Recording]]:
    """Updates whose training was recorded, of one and the same network."""
    found: list[tuple[Sight, Recording]] = []
    for sight in ran.sights:
        recording = ran.recordings.get((sight.round, sight.client))
        if recording is None or recording.network is None or not recording.steps:
            continue
        if sight.before.keys() != sight.after.keys() or not sight.before:
            continue
        first = found[0][1].network if found else None
        if first is None or first.state_dict().keys() == recording.network.state_dict().keys():
            found.append((sight, recording))
    return found


def _network(
    notes: _Notes, seen: Sequence[tuple[Sight, Recording]], adapter: Adapter
) -> tuple[nn.Module, Naming]:
    """The network and the names of its tensors in messages."""
    sight, recording = seen[0]
    if adapter.network is not None:
        network, source, sure = adapter.network(), "stated by the app's author", "stated"
    else:
        network = unwrapped(recording.network or nn.Identity())
        source, sure = f"the module that clients ran, recorded in all {len(seen)} updates", "recorded"
    count = sum(value.numel() for value in network.parameters())
    notes.add("network", f"{type(network).__name__}, {count:,} parameters", source, sure)  # type: ignore[arg-type]
    naming = match(sight.before, network.state_dict(), adapter.names)
    if naming is None:
        arrays = [f"{key} {tuple(value.shape)}" for key, value in sight.before.items()]
        tensors = [f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items()]
        raise missing(
            f"the arrays of a message cannot be matched with the tensors of {type(network).__name__}: sent"
            f" are {_some(arrays)}; the network has {_some(tensors)}",
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def _shape(notes: _Notes, recordings: Sequence[Recording], adapter: Adapter) -> tuple[int, int, int] | None:
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


def _pixels(
    notes: _Notes,
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


def _outputs(recording: Recording, network: nn.Module) -> tuple[int, ...]:
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


def _classes(notes: _Notes, recordings: Sequence[Recording], outputs: tuple[int, ...]) -> None:
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


def _agreed(modes: Counter[Mode], said: bool, count: int) -> tuple[str, Surety]:
    if said:
        return "stated by the app's author", "stated"
    if len(modes) == 1:
        return f"recorded in all {count} updates, at the first step", "recorded"
    return f"recorded in {modes.most_common(1)[0][1]} of {count} updates; the others differ", "assumed"


def _compared(notes: _Notes, seen: Sequence[tuple[Sight, Recording]], names: Mapping[str, str]) -> None:
    """Hold the first few updates against their replays."""
    found = [compare(one, sight.before, sight.after, names) for sight, one in seen[:COMPARED]]
    apart = [one for one in found if one.distance is not None and not one.agrees]
    worst = apart[0] if apart else found[0]
    agree = sum(one.agrees for one in found)
    value = f"{agree} of {len(found)} agree" if worst.distance is not None else "not compared"
    words = worst.words
    if apart:
        words += (
            "; something that was not recorded acts on it (a penalty, a changing learning rate, a mechanism"
            " behind the training), and attacks take it for plain training"
        )
    notes.add("update", value, words, "checked" if agree == len(found) else "assumed")


def _unfit(view: View, mode: Mode) -> str:
    """Why the network cannot be run as a pure function, which all attacks do; "" where it can."""
    try:
        model = FunctionalModel(view.network, view.shape)
    except Exception as error:  # somebody else's network
        return f"the network cannot be run as a pure function: {error}"
    if mode == "train":
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, *view.shape, generator=generator)
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
