"""Every key of a scenario, with its type, range, default and meaning; `docs/scenario.md` is made of it.

Strict: no coercion (but a list may stand for a tuple), no unknown key, no infinite number. What one
key says about another (a cohort and the number of clients) is checked in `rules.py`, so that a scenario
with five mistakes gets five messages. Attribute docstrings become the descriptions in the JSON Schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedlab.errors import UnknownName
from fedlab.scenario.devices import Devices
from fedlab.scenario.given import is_count, table
from fedlab.scenario.map import Map
from fedlab.scenario.privacy import Privacy
from fedlab.scenario.sections import (
    Count,
    Momentum,
    Name,
    NotNegative,
    Plugin,
    PluginOrName,
    Positive,
    Section,
    Seed,
)
from fedlab.scenario.strategy import Strategy as Strategy
from fedlab.scenario.strategy import Variant as Variant
from fedlab.scenario.tasks import NamedTask, Task, first
from fedlab.scenario.threats import Threat as Threat
from fedlab.scenario.threats import ThreatVariant as ThreatVariant
from fedlab.scenario.threats import merged as merged_threats
from fedlab.scenario.variants import merged

Mode = Literal["train", "eval"]


def _as_list(value: object) -> object:
    """`mode = "train"` is short for `mode = ["train"]`."""
    return [value] if isinstance(value, str) else value


class Labelled(Plugin):
    """A plugin that can stand in a scenario twice, under two labels."""

    label: Name = ""
    """How reports and files call it; the plugin's name unless given."""

    @model_validator(mode="before")
    @classmethod
    def _default_label(cls, data: Any) -> Any:
        return {"label": data["name"], **data} if isinstance(data, dict) and "name" in data else data


class Adversary(Labelled):
    """Clients that do not do what they are told: give a `fraction`, or name the `clients`."""

    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the clients, rounded; which ones, the seed decides."""
    clients: Annotated[tuple[Annotated[int, Field(ge=0, lt=10**9)], ...], Field(strict=False)] | None = None
    """Which clients, by number."""


Modes = Annotated[
    tuple[Mode, ...],
    Field(min_length=1, strict=False),
    BeforeValidator(_as_list, json_schema_input_type=Mode | Annotated[tuple[Mode, ...], Field(min_length=1)]),
]


class Stragglers(Section):
    """Clients that do not finish in time: FedProx's systems heterogeneity."""

    fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of each round's clients that get through only some of their `local_epochs`."""
    partial: bool = True
    """Whether what they get done counts; if not, they are left out of the round, as FedAvg does."""


class Clients(Section):
    """Who learns, and how each client trains."""

    count: Count = 10
    """Number of clients that share the training records."""
    partition: PluginOrName = Plugin(name="iid")
    """How the records are shared out: `fedlab list partitions`."""
    batch_size: Annotated[int, Field(ge=0, le=10**9)] = 32
    """Records per step; 0 takes all of a client's records at once."""
    local_steps: Count | None = None
    """Steps per round; leave it out to count `local_epochs` instead."""
    local_epochs: Count = 1
    """Passes over the client's records per round, unless `local_steps` is given."""
    mode: Modes = ("train",)
    """How clients run their network: `"train"` (dropout on, batch statistics), `"eval"` (dropout off,
    running statistics), or a list of both, which are then trained and attacked one after the other."""
    learning_rate: Positive = 0.1
    """Of the clients' SGD."""
    momentum: Momentum = 0.0
    """Of the clients' SGD."""
    weight_decay: NotNegative = 0.0
    """Of the clients' SGD."""
    stragglers: Stragglers | None = None
    """Clients that do less than the others; none unless given."""

    @property
    def modes(self) -> list[Mode]:
        """`mode` as a list."""
        return list(self.mode)


class Guard(Section):
    """The update firewall: malformed updates are turned away one by one, before any aggregator meets them."""

    enabled: bool = True
    """Whether it stands in front of the strategy."""
    max_norm: Positive = 1e6
    """L2 norm of an update (the change of all arrays together) from which on it is absurd."""


class Checkpoint(Section):
    """When training is written down so that `fedlab resume` can go on; it changes no bit of the result."""

    every: Annotated[int, Field(ge=0, le=10**9)] = 50
    """After so many rounds at the latest; 0 writes none."""
    seconds: Positive = 10.0
    """After so many seconds of wall clock at the latest."""


