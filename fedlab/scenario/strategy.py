"""How the server learns: `[strategy]`, and the `[[strategies]]` that are put side by side."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fedlab.scenario.sections import Count, Name, Plugin, PluginOrName, Positive, Section, as_table


def _as_optimizer(value: object) -> object:
    """`server_optimizer = { learning_rate = 0.5 }` is plain SGD."""
    found = as_table(value)
    return {"name": "sgd", **found} if isinstance(found, dict) else found


class Target(Section):
    """How good is good enough, on the test set: give either of the two."""

    accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Accuracy from which on training ends."""
    loss: Positive | None = None
    """Loss down to which training goes on."""


class Strategy(Section):
    """How the server learns."""

    name: Name = "fedavg"
    """Schedule: `fedlab list strategies`."""
    options: dict[str, Any] = Field(default={})
    """The strategy's own parameters, if it has any: `fedlab info NAME`."""
    rounds: Count = 10
    """Number of rounds."""
    cohort: Count = 1
    """Clients that train in each round; all of them unless given."""
    local_rule: PluginOrName = Plugin(name="fedavg")
    """What clients make of their gradients, and what their server knows of it: `fedlab list local-rules`."""
    sampling: PluginOrName = Plugin(name="uniform")
    """How the clients of a round are drawn: `fedlab list samplers`."""
    pre_aggregation: PluginOrName | None = None
    """What happens to updates before they are aggregated: `fedlab list preaggregators`."""
    aggregator: PluginOrName = Plugin(name="weighted-mean")
    """What makes one update of many: `fedlab list aggregators`."""
    server_optimizer: Annotated[
        Plugin, BeforeValidator(_as_optimizer, json_schema_input_type=Name | Plugin)
    ] = Plugin(name="sgd")
    """What the server does with that one update, `"sgd"` unless named: `fedlab list server-optimizers`."""
    evaluate_every: Count | None = None
    """Test the global model after every so many rounds; only at the end unless given."""
    over_selection: Annotated[float, Field(ge=1, le=100)] = 1.0
    """Asks this many times the cohort (rounded up; no more than there are clients) and goes on with the first
    `cohort` replies without error; the others are told to stop."""
    deadline: Positive | None = None
    """Virtual seconds after which a round goes on with the replies it has; waits for all unless given."""
    quorum: Count = 1
    """Valid replies that a round needs; with fewer, the model stays as it was."""
    target: Target | None = None
    """Training ends at the first evaluation that is at least this good; after all `rounds` unless given."""
    until: Positive | None = None
    """Virtual seconds after which no further round begins; the number of `rounds` decides unless given."""


class Variant(Strategy):
    """A strategy beside others: any keys of `[strategy]`, which stand in place of those given there."""

    label: Name = ""
    """How reports, files and `--set` call it; the strategy's name unless given."""

    @property
    def alone(self) -> Strategy:
        """The strategy without its label."""
        return Strategy(**{key: getattr(self, key) for key in Strategy.model_fields})
