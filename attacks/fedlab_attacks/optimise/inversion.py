"""What attacks that optimise share: refusals, labels, grouping, chunks that fit a cache, restarts, devices.

A victim's random numbers come from a stream of its own, so that it is attacked alone as in company.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import State
from fedlab.tasks.precision import compute_exactly
from fedlab_attacks.label_recovery import recover_labels
from fedlab_attacks.optimise.starts import Start, uniform
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker, batch_size

PARALLEL = 2**22
"""Gradient coordinates that one graph may hold: 16 MB in float32, about what caches keep."""


@dataclass(frozen=True)
class Setting:
    """Victims of one batch size, ready to be attacked together.

    Attributes:
        positions: their places among the observations.
        labels: (V, R).
        generators: each victim's own stream.
        given: images (V, R, C, H, W) to start from, or None.
    """

    positions: list[int]
    observations: list[Observation]
    labels: Tensor
    generators: list[torch.Generator]
    given: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def batch(self) -> int:
        """Records per victim."""
        return self.labels.shape[1]

    def noise(self, victim: Victim, restarts: int, start: Start = uniform) -> Tensor:
        """(V * restarts, R, C, H, W) images to start from; the restarts of a victim are neighbours."""
        if self.given is not None:
            return self.given.repeat_interleave(restarts, dim=0)
        shape = (restarts, self.batch, *victim.input_shape)
        return torch.cat([start(shape, generator) for generator in self.generators])

    def draw_masks(self, victim: Victim, restarts: int) -> State:
        """Random keep-masks (V * restarts, R, ...)."""
        count = self.batch * restarts
        each = [victim.model.draw_masks(count, generator) for generator in self.generators]
        return {
            name: torch.cat([one[name] for one in each]).reshape(-1, self.batch, *shape)
            for name, shape in victim.model.mask_shapes.items()
        }

    def identity_masks(self, victim: Victim, restarts: int) -> State:
        """Masks (V * restarts, R, ...) that make dropout the identity, which training mode asks for."""
        model, count = victim.model, len(self) * restarts
        return {
            name: torch.full((count, self.batch, *shape), 1.0 - model.dropout_rates[name])
            for name, shape in model.mask_shapes.items()
        }


def expected_noise(victim: Victim, rows: int, uses: int) -> State:
    """Noise (rows, uses, ...) that makes stochastic layers give their mean."""
    return {name: torch.zeros(rows, uses, *shape) for name, shape in victim.model.noise_shapes.items()}


class Inversion(Attack):
    """An attack that descends; a subclass says how in `solve`.

    What is known of the clients' defense is used without a recipe's doing: `Problem` and `simulate` have it.

    Args:
        iterations: of the main descent. restarts: starts per victim; the least residual wins.
        device: torch's name of where to compute.

    Raises:
        UsageError: a parameter is out of range, or there is no such device.
    """

    needs: ClassVar = frozenset({"batch_size"})
    informed: ClassVar[bool] = True

    def __init__(self, *, iterations: int, restarts: int = 1, device: str = "cpu") -> None:
        for name, value in (("iterations", iterations), ("restarts", restarts)):
            if value < 1:
                raise UsageError(f"{type(self).__name__}: {name} = {value}; expected at least 1")
        self.iterations, self.restarts = iterations, restarts
        self.device = _device(type(self).__name__, device)
        self._given: tuple[Tensor, ...] = ()

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        """Iterations in all for one chunk of victims; a subclass that does more says so."""
        return self.iterations

    def depth(self, observations: Sequence[Observation]) -> int:
        """How many gradients one graph holds per victim and restart."""
        return 1

    @abstractmethod
    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        """The best candidate for each victim of `setting`, and how each was found."""

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        """(R,) labels of the records to look for.

        Raises:
            NotApplicable: how many they are, or which labels they have, cannot be known.
        """
        batch = self.records(observation, threat)
        return recover_labels(observation, threat, victim, batch, generator=generator)

    def records(self, observation: Observation, threat: ThreatModel) -> int:
        """How many records to look for.

        Raises:
            NotApplicable: that cannot be known.
        """
        batch = batch_size(observation, threat)
        if batch is None:
            raise NotApplicable(
                "the batch size is unknown: the client uses all its records and does not say how many"
            )
        return batch

    def starting_from(self, starts: Sequence[Tensor]) -> Inversion:
        """The same, descending from given images (R, C, H, W), one per observation.

        Their order is that of the labels: with labels granted, that of the records' ids.
        """
        other = copy.copy(self)
        other._given = tuple(starts)
        return other

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        if self._given and len(self._given) != len(observations):
            raise UsageError(
                f"{type(self).__name__}: {len(self._given)} starts for {len(observations)} observations that"
                " can be attacked; expected one each"
            )
        keep_freed_memory()
        compute_exactly(self.device)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        answers = [Reconstruction(refusal="not attacked")] * len(observations)
        ready: dict[int, list[tuple[int, Tensor, torch.Generator]]] = {}
        for position, observation in enumerate(observations):
            own = own_generator(seed, observation)
            try:
                labels = self.labels(observation, threat, victim, own)
            except NotApplicable as error:
                answers[position] = Reconstruction.refused(error)
            else:
                ready.setdefault(len(labels), []).append((position, labels, own))
        size = max(1, parallel(victim) // (self.restarts * self.depth(observations)))
        chunks = [group[i : i + size] for group in ready.values() for i in range(0, len(group), size)]
        ticker = Ticker(report, len(chunks) * self.budget(victim, threat))
        for chunk in chunks:
            positions = [position for position, _, _ in chunk]
            setting = Setting(
                positions=positions,
                observations=[observations[position] for position in positions],
                labels=torch.stack([labels for _, labels, _ in chunk]),
                generators=[own for _, _, own in chunk],
                given=self._starts(positions, len(chunk[0][1]), victim),
            )
            found, stages = self.solve(setting, threat, victim, ticker)
            found = found.to("cpu")
            soft = None if found.labels is None else found.labels.argmax(-1)
            for i, position in enumerate(setting.positions):
                residual = float(found.residual[i])
                answers[position] = Reconstruction(
                    images=found.images[i].nan_to_num(nan=0.5).clamp(0.0, 1.0),
                    labels=setting.labels[i] if soft is None else soft[i],
                    residual=residual if residual < float("inf") else float("nan"),
                    details={"found by": stages[i], "batch": setting.batch},
                )
        return answers

    def _starts(self, positions: Sequence[int], batch: int, victim: Victim) -> Tensor | None:
        if not self._given:
            return None
        expected = (batch, *victim.input_shape)
        for position in positions:
            shape = tuple(self._given[position].shape)
            if shape != expected:
                raise UsageError(f"{type(self).__name__}: a start of shape {shape}; expected {expected}")
        return torch.stack([self._given[position] for position in positions])


def parallel(victim: Victim) -> int:
    """How many victims and restarts one graph should hold for this network."""
    size = sum(value.numel() for value in victim.model.parameters_of(victim.model.state()).values())
    return max(1, PARALLEL // max(size, 1))


def own_generator(seed: int, observation: Observation) -> torch.Generator:
    """A victim's own stream, so that it gets the same start alone as in company."""
    mixed = seed + 1_000_003 * observation.round + 7_919 * observation.client
    return torch.Generator().manual_seed(mixed % 2**63)


def keep_freed_memory() -> None:
    """Ask the allocator for a large block and drop it, so that glibc keeps what is freed from now on.

    glibc hands freed blocks beyond a threshold back to the kernel, and the next iteration pays for every page
    again (half of its time, measured on a 85 000-parameter network). Freeing a block of just under 32 MB
    raises that threshold for the process (mallopt(3), M_MMAP_THRESHOLD). The block is never touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _device(who: str, name: str) -> torch.device:
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"{who}: device = {name!r}; expected one that torch has here, as cpu ({error})"
        ) from error
    return found
