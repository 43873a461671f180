"""Run a pure tensor function as the flat list of operations that it comes down to.

`torch.func` works out gradients and the mapping over clients anew at each call, in Python; for small
networks that takes longer than the arithmetic. Once a call with the same shapes has come back often
enough, the operations that it performed are recorded (`make_fx`) and replayed from then on: the same
operations on the same numbers, hence the same bits. That is checked when a recording is made; a
function whose recording gives other bits is never replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.utils._pytree import tree_flatten, tree_unflatten

from fedlab.runtime.memory import out_of_memory

CALLS_BEFORE = 16
"""Recording costs about as much as some tens of calls; shapes that come up less often are not worth it."""

RECORDINGS = 16
"""How many shapes are kept."""


class Traced:
    """`function`, with its frequent shapes recorded.

    `function` takes and returns nested dicts and tuples of tensors, and must be pure: what it reads
    beside its arguments is taken to be constant.
    """

    def __init__(self, function: Callable[..., Any], calls_before: int = CALLS_BEFORE) -> None:
        self.function, self.calls_before = function, calls_before
        self._calls: dict[Any, int] = {}
        self._recordings: dict[Any, tuple[GraphModule, Any]] = {}
        self._faithful = True

    def __call__(self, *arguments: Any) -> Any:
        leaves, tree = tree_flatten(arguments)
        key = (tree, *((leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves))
        found = self._recordings.get(key)
        if found is not None:
            graph, returned = found
            with torch.no_grad():
                return tree_unflatten(list(graph(*leaves)), returned)
        answer = self.function(*arguments)
        if self._faithful and len(self._recordings) < RECORDINGS:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] >= self.calls_before:
                self._record(key, leaves, tree, answer)
        return answer

    def _record(self, key: Any, leaves: list[Tensor], tree: Any, answer: Any) -> None:
        expected, returned = tree_flatten(answer)

        def flat(*values: Tensor) -> list[Tensor]:
            return tree_flatten(self.function(*tree_unflatten(list(values), tree)))[0]

        if not all(isinstance(leaf, Tensor) for leaf in (*leaves, *expected)):
            self._faithful = False  # a number would be recorded as a constant
            return
        try:
            # One tensor that came in twice (the model as the round began, and a rule's anchor) would be taken
            # for one argument, and the two part later.
            graph = make_fx(flat)(*(leaf.detach() for leaf in leaves))
        except Exception as error:  # an operation that cannot be recorded: run it the long way
            if out_of_memory(error):
                raise
            self._faithful = False
            return
        with torch.no_grad():
            ShapeProp(graph).propagate(*leaves)
            _simplify(graph)
            replayed = graph(*leaves)
        if all(map(_same, replayed, expected)):
            self._recordings[key] = graph, returned
        else:
            self._faithful = False


ATEN = torch.ops.aten
RESHAPES = (ATEN.view.default, ATEN._unsafe_view.default, ATEN.expand.default, ATEN.detach.default)


def _simplify(graph: GraphModule) -> None:
    """Take out the operations that hand on what they got: a third of all, on small networks."""
    for node in graph.graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, Node):
            continue
        alike = _layout(node) is not None and _layout(node) == _layout(source)
        if alike and (node.target in RESHAPES or (node.target == ATEN.mul.Scalar and node.args[1] == 1)):
            node.replace_all_uses_with(source)
        elif node.target == ATEN.transpose.int == source.target and set(node.args[1:]) == set(
            source.args[1:]
        ):
            node.replace_all_uses_with(source.args[0])  # there and back
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _layout(node: Node) -> Any:
    """Shape, stride and type of what a node gives, if it is a tensor."""
    known = node.meta.get("tensor_meta")
    return (known.shape, known.stride, known.dtype) if isinstance(known, TensorMetadata) else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit."""
    return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().numpy().tobytes()
