"""A defense's surgery on the networks of somebody else's app: on each once, before it is first used.

An app makes its network in many places, on the server and in each client, and knows only its class. So every
module of that class whose tensors have the names and shapes of the recorded one is operated on, in place, as
soon as it is asked for its tensors or run. Both sides do, and their messages fit. The app's code is the same:
it must not name what is gone.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from fedlab.audit import Defense
from fedlab.errors import UsageError
from fedlab.tasks.layers import Dropout, GaussianSample

OPERATED, MADE = "_fedlab_operated", "_fedlab_made"
"""Marks on a module: that it was operated on, and where the app made it. Copies have them, too."""
USES = ("state_dict", "load_state_dict", "named_parameters", "__call__", "_apply")
"""What an app does with a network that it has just made."""
WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
Shapes = tuple[tuple[str, torch.Size], ...]


@dataclass(frozen=True)
class Change:
    """A layer by name, as torch shows it; `before` is "" of one that was put in front of it."""

    layer: str
    before: str
    after: str


class Surgery:
    """What a defense does to all networks that are like one.

    Args:
        like: an undefended network of the app, which stays as it is.
        room: rate of the dropout layers to put in first, where the network has none; 0 for none.

    Attributes:
        network: a copy of `like`, operated on.
        changes: what was done to it.
        place: (file, line) where the app made the last one, if anywhere in `folder`; once it ran.

    Raises:
        UsageError: the defense refuses the network, or cannot change it from outside.
    """

    def __init__(self, name: str, defense: Defense, like: nn.Module, folder: Path, room: float = 0.0) -> None:
        self._name, self._defense, self._room = name, defense, room
        self._kind = type(like)
        self._shapes = _shapes(like)
        self._roots = tuple(str(one) for one in {folder, folder.resolve()})
        self.place: tuple[str, int] | None = None
        self.network = copy.deepcopy(like)
        before = _layers(self.network)
        self._operate(self.network)
        self.changes = _compared(before, _layers(self.network))
        self._refuse_draws(like)

    @contextmanager
    def active(self) -> Iterator[None]:
        """While it lasts, every such network is operated on before it is used."""
        with ExitStack() as undo:
            for use in USES:
                undo.enter_context(mock.patch.object(nn.Module, use, self._first(getattr(nn.Module, use))))
            if not self._own:  # a class of the app's own tells where it is by itself
                init = self._noting(self._kind.__init__)
                undo.enter_context(mock.patch.object(self._kind, "__init__", init))
            yield

    @property
    def _own(self) -> bool:
        try:
            return (inspect.getsourcefile(self._kind) or "").startswith(self._roots)
        except TypeError:  # a builtin
            return False

    def met(self, network: nn.Module) -> bool:
        """Whether this network of the app's was operated on."""
        return OPERATED in network.__dict__

    def source(self) -> tuple[str, int] | None:
        """File and line of the network in the app, if they are known."""
        if not self._own:
            return self.place
        try:
            return str(inspect.getsourcefile(self._kind)), inspect.getsourcelines(self._kind)[1]
        except (OSError, TypeError):
            return None

    def _operate(self, network: nn.Module) -> None:
        network.__dict__[OPERATED] = True
        if self._room and not any(isinstance(one, DROPOUTS) for one in network.modules()):
            make_room(network, self._room)
        made = self._defense.network(lambda: network)()
        if made is not network:
            raise UsageError(
                f"{self._name} puts another network in the place of {type(network).__name__}, and the app's"
                " own code makes it; expected a change of its layers"
            )

    def _refuse_draws(self, like: nn.Module) -> None:
        """Layers of ours that wait for draws are none in an app's own loop.

        Raises:
            UsageError: there are such.
        """
        ours = (Dropout, GaussianSample)
        had = {name for name, one in like.named_modules() if isinstance(one, ours)}
        new = [n for n, one in self.network.named_modules() if isinstance(one, ours) and n not in had]
        if new:
            raise UsageError(
                f"{self._name} puts in layers that draw ({', '.join(new)}), and adds to the loss; only"
                " fedlab's own training does both"
            )

    def _first(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def use(module: nn.Module, *args: Any, **named: Any) -> Any:
            if self._due(module):
                self.place = module.__dict__.get(MADE, self.place)
                self._operate(module)
            return original(module, *args, **named)

        return use

    def _due(self, module: nn.Module) -> bool:
        kind = type(module)
        if (kind.__name__, kind.__module__) != (self._kind.__name__, self._kind.__module__):
            return False
        # An app that is loaded again has another class of the same name.
        return OPERATED not in module.__dict__ and _shapes(module) == self._shapes

    def _noting(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def init(module: nn.Module, *args: Any, **named: Any) -> None:
            original(module, *args, **named)
            place = _calling(sys._getframe(1), self._roots)
            if place is not None:
                module.__dict__[MADE] = place

        return init


def make_room(network: nn.Module, rate: float) -> None:
    """Put a dropout layer in front of each linear layer behind the first layer with weights, in place.

    It is a child of the linear layer, which drops its own input: names of tensors stay as they are.

    Raises:
        UsageError: there is no such layer.
    """
    weights = [one for one in network.modules() if isinstance(one, WEIGHTS)]
    behind = [one for one in weights[1:] if type(one) is nn.Linear]
    if not behind:
        raise UsageError(
            f"{type(network).__name__} has no dropout layer, nor a linear layer behind its first layer to put"
            " one in front of"
        )
    for layer in behind:
        layer.add_module("dropout", nn.Dropout(rate))
        layer.register_forward_pre_hook(dropped)


def dropped(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a linear layer with a dropout layer of its own is fed."""
    return (layer.get_submodule("dropout")(given[0]), *given[1:])


def _shapes(network: nn.Module) -> Shapes:
    """Names and shapes of parameters and buffers, without calling what is watched."""
    return tuple(
        (f"{path}.{name}", value.shape if not hasattr(value, "materialize") else torch.Size([-1]))
        for path, one in nn.Module.named_modules(network)
        for name, value in (*one._parameters.items(), *one._buffers.items())
        if value is not None
    )


def _layers(network: nn.Module) -> dict[str, str]:
    """Layers without children, and linear layers with dropout of their own, as torch shows them."""
    found = {}
    for name, one in network.named_modules():
        shown = f"{type(one).__name__}({one.extra_repr()})"
        frozen = [value.requires_grad for value in one.parameters(recurse=False)]
        if frozen and not any(frozen):
            shown += ", frozen"
        if isinstance(one, WEIGHTS) or not any(True for _ in one.children()):
            found[name] = shown
    return found


def _compared(before: dict[str, str], after: dict[str, str]) -> Sequence[Change]:
    found = []
    for name in [*after, *(name for name in before if name not in after)]:
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            inside = not old and name.rpartition(".")[0] in before  # a child of a layer stands in front of it
            found.append(Change(name.rpartition(".")[0] if inside else name, old, new))
    return found


def _calling(frame: FrameType | None, roots: Sequence[str]) -> tuple[str, int] | None:
    """The nearest caller in the app's folder."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(tuple(roots)):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None
