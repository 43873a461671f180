"""Statistics of normalisation layers: what a client's batch looked like to them, exactly or nearly.

A layer's statistics are the mean and the biased variance of its input: per channel for batch norm, over
everything for layer, group and instance norm (as in GIA-estimate). Three sources, from the most knowledge
to the least:

- `client_statistics`: exact, solved from the running statistics that a client sends back. One step of a
  batch norm with momentum m turns r into r' = (1 - m) r + m s, so s = (r' - (1 - m) r) / m; the running
  variance takes the unbiased variance, and is scaled back by (n - 1) / n. GIA-running in D. Valadi et al.,
  2025, https://arxiv.org/abs/2508.19819, whose code takes n to be the number of images. It is the number of
  values per channel, n = B H W: with the former a single image would have no variance at all.
- `proxy_statistics`: those of batches of similar data of the same size, pushed through the same network.
  GIA-estimate, ibid.; deviation: the mean over all batches that the attacker's data makes (published: one).
- `running_statistics`: what the server's own model has averaged. Y. Huang et al., "Evaluating Gradient
  Inversion Attacks and Defenses in Federated Learning", NeurIPS 2021, https://arxiv.org/abs/2112.00059.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.errors import Contradiction, MissingBuffers, NotApplicable
from fedlab.tasks.layers import BatchNorm
from fedlab_attacks.optimise.problem import Statistics
from fedlab_attacks.reading import probe, steps

_NORMS = (
    BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def moments(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of a layer's input (B, C, ...): (C,) each for batch norm, else (1,)."""
    rows = x.transpose(0, 1).flatten(1) if isinstance(layer, BatchNorm) else x.reshape(1, -1)
    mean = rows.mean(1)
    return mean, (rows - mean[:, None]).square().mean(1)


@contextmanager
def recording(victim: Victim) -> Iterator[Statistics]:
    """Within, each pass through the network leaves its norm layers' moments; differentiable."""
    found: Statistics = {}
    hooks = []
    for name, module in victim.model.net.named_modules():
        if isinstance(module, _NORMS):

            def note(layer: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                found[name] = moments(layer, args[0])

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def batch_norms(victim: Victim) -> dict[str, BatchNorm]:
    """The network's batch norms by name."""
    return {name: layer for name, layer in victim.model.net.named_modules() if isinstance(layer, BatchNorm)}


def client_statistics(observation: Observation, victim: Victim, batch: int) -> Statistics:
    """Batch norm's statistics of the client's one step on `batch` records.

    Raises:
        MissingBuffers: the network has no batch norm, or its running statistics did not arrive or never move.
        NotApplicable: several local steps or clients mix several batches' statistics.
        Contradiction: statistics that no batch of that size has.
    """
    layers = batch_norms(victim)
    if not layers:
        raise MissingBuffers("the network has no batch norm, so that there are no statistics to solve for")
    before, after = observation.buffers_before, observation.buffers_after
    lacking = [name for name in layers if f"{name}.running_mean" not in after]
    if lacking:
        raise MissingBuffers(
            f"the running statistics of {lacking[0]} after the step are missing: the client kept its buffers,"
            " or the threat model denies batch_norm_buffers; estimate them from proxy data (gia-estimate)"
        )
    config = observation.config
    if config.local_steps is None and config.local_epochs is None:
        raise NotApplicable(
            "the number of local steps is unknown; only one step's statistics can be solved for"
        )
    if steps(observation) != 1 or observation.parts:
        raise NotApplicable(
            f"{len(observation.parts) or 1} client(s) with {steps(observation)} local steps left a mixture of"
            " several batches' statistics; only one batch's can be solved for: match the buffers instead"
        )
    image = torch.zeros(1, *victim.input_shape)
    probed = probe(victim, {**observation.before, **before}, image)
    sizes = {seen.name: batch * seen.input[0, 0].numel() for seen in probed if seen.name in layers}
    found: Statistics = {}
    for name, n in sizes.items():
        m = layers[name].momentum
        if m == 0:
            raise MissingBuffers(f"{name} has momentum 0: its running statistics never move")
        mean, unbiased = (
            (after[key].double() - (1 - m) * before[key].double()) / m
            for key in (f"{name}.running_mean", f"{name}.running_var")
        )
        if not bool((mean.isfinite() & unbiased.isfinite()).all()):
            raise Contradiction(f"the running statistics of {name} are not finite")
        if bool((unbiased < -1e-5 * before[f"{name}.running_var"].double() / m).any()):  # more than rounding
            raise Contradiction(
                f"the running variance of {name} fell by more than a share of {m:g}, as no batch can make it:"
                " the buffers are noisy, or of more than one step"
            )
        found[name] = mean.float(), (unbiased.clamp_min(0.0) * (n - 1) / n).float()
    return found


def running_statistics(observation: Observation, victim: Victim) -> Statistics:
    """Batch norm's running statistics in the model that the server sent.

    Raises:
        MissingBuffers: the network has no batch norm.
    """
    sent = observation.buffers_before
    names = list(batch_norms(victim))
    if not names:
        raise MissingBuffers("the network has no batch norm, so that it has no running statistics")
    return {name: (sent[f"{name}.running_mean"], sent[f"{name}.running_var"]) for name in names}


def proxy_images(victim: Victim) -> Tensor:
    """The attacker's own images (N, C, H, W), for statistics of norm layers.

    Raises:
        NotApplicable: it has none, or the network has no norm layer.
    """
    if victim.proxy is None or not len(victim.proxy.images):
        raise NotApplicable("the attacker has no data of its own; grant it proxy_data")
    if not any(isinstance(module, _NORMS) for module in victim.model.net.modules()):
        raise NotApplicable("the network has no normalisation layer whose statistics could be estimated")
    return victim.proxy.images


def proxy_statistics(
    observation: Observation,
    victim: Victim,
    batch: int,
    *,
    training: bool,
    rates: bool = True,
    generator: torch.Generator,
) -> Statistics:
    """Statistics that batches of the attacker's own data have in the model that the server sent.

    Args:
        training: batch statistics in batch norm and dropout masks (drawn from `generator`), as a training
            client has them.
        rates: whether dropout rates are known; without them, dropout is the identity.

    Raises:
        NotApplicable: no proxy data, or no norm layer.
    """
    images = proxy_images(victim)
    whole = max(len(images) // batch, 1)
    state = {**observation.before, **observation.buffers_before}
    records: list[Statistics] = []
    for start in range(0, whole * batch, batch):
        part = images[start : start + batch]
        masks = victim.model.draw_masks(len(part), generator) if training else {}
        if not rates:
            kept = {name: 1.0 - rate for name, rate in victim.model.dropout_rates.items()}
            masks = {name: torch.full_like(mask, kept[name]) for name, mask in masks.items()}
        with recording(victim) as found, torch.no_grad():
            victim.model(state, part, training=training, masks=masks or None)
        records.append(found)
    return average(records)


def average(records: Sequence[Statistics]) -> Statistics:
    """The mean of several batches' statistics, layer by layer."""
    return {
        name: (
            torch.stack([one[name][0] for one in records]).mean(0),
            torch.stack([one[name][1] for one in records]).mean(0),
        )
        for name in records[0]
    }


def stacked(records: Sequence[Statistics]) -> Statistics:
    """Statistics of several victims with a leading axis: (V, channels) each."""
    return {
        name: (torch.stack([one[name][0] for one in records]), torch.stack([one[name][1] for one in records]))
        for name in records[0]
    }
