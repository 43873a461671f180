"""What closed forms give away of a network before any training: its layers, the attacks, the knobs.

The exact attacks are tried on clients made for the purpose: one step on a few records of the data set's test
half, with the scenario's mode and learning rate. Here, unlike in an audit, the one who asks owns the records,
so that what an attack claims is checked against them. Then every knob of the model is turned, one at a time,
and the attacks are tried again: which of them closes the leak?

An architecture that withstands all of them is not safe: attacks that optimise are the audit's affair.
"""

from __future__ import annotations

import inspect as signatures
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from fedlab import plugins, seeds
from fedlab.audit import Attack, KnownConfig, Observation, Reconstruction, ThreatModel, Victim
from fedlab.audit.layer_ranks import LayerRank, layer_ranks
from fedlab.audit.scoring import score
from fedlab.audit.truth import Truth
from fedlab.clients import ClientConfig
from fedlab.errors import FedlabError, NotApplicable, UsageError
from fedlab.experiment.setup import build_task
from fedlab.scenario import Scenario, load
from fedlab.tasks import Task

VICTIMS = 4
KNOB_VICTIMS = 2


@dataclass(frozen=True)
class Trial:
    """One exact attack on a few clients of one batch size.

    Attributes:
        psnr: the least over records and clients, in dB: what is surely given away. None without an answer.
        recovered: share of records at or above the scenario's `audit.success_psnr`.
        verdicts: what the attack certified, in its words, each once.
    """

    attack: str
    batch: int
    psnr: float | None
    recovered: float
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Turn:
    """One knob at another value, and what is still exact then. `attack` "" where nothing is."""

    knob: str
    value: Any
    attack: str
    batch: int
    recovered: float
    parameters: int
    problem: str = ""

    @property
    def closes(self) -> bool:
        """Whether no exact attack recovers a record any more."""
        return not self.problem and self.recovered == 0.0


@dataclass(frozen=True)
class Inspection:
    """A network's layers, the exact attacks on it, and its knobs."""

    model: str
    mode: str
    parameters: int
    layers: list[LayerRank]
    trials: list[Trial]
    turns: list[Turn]

    @property
    def leaks(self) -> list[Trial]:
        """Trials that recovered something, the most first."""
        return sorted((one for one in self.trials if one.recovered), key=lambda one: -one.recovered)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        layers = [asdict(one) | {"passes": one.passes, "reading": one.reading} for one in self.layers]
        turns = [asdict(one) | {"closes": one.closes} for one in self.turns]
        return asdict(self) | {"layers": layers, "turns": turns}


def inspect_model(
    scenario: str | Path | dict[str, Any] | Scenario,
    *,
    overrides: Sequence[str] = (),
    batches: Sequence[int] = (1, 2, 4, 8),
    knobs: bool = True,
    task: Task | None = None,
) -> Inspection:
    """Inspect the network of a scenario (of its first seed and client mode); nothing is trained.

    Args:
        batches: batch sizes to look at, ascending.
        knobs: whether to turn the model's knobs.
        task: your own data and network instead of the scenario's; it has no knobs.

    Raises:
        UsageError, DataError: see `fedlab.errors`.
    """
    settings = load(scenario, overrides)
    sizes = sorted(set(batches))
    if not sizes or sizes[0] < 1:
        raise UsageError(f"batches = {list(batches)}; expected batch sizes of at least 1")
    learned = task or build_task(settings)
    if sizes[-1] * VICTIMS > len(learned.test):
        raise UsageError(
            f"a batch of {sizes[-1]} for each of {VICTIMS} clients is more than the {len(learned.test)} test"
            " records; inspect smaller batches"
        )
    bench = _Bench(settings, learned)
    name = settings.task.model.name if task is None else "own network"
    trials = [trial for batch in sizes for trial in bench.trials(batch, VICTIMS)]
    exact = sorted({one.batch for one in trials if one.recovered}) or [sizes[0]]
    again = sorted({exact[0], exact[-1]})
    turns = list(_turns(settings, again)) if knobs and task is None else []
    return Inspection(
        name, bench.mode, bench.victim.model.parameter_count, bench.layers(sizes), trials, turns
    )