class Runtime(Section):
    """Where it runs. Nothing here but `chunk` and `num_gpus` changes a single bit of the result."""

    executor: Literal["ray", "inline"] = "ray"
    """`"ray"` trains in worker processes, `"inline"` in this one."""
    workers: Literal["auto"] | Count = "auto"
    """Worker processes of Ray; `"auto"` is as many as the resources below allow."""
    num_cpus: Positive = 1.0
    """CPU cores that each worker reserves."""
    num_gpus: NotNegative = 0.0
    """GPUs that each worker reserves; a fraction shares one. Above 0 clients train there (attacks compute on
    the CPU), and a GPU's sums differ from a CPU's in the last bits."""
    placement: Literal["pack", "spread"] = "pack"
    """How Ray lays out workers over a cluster's machines: as few as possible, or as many."""
    address: str | None = None
    """An existing Ray cluster to join ("auto", or "host:port"); a local one is started unless given."""
    working_dir: str | None = None
    """A folder with code of your own that a cluster's workers must import: Ray sends them a copy. Only with
    `address`; on one machine they import whatever you can."""
    wait: Positive = 25.0
    """Seconds that a run waits for its first worker while others hold the cluster, before it gives up."""
    chunk: Count | None = None
    """Clients that are trained as one stacked batch; chosen from the scenario unless given."""


class Audit(Section):
    """What the curious server keeps, and how it is scored."""

    rounds: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (1,)
    """Rounds whose updates are kept, counted from 1."""
    victims: Count = 8
    """Observed updates to attack, fixed by the seed; scores are medians over them. Unless given, 8, or
    fewer where the scenario has fewer."""
    candidates: Annotated[int, Field(ge=2, le=10**6)] = 200
    """Records that a membership attack is asked about, per client of a victim: half of them are the
    client's own, the others test records of the same labels, each of which is asked about once. Fewer where
    records or partners run out."""
    success_psnr: Annotated[float, Field(gt=0, le=200)] = 20.0
    """From this PSNR on, in dB, a record counts as recovered."""
    adaptive: bool = True
    """Also run, against each defense, the attacks that know it (`fedlab list defenses` names them), and each
    of them once more as an attacker who does not know."""
    fail_on: Annotated[
        tuple[str, ...],
        Field(strict=False),
        BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...]),
    ] = ()
    """Gates: conditions under which the audit fails (exit code 4), such as
    `"attack.cascade[defense=dp-sgd].psnr_median > 20"`. `fedlab run --fail-on` adds to them."""
    include_samples: bool = False
    """Keep the clients' images and their reconstructions in the run directory and show them in the report."""
    max_disk_mb: Positive = 2000.0
    """The most megabytes that observations may take."""


