"""What to change where a client trains: lines for tries that act on its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.report.tried_code import Step, number

Params = Mapping[str, Any]

_PLACE = "Where the client trains, in this file or in one that it calls"
_TURNS = {
    "major-rotation": "*(images.rot90(turns, (-2, -1)) for turns in (1, 2, 3))",
    "horizontal-flip": "images.flip(-1)",
    "vertical-flip": "images.flip(-2)",
}
"""Copies of a batch that torch makes in a line."""


def dp_sgd(params: Params, file: str) -> list[Step]:
    """Opacus around the model, the optimizer and the loader."""
    target = params.get("epsilon") is not None and params.get("noise_multiplier") is None
    call = "make_private_with_epsilon" if target else "make_private"
    lines = ["module=model,", "optimizer=optimizer,", "data_loader=loader,"]
    if target:
        lines += [
            f"target_epsilon={number(params['epsilon'])!r},",
            f"target_delta={number(params.get('delta', 1e-5))!r},",
            "epochs=local_epochs * num_rounds,  # all that a client ever trains",
        ]
    else:
        lines.append(f"noise_multiplier={number(params.get('noise_multiplier', 1.0))!r},")
    lines += [*_clipping(params), "poisson_sampling=True,"]
    given = "".join(f"    {line}\n" for line in lines)
    code = f"""\
from opacus import PrivacyEngine

model.train()
private, optimizer, loader = PrivacyEngine().{call}(
{given})
for images, labels in loader:
    optimizer.zero_grad()
    criterion(private(images), labels).backward()
    optimizer.step()
# Send model.state_dict(): that of `private` has other names.
"""
    steps = [Step(_PLACE, code, file=file)]
    if params.get("fix") is True:
        fix = "from opacus.validators import ModuleValidator\n\nmodel = ModuleValidator.fix(model)\n"
        steps.insert(0, Step("Where the model is made, on the server and in the clients alike", fix))
    return steps


def _clipping(params: Params) -> Sequence[str]:
    """How gradients are clipped, in Opacus' words."""
    norm = repr(number(params.get("max_grad_norm", 1.0)))
    kind = params.get("clipping", "flat")
    if kind == "per-layer":
        count = "len(list(model.parameters()))"
        return ('clipping="per_layer",', f"max_grad_norm=[{norm} / {count}**0.5] * {count},")
    if kind != "adaptive":
        return (f"max_grad_norm={norm},",)
    first = number(params.get("max_grad_norm", 1.0))
    noise = params.get("count_noise")
    return (
        f"max_grad_norm={norm},",
        'clipping="adaptive",',
        f"target_unclipped_quantile={number(params.get('quantile', 0.5))!r},",
        f"clipbound_learning_rate={number(params.get('clip_rate', 0.2))!r},",
        f"min_clipbound={1e-6 * first!r},",
        f"max_clipbound={1e6 * first!r},",
        "unclipped_num_std="
        + ("max(loader.batch_size / 20, 1.0)," if noise is None else f"{number(noise)!r},"),
    )


def mixup(params: Params, file: str) -> list[Step]:
    """Mixtures of two records instead of records."""
    alpha = repr(number(params.get("alpha", 1.0)))
    code = f"""\
share = torch.distributions.Beta({alpha}, {alpha}).sample()
order = torch.randperm(len(images))
mixed = share * images + (1 - share) * images[order]
logits = model(mixed)
loss = share * criterion(logits, labels) + (1 - share) * criterion(logits, labels[order])
"""
    return [Step(f"{_PLACE}: instead of the loss of a batch", code, file=file)]


def oasis(params: Params, file: str) -> list[Step]:
    """Each record together with turned or mirrored copies of itself; [] for copies that take more lines."""
    kinds = [str(one) for one in params.get("transforms", ("major-rotation",))]
    if not all(one in _TURNS for one in kinds):
        return []
    code = (
        f"copies = [images, {', '.join(_TURNS[one] for one in kinds)}]\n"
        "images, labels = torch.cat(copies), labels.repeat(len(copies))\n"
    )
    return [Step(f"{_PLACE}: before a batch is given to the model", code, file=file)]
