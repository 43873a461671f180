"""Batch norm under differential privacy: refused by name, or replaced by group norm on request.

Batch norm divides each record by statistics of all records in the batch, so that a record's gradient depends
on its neighbours and clipping it bounds nothing. Group norm (Wu, He, ECCV 2018,
https://arxiv.org/abs/1803.08494) looks at one record alone. Opacus' fixers (`ModuleValidator.fix`) decide
what stands in for a layer of torch: gcd(32, C) groups. Deviations: over plain features (BatchNorm1d, and
fedlab's own layer, which may be either) there is one group, because groups of one or two features would
normalise the features away; activations that write in place are told not to; and the module is changed
where it is, while Opacus pickles a copy, which fails for classes that are defined in functions.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fedlab.errors import UsageError
from fedlab.tasks import BatchNorm

MIXING = (nn.modules.batchnorm._BatchNorm, BatchNorm)


def batch_norms(net: nn.Module) -> list[str]:
    """Names of the layers that mix the records of a batch."""
    return [name or type(net).__name__ for name, layer in net.named_modules() if isinstance(layer, MIXING)]


def refuse_batch_norm(defense: str, net: nn.Module) -> None:
    """Refuse the network that clients train if batch norm came into it behind the defense's own look.

    Raises:
        UsageError: it did; says where.
    """
    if guilty := batch_norms(net):
        raise UsageError(
            f"{defense} cannot protect a network with batch norm ({', '.join(guilty)}), which was put in"
            f" after {defense} had looked at it: by the local rule, or by a defense behind it in the stack;"
            ' set norm = "group" or "none" there'
        )


def without_batch_norm(factory: Callable[[], nn.Module]) -> nn.Module:
    """The network, refused if it has batch norm.

    Raises:
        UsageError: it has; says where.
    """
    net = factory()
    guilty = batch_norms(net)
    if guilty:
        raise UsageError(
            f"dp-sgd cannot protect a network with batch norm ({', '.join(guilty)}): its batch statistics mix"
            " records, so one record's gradient has no bound; set fix = true in the defense, which puts group"
            ' norm in its place, or task.model.norm = "group" or "none"'
        )
    return net


def with_group_norm(factory: Callable[[], nn.Module]) -> nn.Module:
    """The network, with group norm where batch norm was, and no activation that writes in place.

    Raises:
        UsageError: a batch norm that does not say how many channels it has (a lazy one).
    """
    net = _replaced(factory(), "the network")
    for layer in net.modules():
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False  # type: ignore[assignment]  # a plain attribute of nn.ReLU and its kin
    return net


def _replaced(layer: nn.Module, name: str) -> nn.Module:
    if isinstance(layer, BatchNorm):
        return nn.GroupNorm(1, layer.features).train(layer.training)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        from opacus.validators import ModuleValidator  # seconds that only a fixed network needs

        fixer = ModuleValidator.FIXERS.get(type(layer))
        if fixer is None or not layer.num_features:
            raise UsageError(
                f"dp-sgd cannot replace the batch norm {name} ({type(layer).__name__}): expected BatchNorm1d,"
                " BatchNorm2d or BatchNorm3d with its number of channels; use one of those, or nn.GroupNorm"
            )
        made: nn.Module = fixer(layer, num_groups=1) if isinstance(layer, nn.BatchNorm1d) else fixer(layer)
        return made.train(layer.training)
    for child, inner in list(layer.named_children()):
        setattr(layer, child, _replaced(inner, child))
    return layer
