"""ATS: train on images transformed by a policy that was searched for, so that gradients show those instead.

Gao, Guo, Zhang, Qiu, Wen, Liu, "Privacy-preserving Collaborative Learning with Automatic Transformation
Search", CVPR 2021, https://arxiv.org/abs/2011.12505. A policy is a chain of operations out of the 50 that the
authors' search drew from; written "3-1-7" it applies number 3, then 1, then 7, each with its magnitude, which
is added or subtracted with equal chance. Of several policies, "3-1-7+43-18-18", each image gets one by chance
in each step. Those that the paper recommends:

    3-1-7+43-18-18    found with a ResNet-20 on CIFAR-100
    21-13-3+7-4-15    found with a convolutional network on CIFAR-100

The search is no part of a run: it needs a trained network and the attack, hours of it. Your own policy is
another chain of the same operations; `OPERATIONS` says what each number stands for.

Each record is transformed by itself, so that noise for single records (dp-sgd) covers it in either order.
What is given away are the transformed images: an attack that is exact finds them, whatever the policy, and
proves nothing about the records (`disclosure`). How much of a record survives its policy is what the audit
scores.

Deviations: linear interpolation (published: nearest pixels, and cubic for shears), a rotation leaves black
corners (grey), no random crop and flip in front of the policy, no equalisation of histograms (number 9 and
seven more), which is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import Batch, InputGradFn, LocalRule, WrappedRule
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.records import transforms

OPERATIONS: tuple[tuple[str, int], ...] = (
    *(("invert", 7), ("contrast", 6), ("rotate", 2), ("translate-x", 9), ("sharpness", 1)),
    *(("sharpness", 3), ("shear-y", 2), ("translate-y", 2), ("autocontrast", 5), ("equalize", 2)),
    *(("shear-y", 5), ("posterize", 5), ("color", 3), ("brightness", 5), ("sharpness", 9)),
    *(("brightness", 9), ("equalize", 5), ("equalize", 1), ("contrast", 7), ("sharpness", 5)),
    *(("color", 5), ("translate-x", 5), ("equalize", 7), ("autocontrast", 8), ("translate-y", 3)),
    *(("sharpness", 6), ("brightness", 6), ("color", 8), ("solarize", 0), ("invert", 0)),
    *(("equalize", 0), ("autocontrast", 0), ("equalize", 8), ("equalize", 4), ("color", 5)),
    *(("equalize", 5), ("autocontrast", 4), ("solarize", 4), ("brightness", 3), ("color", 0)),
    *(("solarize", 1), ("autocontrast", 0), ("translate-y", 3), ("translate-y", 3), ("autocontrast", 1)),
    *(("solarize", 1), ("equalize", 5), ("invert", 0), ("translate-y", 3), ("autocontrast", 1)),
)
"""The paper's 50 operations by number, each with its magnitude in tenths of the way from none to the most."""

MOST = {"shear-y": 0.3, "translate-x": 150 / 331, "translate-y": 150 / 331, "rotate": 30.0}
"""The largest magnitudes, of ten that begin with 0: a shear as a ratio, shifts as shares of a side, degrees.
Of colour, contrast, sharpness and brightness it is 0.5, the factor's distance from 1."""

DRAWS = "ats"
"""Key of this rule's noise: (B, 1 + longest chain) uniform numbers in [0, 1), and 1 in padding."""


class ATS(Defense):
    """Trains on x̃ = T_c(... T_a(x)) for a policy a-...-c, of several one by chance for each image.

    Gao et al., "Privacy-preserving Collaborative Learning with Automatic Transformation Search", CVPR 2021,
    https://arxiv.org/abs/2011.12505.

    Args:
        policy: numbers of operations (0 to 49) joined by "-", and policies joined by "+".
    """

    paper = (
        "Gao et al., Privacy-preserving Collaborative Learning with Automatic Transformation Search, CVPR"
        " 2021, https://arxiv.org/abs/2011.12505"
    )
    example: ClassVar[dict[str, Any]] = {"policy": "3-1-7+43-18-18"}
    adaptive = ("cascade", "inverting-gradients")

    def __init__(self, *, policy: str = "3-1-7+43-18-18") -> None:
        self.policies = parsed(policy)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, self.policies)

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(altered=True)


