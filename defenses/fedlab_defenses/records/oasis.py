"""OASIS: every record is trained on together with turned, mirrored or sheared copies of itself.

Jeter, Nguyen, Alharbi, Thai, "OASIS: Offsetting Active Reconstruction Attacks in Federated Learning", ICDCS
2024, https://arxiv.org/abs/2311.13739. A step on the batch D is one on

    D' = D ∪ {t(x) : x in D, t in T},   copies with their record's label,

so that whatever unit fires for a record fires for its copies too, and what linear layers and imprints give
away is a mixture of them. The paper's transforms: major rotations (90°, 180°, 270°), a minor rotation,
shearing, and flips; major rotations were the best against one attack, and together with shearing against the
other.

The mean over D' is the mean over records of the mean over a record's images, and that is how it is computed:
what clips or weighs a record's gradient (dp-sgd) meets all of its images as one. The images of a record share
its dropout mask.

An attacker who knows the transforms looks for the records alone: D' is a function of D (`disclosure`).

Deviations: the minor rotation (30°) and the shear (0.3) are fixed, where the paper leaves them to the client:
that they are kept secret is no protection to count on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import Batch, LocalRule, WrappedRule
from fedlab.errors import UsageError, did_you_mean
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.records import transforms

Kind = Literal["major-rotation", "minor-rotation", "shear", "horizontal-flip", "vertical-flip"]

DEGREES, SHEAR = 30.0, 0.3
"""Of the minor rotation, and of shearing (pixels to the side per pixel down)."""


class OASIS(Defense):
    """Trains each step on D ∪ {t(x) : x in D, t in T} instead of D.

    Jeter, Nguyen, Alharbi, Thai, "OASIS: Offsetting Active Reconstruction Attacks in Federated Learning",
    ICDCS 2024, https://arxiv.org/abs/2311.13739.

    Args:
        transforms: T, of major-rotation (three copies), minor-rotation, shear, horizontal-flip and
            vertical-flip (one each).
    """

    paper = (
        "Jeter, Nguyen, Alharbi, Thai, OASIS: Offsetting Active Reconstruction Attacks in Federated Learning,"
        " ICDCS 2024, https://arxiv.org/abs/2311.13739"
    )
    example: ClassVar[dict[str, Any]] = {"transforms": ["major-rotation"]}
    adaptive = ("inverting-gradients", "cascade")

    def __init__(self, *, transforms: Sequence[Kind] = ("major-rotation",)) -> None:
        for name in transforms:
            if name not in get_args(Kind):
                hint = did_you_mean(str(name), get_args(Kind))
                raise UsageError(
                    f"transforms = {name!r}; expected some of {', '.join(get_args(Kind))}.{hint}"
                )
        if len(set(transforms)) != len(transforms):
            raise UsageError(f"transforms = {list(transforms)}; expected each at most once")
        self.transforms = tuple(transforms)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return ExpandedRule(rule, Expanded(self.transforms)) if self.transforms else rule

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(expansion=Expanded(self.transforms) if self.transforms else None)


class Expanded:
    """(B, C, H, W) to (k B, C, H, W): each image, followed by its copies. Can be sent to workers."""

    def __init__(self, transforms: Sequence[Kind]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, images: Tensor) -> Tensor:
        kinds = [images, *(copy for kind in self.transforms for copy in COPIES[kind](images))]
        return torch.stack(kinds, 1).flatten(0, 1)


class ExpandedRule(WrappedRule):
    """Another rule, every gradient of which is one of the records and their copies."""

    def __init__(self, inner: LocalRule, expansion: Expanded) -> None:
        super().__init__(inner)
        self.expansion = expansion

    def meet(self, model: FunctionalModel) -> None:
        height, width = model.input_shape[-2:]
        if "major-rotation" in self.expansion.transforms and height != width:
            raise UsageError(
                f"oasis cannot turn images of {height}x{width} by 90°; expected square ones, or transforms ="
                ' ["horizontal-flip", "vertical-flip"]'
            )
        self.inner.meet(model)

    def expand(self, batch: Batch) -> Batch:
        batch = self.inner.expand(batch)
        x = self.expansion(batch.x)
        k = len(x) // len(batch.x)

        def repeated(state: State) -> State:
            return {name: value.repeat_interleave(k, 0) for name, value in state.items()}

        return batch._replace(
            x=x,
            y=batch.y.repeat_interleave(k, 0),
            rows=batch.rows.repeat_interleave(k, 0),
            masks=repeated(batch.masks),
            noise=repeated(batch.noise),
            samples=repeated(batch.samples),
        )


def _turned(images: Tensor) -> list[Tensor]:
    return [images.rot90(quarters, (-2, -1)) for quarters in (1, 2, 3)]


def _tilted(images: Tensor) -> list[Tensor]:
    degrees = images.new_full((len(images),), DEGREES)
    return [transforms.affine(images, transforms.rotation(degrees))]


def _sheared(images: Tensor) -> list[Tensor]:
    share = images.new_full((len(images),), SHEAR)
    return [transforms.affine(images, transforms.shear_x(share))]


COPIES: dict[Kind, Callable[[Tensor], list[Tensor]]] = {
    "major-rotation": _turned,
    "minor-rotation": _tilted,
    "shear": _sheared,
    "horizontal-flip": lambda images: [images.flip(-1)],
    "vertical-flip": lambda images: [images.flip(-2)],
}
"""What each transform adds to an image."""
