"""What a client trains on, step by step, seen through torch's global hooks; the app does not notice.

* The network is the outermost module with trainable parameters whose input comes from no other module.
* A forward or a loss counts once a gradient arrives at its output; evaluation that forgot `no_grad` has none.
* Whatever counted since the last step of an optimizer is the next `Step`: gradient accumulation is one.
* The network is copied before the first forward that counts: batch-norm statistics are those from before.

Nothing here draws a random number or writes to a tensor of the app. Training without torch, or without
modules, is not seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fedlab.apps.architecture import without_traces
from fedlab.apps.contract import Optimizer, Recording, Step
from fedlab.apps.groups import differing, settings_of
from fedlab.apps.losses import Called, Functions, of_module

LIMIT = 512 * 2**20
"""Bytes of inputs and targets that are kept."""
OnStep = Callable[[torch.optim.Optimizer, nn.Module | None, Step | None], None]
"""Told before an optimizer steps: of the network and of what was recorded, None where that is not known."""


@dataclass(eq=False)
class _Event:
    """A forward or a loss whose output has got a gradient (`counts`), or has not yet."""

    module: nn.Module | None
    name: str
    values: Tensor | None
    training: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: bool = False

    def watch(self, output: Any) -> None:
        """Wait for a gradient at any tensor of `output`."""
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._arrived)  # type: ignore[no-untyped-call]

    def _arrived(self, gradient: Tensor) -> None:
        self.counts = True  # returning None leaves the gradient as it is


class Recorder:
    """Records one client's training between `__enter__` and `__exit__`.

    Args:
        limit: bytes of inputs and targets that may be kept; steps beyond are only counted.
        on_step: may change the gradients that the optimizer steps along; what it computes is not recorded.

    Attributes:
        kept: bytes that are.
    """

    def __init__(self, limit: int = LIMIT, on_step: OnStep | None = None) -> None:
        self.limit, self.kept, self._waiting = limit, 0, 0
        self._on_step, self._paused = on_step, False
        self._undo = ExitStack()
        self._depth = 0
        self._loss_depth: int | None = None
        self._called: Called | None = None
        self._forward: _Event | None = None
        self._forwards: list[_Event] = []
        self._losses: list[_Event] = []
        self._copies: dict[nn.Module, tuple[object, nn.Module | None]] = {}
        self._network: _Event | None = None
        self._optimizer: Optimizer | None = None
        self._loss: _Event | None = None
        self._steps: list[Step] = []
        self._dropped = 0
        self._notes: dict[str, None] = {}

    def __enter__(self) -> Recorder:
        for handle in (
            register_module_forward_pre_hook(self._entering),
            register_module_forward_hook(self._leaving, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self._stepping),
            register_optimizer_step_post_hook(self._stepped),
        ):
            self._undo.callback(handle.remove)
        self._undo.enter_context(Functions(self._computed))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()
        if self._optimizer is None:
            self._close_step()
        self._forwards.clear()
        self._losses.clear()

    def recording(self) -> Recording:
        """What has been recorded."""
        network = self._network
        copied = None if network is None or network.module is None else self._copies[network.module][1]
        return Recording(
            network=copied,
            training=network is not None and network.training,
            optimizer=self._optimizer,
            loss="" if self._loss is None else self._loss.name,
            steps=tuple(self._steps),
            dropped=self._dropped,
            loss_settings={} if self._loss is None else self._loss.settings,
            notes=tuple(self._notes),
        )

    def _entering(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._depth += 1
        if self._paused or self._loss_depth is not None or not torch.is_grad_enabled():
            return
        self._called = of_module(module, args, outermost=self._depth == 1)
        if self._called is not None:
            self._loss_depth = self._depth
        elif self._depth == 1 and any(one.requires_grad for one in module.parameters()):
            self._forward = self._met(module, args)

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        depth, self._depth = self._depth, self._depth - 1  # after an exception, torch passes no keywords
        if self._paused:
            return
        named, output = rest if len(rest) == 2 else ({}, rest[0])
        if self._loss_depth == depth:
            self._loss_depth = None
            self._computed(self._called, output)
        elif depth == 1 and self._forward is not None:
            forward, self._forward = self._forward, None
            if forward.values is None and not args:  # it got its input by name
                forward.values = self._own(next(_tensors(named), None))
            forward.watch(output)
            self._forwards.append(forward)

    def _met(self, module: nn.Module, args: tuple[Any, ...]) -> _Event | None:
        """A forward of an outermost module, before it computes."""
        values = next(_tensors(args), None)
        name = type(module).__name__
        if values is not None and values.grad_fn is not None:
            self._note(f"{name} was trained on the output of another module, and is not recorded")
            return None
        if len(args) > 1:
            self._note(f"{name} got {len(args)} arguments; the first tensor among them is recorded")
        if not self._steps and not self._dropped:
            self._copy(module)
        return _Event(module, name, self._own(values), training=module.training)

    def _copy(self, module: nn.Module) -> None:
        """Keep the module as it is now, unless the copy that there is has the same parameters."""
        stamp = [(one.data_ptr(), one._version) for one in module.parameters()]
        known = self._copies.get(module)
        if known is not None and known[0] == stamp:
            return
        try:
            copied: nn.Module | None = without_traces(copy.deepcopy(module).cpu())
        except Exception as error:  # a tensor amid a graph, a lock, a file: whatever modules carry
            copied = None
            self._note(f"{type(module).__name__} cannot be copied: {error}")
        self._copies[module] = stamp, copied

    def _computed(self, called: Called | None, output: Any) -> None:
        """A loss has been computed; one within a loss module is that module's own affair."""
        if self._paused:
            return
        if called is not None and self._loss_depth is None and torch.is_grad_enabled():
            event = _Event(None, called.name, self._own(called.targets), settings=called.settings)
            event.watch(output)
            self._losses.append(event)

    def _stepping(self, optimizer: torch.optim.Optimizer, args: Any, named: Any) -> None:
        first, *others = (settings_of(group) for group in optimizer.param_groups)
        found = Optimizer(type(optimizer).__name__, first, differing(first, others))
        if self._optimizer is None:
            self._optimizer = found
        elif found.name != self._optimizer.name:
            self._note(f"{found.name} stepped as well as {self._optimizer.name}")
        else:
            for key, value in self._optimizer.settings.items():
                if key in found.settings and found.settings[key] != value:
                    self._note(f"{key} of {found.name} did not stay {value}")
        before = len(self._steps)
        self._close_step()
        if self._on_step is not None:
            step = self._steps[-1] if len(self._steps) > before else None
            self._paused = True
            try:
                self._on_step(optimizer, None if self._network is None else self._network.module, step)
            finally:
                self._paused = False

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, named: Any) -> None:
        self._close_step()  # what a closure computed

    def _close_step(self) -> None:
        """Make a step of all that counted since the last one."""
        forwards = [one for one in self._forwards if one.counts]
        losses = [one for one in self._losses if one.counts]
        self._forwards.clear()
        self._losses.clear()
        self._waiting = 0
        if not forwards:
            return
        if self._network is None:
            self._network = forwards[0]
        mine = [one for one in forwards if one.module is self._network.module]
        for other in forwards:
            if other.module is not self._network.module:
                self._note(f"{other.name} was trained beside {self._network.name}, and is not recorded")
        if mine:
            self._keep(mine, losses)

    def _keep(self, forwards: Sequence[_Event], losses: Sequence[_Event]) -> None:
        inputs = _joined(forwards)
        if inputs is None:
            self._note("steps whose input is not one tensor, or too large a one, are not recorded")
            self._dropped += 1
            return
        matching = _matching(forwards, losses)
        if matching and self._loss is None:
            self._loss = matching[0]
        targets = _joined(matching) if matching else None
        size = inputs.nbytes + (0 if targets is None else targets.nbytes)
        if self.kept + size > self.limit:
            self._note(f"only {self.limit / 2**20:.0f} MB of batches are kept")
            self._dropped += 1
            return
        self.kept += size
        self._steps.append(Step(inputs, targets))

    def _own(self, values: Tensor | None) -> Tensor | None:
        """A copy in memory of its own; None once too much waits for a gradient that never comes."""
        if values is None or self._waiting + values.nbytes > self.limit:
            return None
        self._waiting += values.nbytes
        return values.detach().as_subclass(Tensor).to("cpu", copy=True)

    def _note(self, text: str) -> None:
        self._notes[text] = None


def _matching(forwards: Sequence[_Event], losses: Sequence[_Event]) -> list[_Event]:
    """The losses that have one target for each input of each forward, in order; [] if it is not clear which.

    Other losses may stand beside them: a penalty on the weights, a second head.
    """
    sizes = [len(one.values) for one in forwards if one.values is not None and one.values.dim()]
    fitting = [one for one in losses if one.values is not None and one.values.dim()]
    fitting = [one for one in fitting if one.values is not None and len(one.values) in sizes]
    same = [one for one in fitting if one.name == fitting[0].name]
    if len(forwards) == 1:
        same = same[:1]
    return same if [len(one.values) for one in same if one.values is not None] == sizes else []


def _joined(events: Sequence[_Event]) -> Tensor | None:
    """Their values along the first axis; None if they do not fit, or there are none."""
    values = [one.values for one in events if one.values is not None]
    if len(values) != len(events) or len({(one.shape[1:], one.dtype) for one in values}) != 1:
        return None
    return values[0] if len(values) == 1 else torch.cat(values)


def _tensors(found: Any) -> Iterator[Tensor]:
    """The tensors in what a module got or returned."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        for one in found.values():
            yield from _tensors(one)
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _tensors(one)
