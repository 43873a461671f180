"""What must be known of a deployment to attack a recording of it, each fact with its source and how surely.

Nothing was recorded at clients. What is known is what their server has: the app's code, the run config, the
messages. The rest its author says (`[tool.fedlab.audit]`), or it is assumed, and said to be. An assumption
that is wrong shows in the residuals: an answer that does not explain the update is no answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlab.apps.architecture import FromPixels, as_sent, unsent, unwrapped
from fedlab.apps.contract import Arrays
from fedlab.apps.facts import Facts, View
from fedlab.apps.folder import AppFolder
from fedlab.apps.given import Adapter
from fedlab.apps.loading import Apps
from fedlab.apps.looking import unfit
from fedlab.apps.missing import ADAPTER, missing
from fedlab.apps.naming import Naming, match
from fedlab.apps.notes import Notes
from fedlab.apps.pixels import Surety, stated
from fedlab.apps.tap.network import find_network
from fedlab.apps.tap.recording import Recording
from fedlab.apps.tap.told import told_of
from fedlab.clients.config import Mode
from fedlab.errors import UsageError

PLAIN = (
    "Nothing was recorded at clients: that they take plain steps of SGD on the mean cross entropy is assumed."
    " Where they do not, the residuals are large and the answers mean nothing"
)
SHAPE = "input-shape = [1, 28, 28]  # channels, height, width of a record"
RANGE = "pixel-low = [0.0]  # what black is to the network, once or per channel\npixel-high = [1.0]  # white"


def infer(recording: Recording, apps: Apps, folder: AppFolder, adapter: Adapter, seed: int = 0) -> Facts:
    """Read a deployment from its recording, its app's code, and what its author says.

    Raises:
        MissingFacts: the author has to say something; shows all the lines at once.
        UsageError: what is said fits no network.
    """
    notes = Notes()
    sent = _sent(recording)
    network, naming = _network(notes, recording, apps, folder, adapter, sent, seed)
    shape, low, high = adapter.input_shape, adapter.pixel_low, adapter.pixel_high
    lines = [*([SHAPE] if shape is None else []), *([RANGE] if low is None or high is None else [])]
    if shape is None or low is None or high is None:
        raise missing(
            "no message says what the records of this deployment look like",
            "\n".join(["[tool.fedlab.audit]", *lines]),
        )
    if len(low) not in (1, shape[0]):
        raise UsageError(f"pixel-low has {len(low)} numbers; expected 1 or {shape[0]}")
    pixels = stated(low, high, shape[0])
    personal = unsent(network, list(naming.names.values()))
    if personal:
        source = "parameters of the network that no message carries; attackers get them drawn anew"
        notes.add("stays with the clients", ", ".join(sorted(personal)), source, "checked")
    notes.add("input", tuple(shape), "stated by the app's author", "stated")
    ends = [", ".join(f"{value:.4g}" for value in end) for end in (low, high)]
    notes.add("pixels", f"black is {ends[0]}, white is {ends[1]}", pixels.words, pixels.sure)
    mode: Mode = adapter.mode or "train"
    said: Surety = "stated" if adapter.mode else "assumed"
    notes.add("client mode", "training mode" if mode == "train" else "evaluation mode", _whence(said), said)
    said = "stated" if adapter.loss else "assumed"
    notes.add("loss", "cross-entropy", _whence(said), said)
    notes.doubts.append(PLAIN)
    told = told_of(notes, recording, adapter, mode)
    public = as_sent(unwrapped(network), sent, naming.names, seed)
    inner = _fed(public, shape)
    view_network = FromPixels(public, pixels, inner)
    classes = _classes(view_network, shape)
    notes.add("classes", classes, "outputs of the network", "checked")
    view = View(view_network, naming.names, personal, shape, pixels, classes)
    if why := unfit(view.network, shape, mode):
        notes.obstacles.append(why)
    return Facts(notes.facts, mode, told, None if notes.obstacles else view, notes.obstacles, notes.doubts)


def _whence(said: Surety) -> str:
    return "stated by the app's author" if said == "stated" else "nobody says otherwise"


def _sent(recording: Recording) -> Arrays:
    """The first model that was sent, in the order of its message."""
    first = recording.seen[0]
    held = first.before | first.buffers_before
    order = [name for name in recording.about.get("arrays", []) if name in held] or list(held)
    return {name: held[name].numpy() for name in order}


def _network(
    notes: Notes,
    recording: Recording,
    apps: Apps,
    folder: AppFolder,
    adapter: Adapter,
    sent: Arrays,
    seed: int,
) -> tuple[nn.Module, Naming]:
    about = recording.about
    if adapter.network is not None:
        found: tuple[nn.Module, str] | None = (adapter.network(), "stated by the app's author")
    else:
        nodes = max(2, int(about.get("clients", 2)))
        found = find_network(apps, folder, about.get("configuration", {}), sent, nodes, seed)
    naming = match(sent, found[0].state_dict(), adapter.names) if found is not None else None
    if found is None or naming is None:
        arrays = [f"{key} {value.shape}" for key, value in sent.items()]
        words = ", ".join(arrays[:6]) + (f", ... ({len(arrays)} in all)" if len(arrays) > 6 else "")
        other = (
            "the adapter's network does not fit them" if found else "the ServerApp makes no network that fits"
        )
        raise missing(f"the network is not known: clients were sent {words}, and {other}", ADAPTER)
    network, source = found
    count = sum(value.numel() for value in network.parameters())
    sure: Surety = "stated" if adapter.network is not None else "checked"
    notes.add("network", f"{type(network).__name__}, {count:,} parameters", source, sure)
    fits = f"{len(naming.names)} of {len(network.state_dict())} tensors are sent"
    notes.add("names", fits, naming.words, "checked" if "names" in naming.words else "assumed")
    return network, naming


def _fed(network: nn.Module, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """In which shape the network takes a record: as an image, or flat.

    Raises:
        MissingFacts: in neither.
    """
    told = ""
    for inner in (shape, (shape[0] * shape[1] * shape[2],)):
        try:
            _outputs(network, torch.zeros(2, *inner))
        except Exception as error:  # somebody else's code
            told = told or f"{type(error).__name__}: {str(error)[:200]}"
        else:
            return inner
    raise missing(
        f"{type(network).__name__} does not run on records of input-shape = {list(shape)} ({told}); correct"
        " it, or give an adapter whose network takes them",
        ADAPTER,
    )


def _classes(network: nn.Module, shape: tuple[int, int, int]) -> int:
    outputs = _outputs(network, torch.zeros(2, *shape))
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        got = f"{tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise missing(f"the network gives {got}; expected a tensor of logits, (B, classes)", ADAPTER)
    return int(outputs.shape[1])


def _outputs(network: nn.Module, inputs: Tensor) -> object:
    mode = network.training
    try:
        network.eval()
        with torch.no_grad():
            return network(inputs)
    finally:
        network.train(mode)
