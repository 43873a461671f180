"""Every reconstruction attack at its cheapest, with clients that it can attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from attack_scene import Scene, scene, small_mlp, stream
from fedlab_attacks.cascade import Cascade
from fedlab_attacks.exact.imprint import Imprint
from fedlab_attacks.exact.layer_peel import LayerPeel
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.exact.patch_embedding import PatchEmbedding
from fedlab_attacks.exact.pullback import HypernetworkPullback
from fedlab_attacks.exact.sparse_batch import SparseBatch
from fedlab_attacks.label_recovery import LabelRecovery
from fedlab_attacks.random_gradient import RandomGradient
from fedlab_attacks.recipes.batch_statistics import BatchStatistics
from fedlab_attacks.recipes.deep_leakage import DeepLeakage, ImprovedDeepLeakage
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.grad_inversion import GradInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from fedlab_attacks.recipes.local_steps import LocalSteps
from fedlab_attacks.recipes.training_client import TrainingClient
from fedlab_attacks.recipes.training_mode import GIAEstimate, GIARunning
from test_imprint import malicious
from test_patch_embedding import ours as patches
from test_pullback import client as hypernetwork_client
from test_pullback import mlp as generated_mlp
from test_training_mode import clients as normed_clients
from torch import Tensor, nn

from fedlab.audit.attack import Attack, Reconstruction
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel


def plain(victims: int) -> Scene:
    return scene(small_mlp, victims=victims)


def imprinted(victims: int) -> Scene:
    return malicious(Imprint(bins=100), 1, victims)


def generated(victims: int, network: Callable[[], nn.Module] = generated_mlp) -> Scene:
    """Clients of a hypernetwork, each with an embedding and a classifier of its own."""
    every = [hypernetwork_client(network, seed=seed) for seed in range(victims)]
    seen = [replace(one.observation, client=number) for number, one in enumerate(every)]
    return Scene(every[0].victim, seen, [one.images for one in every], [])


DEFAULT = ThreatModel()


@dataclass(frozen=True)
class Case:
    """An attack at its cheapest, clients that it can attack, and what it is allowed to know."""

    make: Callable[[], Attack]
    clients: Callable[[int], Scene] = plain
    threat: ThreatModel = DEFAULT


def normed(victims: int) -> Scene:
    return normed_clients(victims=victims)


PROXY = ThreatModel(proxy_data=True)
CASES: dict[str, Case] = {
    "cascade": Case(lambda: Cascade(iterations=30)),
    "linear-layer": Case(LinearLayer),
    "sparse-batch": Case(lambda: SparseBatch(samples=4096)),
    "patch-embedding": Case(PatchEmbedding, lambda victims: scene(patches(), victims=victims)),
    "layer-peel": Case(LayerPeel),
    "hypernetwork-pullback": Case(lambda: HypernetworkPullback(iterations=30), generated),
    "imprint": Case(lambda: Imprint(bins=100), imprinted, ThreatModel(server="malicious", proxy_data=True)),
    "label-recovery": Case(LabelRecovery),
    "deep-leakage": Case(lambda: DeepLeakage(iterations=10)),
    "improved-deep-leakage": Case(lambda: ImprovedDeepLeakage(iterations=10)),
    "inverting-gradients": Case(lambda: InvertingGradients(iterations=30)),
    "grad-inversion": Case(lambda: GradInversion(iterations=30, restarts=2), normed),
    "batch-statistics": Case(lambda: BatchStatistics(iterations=30), normed),
    "gia-running": Case(lambda: GIARunning(iterations=30), normed),
    "gia-estimate": Case(lambda: GIAEstimate(iterations=30), normed, PROXY),
    "dropout-inversion": Case(lambda: DropoutInversion(iterations=30)),
    "local-steps": Case(lambda: LocalSteps(iterations=20)),
    "training-client": Case(lambda: TrainingClient(iterations=20, restarts=1)),
    "random-gradient": Case(lambda: RandomGradient(attack="inverting-gradients", iterations=30)),
}
clients = functools.cache(lambda name, victims=2: CASES[name].clients(victims))


def asked(
    name: str, observations: Sequence[Observation], threat: ThreatModel | None = None, seed: int = 0
) -> list[Reconstruction]:
    case = CASES[name]
    known = clients(name).victim
    return case.make()(observations, threat or case.threat, known, generator=stream(seed))


@functools.cache
def answered(name: str) -> list[Reconstruction]:
    """What the attack says of its two clients, asked once for all tests."""
    return asked(name, clients(name).observations)


def same(one: Tensor | None, other: Tensor | None, atol: float = 0.0) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=0.0, atol=atol))


def alike(one: Tensor | None, other: Tensor | None) -> bool:
    """30 dB: more than rounding that a descent multiplies takes away, and no two starts come as near."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and float((one - other).square().mean()) < 1e-3