class Scenario(Section):
    """One experiment: what is learned, by whom, where it runs, who attacks it, and what defends it."""

    version: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: Name = "scenario"
    """Name of the run; the file's name unless given."""
    claim: str = ""
    """What the scenario is to show, in a sentence."""
    seed: Seed | None = None
    """Seed of every random draw; 0 unless `seed` or `seeds` is given."""
    seed_list: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)] | None = Field(
        default=None, alias="seeds"
    )
    """Several seeds, each a run of its own; instead of `seed`."""
    task: Task
    tasks: Annotated[tuple[NamedTask, ...], Field(strict=False)] = ()
    """Several `[[tasks]]` that the same clients learn at once, instead of `[task]`."""
    clients: Clients = Clients()
    strategy: Strategy = Strategy()
    strategies: Annotated[tuple[Variant, ...], Field(strict=False)] = ()
    """Each `[[strategies]]` is trained once per defense, mode and seed; only `[strategy]` unless given."""
    devices: Devices = Devices()
    guard: Guard = Guard()
    checkpoint: Checkpoint = Checkpoint()
    runtime: Runtime = Runtime()
    audit: Audit = Audit()
    privacy: Privacy = Privacy()
    threat: Threat = Threat()
    threats: Annotated[tuple[ThreatVariant, ...], Field(strict=False)] = ()
    """Each `[[threats]]` is tried with every attack, beside `[threat]`."""
    attacks: Annotated[tuple[Labelled, ...], Field(strict=False)] = ()
    """Each `[[attacks]]` is scored against each defense: `fedlab list attacks`."""
    defenses: Annotated[tuple[Labelled, ...], Field(min_length=1, strict=False)] = (
        Labelled(name="none", label="none"),
    )
    """Each `[[defenses]]` is trained once per mode and seed: `fedlab list defenses`."""
    adversaries: Annotated[tuple[Adversary, ...], Field(strict=False)] = ()
    """Each `[[adversaries]]` are clients that attack the training: `fedlab list adversaries`."""
    map: Map | None = None
    """The same attacks while one setting after another is turned; none unless given."""
    sweep: (
        Annotated[
            dict[str, Annotated[tuple[Any, ...], Field(min_length=1, strict=False)]], Field(min_length=1)
        ]
        | None
    ) = None
    """Key, in quotes -> the values that it takes, as in `"clients.batch_size" = [1, 4, 8]`. `fedlab sweep`
    runs every combination; `fedlab run` runs no sweep."""

    @property
    def seeds(self) -> list[int]:
        """The seeds, from `seed` or `seeds`."""
        return [self.seed] if self.seed is not None else list(self.seed_list or (0,))

    @property
    def labels(self) -> list[str]:
        """The labels of `[[strategies]]`; only "" where there are none."""
        return [one.label for one in self.strategies] or [""]

    @property
    def assumed(self) -> dict[str, Threat]:
        """The threats by label; that of `[threat]` is ""."""
        return {"": self.threat, **{one.label: one.alone for one in self.threats}}

    def facing(self, label: str) -> Scenario:
        """The same with one of `assumed` for its only threat.

        Raises:
            UnknownName: it has no such threat.
        """
        if label not in self.assumed:
            raise UnknownName("threat of this scenario", label, self.assumed)
        return self.model_copy(update={"threat": self.assumed[label], "threats": ()})

    def under(self, label: str) -> Scenario:
        """The same with one of `labels` for its only strategy.

        Raises:
            UnknownName: it has no such strategy.
        """
        if label not in self.labels:
            raise UnknownName("strategy of this scenario", label, self.labels)
        if not self.strategies:
            return self
        chosen = self.strategies[self.labels.index(label)]
        return self.model_copy(update={"strategy": chosen.alone, "strategies": ()})

    def alone(self, label: str) -> Scenario:
        """The same with one of its `tasks` for the only one.

        Raises:
            UnknownName: it has no such task.
        """
        labels = [one.label for one in self.tasks]
        if label not in labels:
            raise UnknownName("task of this scenario", label, labels)
        one = self.tasks[labels.index(label)]
        return self.model_copy(
            update={"task": one.task, "tasks": (), "clients": self.clients.model_copy(update=one.own)}
        )

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, data: Any) -> Any:
        """Fill in the seed, the cohort and the number of victims, where what they hang on is sound."""
        if not isinstance(data, dict):
            return data
        data = first(data) | ({} if "seeds" in data else {"seed": data.get("seed", 0)})
        filled = {key: dict(table(data, key)) for key in ("clients", "strategy", "audit")}
        count = filled["clients"].get("count", 10)
        if is_count(count):
            filled["strategy"].setdefault("cohort", count)
        data = data | {"strategy": filled["strategy"]} if isinstance(data.get("strategy", {}), dict) else data
        strategies = merged(data)
        tables = [one for one in strategies or [filled["strategy"]] if isinstance(one, dict)]
        cohorts = [one["cohort"] for one in tables if is_count(one.get("cohort"))]
        rounds = filled["audit"].get("rounds", [1])
        if cohorts and isinstance(rounds, list | tuple):
            filled["audit"].setdefault("victims", min(8, min(cohorts) * max(1, len(rounds))))
        data = data | {key: found for key, found in filled.items() if isinstance(data.get(key, {}), dict)}
        threats = merged_threats(data)
        data = data | ({"threats": threats} if threats else {})
        return data | ({"strategies": strategies} if strategies else {})


SCHEMA = Scenario.model_json_schema()
"""The same as JSON Schema; mistakes are told in its words."""
