"""The text of a first scenario: commented, and valid for every choice of bundled names.

What a plugin needs beside its name (its `example`, its required parameters) is filled in; what would not go
together (an epoch and an attack on single steps, say) is chosen so that it does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from fedlab import plugins
from fedlab.ladder import LADDER
from fedlab.signature import shown

OWN = ("own", "npz")
"""Data sets and models that need more than a name: objects from Python, a file."""

TRAINING = {
    "fedsgd": "one step on a small batch: the clearest case, and the worst for privacy",
    "fedavg": "one pass over a client's records in each round, as FedAvg is mostly used",
}
"""How clients train."""


@dataclass(frozen=True)
class Choices:
    """What a person chooses; lists are of names as `fedlab list` shows them.

    Attributes:
        training: one of `TRAINING`.
        threat: a level of knowledge, `fedlab.ladder.LADDER`.
    """

    dataset: str = "digits"
    model: str = "mlp"
    training: str = "fedsgd"
    clients: int = 10
    rounds: int = 50
    batch_size: int = 1
    defenses: tuple[str, ...] = ("none", "dp-sgd")
    attacks: tuple[str, ...] = ("cascade",)
    threat: str = "protocol"
    seed: int = 0


def text(chosen: Choices) -> str:
    """The scenario as TOML, with a comment on every choice."""
    return "\n".join(_lines(chosen)) + "\n"


def _lines(chosen: Choices) -> Iterator[str]:
    yield "# Written by `fedlab init`. Every key: `fedlab schema --markdown`; every name: `fedlab list`."
    yield "schema = 1"
    yield f"seed = {chosen.seed} # of every random draw: the same seed gives the same bits"
    yield from ("", "[task]")
    yield f'dataset = "{chosen.dataset}" # {_summary("datasets", chosen.dataset)}'
    yield f"{_model(chosen)} # {_summary('models', chosen.model)}"
    yield from ("", "[clients]")
    yield f"count = {chosen.clients} # each holds a share of the training records"
    if not listed(chosen.dataset):
        yield 'partition = "drawn" # the records are made when they are asked for: each client draws its own'
    yield f"batch_size = {chosen.batch_size} # records per step; small batches leak most"
    if chosen.training == "fedsgd":
        yield "local_steps = 1 # FedSGD: an update is one gradient"
    else:
        yield "local_epochs = 1 # FedAvg: an update sums up a pass over the client's records"
    yield 'mode = "train" # dropout and batch statistics are live, as in real training'
    yield "learning_rate = 0.1"
    yield from ("", "[strategy]")
    yield 'name = "fedavg"'
    yield f"rounds = {chosen.rounds}"
    yield f"evaluate_every = {max(1, chosen.rounds // 5)}"
    yield from ("", "[runtime]")
    yield 'executor = "inline" # "ray" trains and attacks in worker processes'
    yield from ("", "[audit]")
    observed = list(range(1, min(chosen.rounds, 4) + 1))
    yield f"rounds = {observed} # whose updates are kept and attacked"
    yield "include_samples = false # true keeps the clients' images, and shows them in the report"
    if chosen.attacks:
        yield from ("", "[threat] # what the attacker is assumed to know: `fedlab explain protocol`")
        yield f'level = "{chosen.threat}" # one of {", ".join(LADDER)}'
        if any(_malicious(name) for name in chosen.attacks):
            yield 'server = "malicious" # an attack below sends clients a network of its own making'
    for kind, names in (("attacks", chosen.attacks), ("defenses", chosen.defenses)):
        for name in names:
            yield from ("", f"[[{kind}]]", f'name = "{name}" # {_summary(kind, name)}')
            yield from (f"{key} = {shown(value)}" for key, value in _needed(kind, name, chosen.model).items())


def _model(chosen: Choices) -> str:
    """Without batch norm where a defense might refuse it: it mixes the records of a batch."""
    norms = [item.default for item in plugins.parameters("models", chosen.model) if item.name == "norm"]
    if norms == ["batch"] and set(chosen.defenses) - {"none"}:
        return f'model = {{ name = "{chosen.model}", norm = "group" }}'
    return f'model = "{chosen.model}"'


def listed(dataset: str) -> bool:
    """Whether a data set has records that can be shared out; those in files have."""
    from fedlab.scenario import trial
    from fedlab.tasks import Dataset

    train = trial.dataset(dataset, {})[0]
    return train is None or isinstance(train, Dataset)


def _summary(kind: str, name: str) -> str:
    """The first sentence of what a plugin says of itself."""
    text = inspect.getdoc(plugins.load(kind, name)) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first if len(first) <= 90 else first[:89].rsplit(" ", 1)[0] + " …"


def _malicious(name: str) -> bool:
    return getattr(plugins.load("attacks", name), "server", "") == "malicious"


def _needed(kind: str, name: str, model: str) -> dict[str, object]:
    """The parameters without which a plugin does nothing, or is refused."""
    needed = dict(getattr(plugins.load(kind, name), "example", {}))
    if name == "architecture" and kind == "defenses":
        knobs = {item.name for item in plugins.parameters("models", model)}
        needed = next(({key: one} for key, one in KNOBS.items() if key in knobs), {})
    return needed


KNOBS = {"first_bias": False, "bias": False, "dropout": 0.5}
"""Of which the defense `architecture` turns the first that the model has."""