def parsed(policy: str) -> list[tuple[int, ...]]:
    """The chains of operations in "3-1-7+43-18-18".

    Raises:
        UsageError: it is no such text, or names an operation that there is not.
    """
    expected = 'numbers of operations from 0 to 49, as in "3-1-7+43-18-18"'
    try:
        chains = [tuple(int(number) for number in chain.split("-")) for chain in policy.split("+")]
    except (AttributeError, ValueError):
        raise UsageError(f"policy = {policy!r}; expected {expected}") from None
    for number in (number for chain in chains for number in chain):
        if not 0 <= number < len(OPERATIONS):
            raise UsageError(f"policy = {policy!r}; expected {expected}, and {number} is none")
        if OPERATIONS[number][0] == "equalize":
            raise UsageError(
                f"policy = {policy!r}; expected no equalisation of histograms, which operation {number} is:"
                " it is not offered"
            )
    return chains


class TransformedRule(WrappedRule):
    """Another rule, on transformed records.

    Raises:
        UsageError: the rule also takes a gradient of all records as they are.
    """

    def __init__(self, inner: LocalRule, policies: Sequence[tuple[int, ...]]) -> None:
        super().__init__(inner)
        if inner.full_gradient:
            raise UsageError(
                f"ats transforms the records of a step, but the local rule {type(inner).__name__} also takes"
                " a gradient of all records as they are; choose another rule (or SCAFFOLD's option II)"
            )
        self.pixels = True
        self.policies = list(policies)

    def noise(self, shape: torch.Size, generator: torch.Generator) -> State:
        drawn = self.inner.noise(shape, generator)
        longest = max(len(chain) for chain in self.policies)
        return drawn | {DRAWS: torch.rand(shape[0], 1 + longest, generator=generator)}

    def perturb(self, grad_fn: InputGradFn, parameters: State, batch: Batch) -> Batch:
        batch = self.inner.perturb(grad_fn, parameters, batch)
        which, signs = batch.noise[DRAWS][:, 0], 1.0 - 2.0 * (batch.noise[DRAWS][:, 1:] < 0.5).to(batch.x)
        place = (which * len(self.policies)).floor().clamp(max=len(self.policies) - 1)
        changed = batch.x
        for index, chain in enumerate(self.policies):
            images = batch.x
            for step, number in enumerate(chain):
                images = operate(images, *OPERATIONS[number], signs[:, step])
            changed = torch.where((place == index).reshape(-1, 1, 1, 1), images, changed)
        return batch._replace(x=changed)


def operate(images: Tensor, name: str, tenths: int, signs: Tensor) -> Tensor:
    """(B, C, H, W) after one operation; `signs` (B,) are -1 or 1. One without magnitude changes nothing."""
    share = tenths / 9.0
    if name == "invert":
        return 1.0 - images
    if name == "autocontrast":
        return transforms.autocontrast(images)
    if tenths == 0:
        return images
    if name == "solarize":
        return transforms.solarize(images, 256.0 * (1.0 - share) / 255.0)
    if name == "posterize":
        return transforms.posterize(images, round(8.0 - 4.0 * share))
    if name in ENHANCED:
        return ENHANCED[name](images, 1.0 + 0.5 * share * signs)
    height, width = images.shape[-2:]
    size = MOST[name] * share * signs
    if name == "rotate":
        moved = transforms.rotation(size.abs())  # always to the same side, as published
    elif name == "shear-y":
        moved = transforms.shear_y(size)
    elif name == "translate-x":
        moved = transforms.translation(size * width, torch.zeros_like(size))
    else:
        moved = transforms.translation(torch.zeros_like(size), size * height)
    return transforms.affine(images, moved)


ENHANCED = {
    "brightness": transforms.brightness,
    "color": transforms.colour,
    "contrast": transforms.contrast,
    "sharpness": transforms.sharpness,
}
"""Operations that take a factor around 1."""