class _Bench:
    """One network, and clients of it that take one step."""

    def __init__(self, settings: Scenario, task: Task) -> None:
        self.seed = settings.seeds[0]
        self.settings, self.task, self.mode = settings, task, settings.clients.modes[0]
        model = task.model(seeds.derive(self.seed, "init"))
        self.victim = Victim(model, task.loss, task.input_shape, task.classes)

    def layers(self, batches: Sequence[int]) -> list[LayerRank]:
        generator = seeds.torch_generator(self.seed, "inspect")
        state = self.victim.model.state()
        return layer_ranks(self.victim, state, batches, training=self.mode == "train", generator=generator)

    def trials(self, batch: int, victims: int) -> Iterator[Trial]:
        """Each exact attack that answers at all, or says why not."""
        seen = [self._observed(batch, number) for number in range(victims)]
        threat = ThreatModel(client_mode=self.mode)
        for name, attack in exact_attacks():
            generator = seeds.torch_generator(self.seed, "inspect", name, batch)
            try:
                answers = attack([one for one, _ in seen], threat, self.victim, generator=generator)
            except NotApplicable as error:
                yield Trial(name, batch, None, 0.0, (f"not applicable because {error}",))
                continue
            except Exception as error:  # a stranger's attack may raise anything, and the others go on
                yield Trial(name, batch, None, 0.0, (f"failed: {type(error).__name__}: {error}",))
                continue
            values: list[float] = []
            for answer, (_, truth) in zip(answers, seen, strict=True):
                values += _psnr(answer, truth)
            said = [str(one) for answer in answers for one in answer.certificates]
            said += [str(answer.refusal) for answer in answers if answer.refusal and not answer.certificates]
            hit = [value >= self.settings.audit.success_psnr for value in values]
            answered = any(answer.images is not None for answer in answers)
            yield Trial(
                name,
                batch,
                min(values) if answered else None,
                sum(hit) / len(hit),
                tuple(dict.fromkeys(said)),
            )

    def _observed(self, batch: int, client: int) -> tuple[Observation, Truth]:
        """One client's step on its own records, as its server sees it, and the records."""
        model, clients = self.victim.model, self.settings.clients
        generator = seeds.torch_generator(self.seed, "inspect", batch, client)
        ids = torch.randperm(len(self.task.test), generator=generator)[:batch].sort().values.numpy()
        images, labels = self.task.test.images(ids), self.task.test.labels(ids)
        state = model.state()
        before, buffers = model.parameters_of(state), model.buffers_of(state)
        training = self.mode == "train"
        masks = model.draw_masks(batch, generator) if training else None
        slope = self.victim.gradient(before, buffers, images, labels, training=training, masks=masks)
        rate = clients.learning_rate
        update = {name: (value - rate * slope[name]) - value for name, value in before.items()}
        config = KnownConfig.all_of(
            ClientConfig(self.mode, batch, local_steps=1, learning_rate=clients.learning_rate)
        )
        truth = Truth(1, client, tuple(int(i) for i in ids), images, labels, self.task.test.pixels)
        return Observation(1, client, before, update, buffers, buffers, config, examples=batch), truth


def exact_attacks() -> Iterator[tuple[str, Attack]]:
    """Every attack that solves equations and asks for no malicious server; broken plugins are left out."""
    for name in plugins.names("attacks"):
        try:
            found = plugins.load("attacks", name)
        except FedlabError:
            continue
        if (
            signatures.isclass(found)
            and issubclass(found, Attack)
            and found.exact
            and found.server == "curious"
        ):
            yield name, plugins.build("attacks", name)


def _psnr(answer: Reconstruction, truth: Truth) -> list[float]:
    """One value per true record, 0 where there is no answer."""
    return [0.0 if value is None else value for value in score(answer, truth).psnr]


def _turns(settings: Scenario, batches: Sequence[int]) -> Iterator[Turn]:
    """Every knob of the model at other values, and the attacks tried again."""
    model = settings.task.model
    for knob, value in _alternatives(model.name, dict(model.params)):
        turned = type(model).model_validate({"name": model.name, **model.params, knob: value})
        varied = settings.model_copy(update={"task": settings.task.model_copy(update={"model": turned})})
        try:
            bench = _Bench(varied, build_task(varied))
        except UsageError as error:
            yield Turn(knob, value, "", batches[0], 0.0, 0, str(error))
            continue
        found = [one for batch in batches for one in bench.trials(batch, KNOB_VICTIMS)]
        best = max(found, key=lambda one: one.recovered, default=None)
        yield Turn(
            knob,
            value,
            best.attack if best is not None and best.recovered else "",
            best.batch if best is not None else batches[0],
            best.recovered if best is not None else 0.0,
            bench.victim.model.parameter_count,
        )


def _alternatives(name: str, given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(knob, another value): the other choices of a choice, half and twice a number, dropout on."""
    for one in plugins.parameters("models", name):
        now = given.get(one.name, one.default)
        if isinstance(now, bool):
            yield one.name, not now
        elif get_origin(one.annotation) is Literal:
            yield from ((one.name, value) for value in get_args(one.annotation) if value != now)
        elif isinstance(now, int):
            yield from ((one.name, value) for value in (now // 2, now * 2) if value not in (0, now))
        elif isinstance(now, float) and one.name == "dropout":
            yield one.name, 0.5 if now == 0.0 else 0.0
