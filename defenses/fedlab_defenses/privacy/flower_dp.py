"""Flower's own central differential privacy, as flwr 1.41 ships it: clipping and noise at the server.

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
https://arxiv.org/abs/1710.06963, and Geyer, Klein, Nabi, "Differentially Private Federated Learning: A Client
Level Perspective", 2017, https://arxiv.org/abs/1712.07557. The strategy is wrapped with flwr's
`DifferentialPrivacyServerSideFixedClipping`:

    w' = S(w + Δ_1 min(1, C / ‖Δ_1‖), ..., w + Δ_K min(1, C / ‖Δ_K‖)) + N(0, (z C / K)² I),

where S is whatever the strategy makes of the clients' models, K how many of them the round asks, and z the
noise multiplier.

A curious server has every update before it clips any: the leak to it stays as it was, and the price is paid
all the same. That is what this defense is here to show. It protects, if anybody, those who see the models.

No formal guarantee, because the wrapper does not do what a proof needs:

- FedAvg weighs by records, and the noise is that of a plain mean: one client may move it by more than C / K.
- K is what was asked; where fewer answer in time, each moves the mean by more, and the noise stays.
- Strategies with a step of their own (FedAdam) get the noise on the new model, whatever their step did.
- Nothing keeps clients from sending other figures of their records, which no noise covers.

`user-dp` is the same mechanism with these four mended. flwr's adaptive wrapper is not here: its clipping norm
moves in the wrong direction.

flwr's other habits stay, too: a round in which a client fails makes no model; statistics of batch norm are
clipped and noised like weights, and a noisy variance may be negative; single numbers are not clipped; the
noise is that of numpy's global generator, never of the operating system. An update of zeros, which flwr
divides by, is an error with a name.

Deviations: while a round is aggregated, numpy's generator follows a stream of the round's own, which begins
at the state that it is in (a scenario seeds it for each round, an audit for its app). Afterwards it goes back
to that state: the next cohort is drawn as without the defense. K is that of each round, which nobody states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import FitIns, FitRes, Parameters, Scalar, parameters_to_ndarrays
from flwr.server import strategy as older
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, Strategy
from numpy.typing import NDArray
from pydantic import Field

from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.strategies.hypernetwork import PFedHN
from fedlab.strategies.rounds import OwnRounds
from fedlab.strategies.simultaneous import SyncST
from fedlab_defenses.privacy.central import bound, plain_server

UNKNOWN = 1
"""Clients of a round, until the first one asks them."""


class FlowerDP(Defense):
    """Flower's server clips updates and adds noise to their mean; it sees each of them before. No guarantee.

    McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
    https://arxiv.org/abs/1710.06963, by flwr's `DifferentialPrivacyServerSideFixedClipping`.

    Args:
        clip: C, flwr's clipping_norm: the L2 norm that an update is clipped to.
        noise_multiplier: z, flwr's noise_multiplier: the noise on the mean over C / (clients of the round).
    """

    paper = (
        "McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent Language Models,"
        " ICLR 2018, https://arxiv.org/abs/1710.06963; Geyer, Klein, Nabi, Differentially Private Federated"
        " Learning: A Client Level Perspective, 2017, https://arxiv.org/abs/1712.07557"
    )
    adaptive = ("cascade",)

    def __init__(
        self,
        *,
        clip: Annotated[float, Field(gt=0)] = 1.0,
        noise_multiplier: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        self.clip = bound("flower-dp clip", clip)
        self.noise_multiplier = bound("flower-dp noise_multiplier", noise_multiplier, zero=True)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        plain_server("flower-dp", rule)
        return rule

    def strategy(self, inner: Any) -> Any:
        """The strategy in flwr's wrapper; an older one (flwr.server.strategy) in the older wrapper.

        Raises:
            UsageError: it has no rounds that ask everybody for an update of one model.
        """
        if isinstance(inner, OwnRounds | PFedHN | SyncST):
            kind = getattr(inner, "kind", type(inner).__name__)
            raise UsageError(
                f"flower-dp wraps strategies whose rounds send all clients one model, and {kind} does not:"
                " flwr's wrapper measures each update from the model that the round began with; choose"
                " fedavg, or user-dp, which goes with an asynchronous server"
            )
        if isinstance(inner, older.Strategy):
            return _OlderWrapper(inner, self.noise_multiplier, self.clip, UNKNOWN)
        if isinstance(inner, Strategy):
            return _Wrapper(inner, self.noise_multiplier, self.clip, UNKNOWN)
        raise UsageError(f"flower-dp wraps strategies of Flower, and this is a {type(inner).__name__}")


class _Wrapper(DifferentialPrivacyServerSideFixedClipping):
    """flwr's wrapper, with K of each round and a stream of its own; the rest is asked of the strategy inside.

    Attributes:
        why_skipped: why the last round made no model.
    """

    why_skipped = ""

    def __getattr__(self, name: str) -> Any:
        """What fedlab asks of a strategy beside flwr's methods: `learner`, `snapshot`, `weighted_by_key`."""
        if name == "strategy":  # not yet, in a copy
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.num_sampled_clients = len(messages) or self.num_sampled_clients
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As flwr does.

        Raises:
            UsageError: an update is zero, or holds other arrays than were sent.
        """
        replies = list(replies)
        names = list(self.current_arrays)
        for reply in replies:
            if not reply.has_error():
                for record in reply.content.array_records.values():
                    _check(_arrays(record), _arrays(self.current_arrays), alike=list(record) == names)
        with _own_draws(server_round):
            made = super().aggregate_train(server_round, replies)
        failed = sum(reply.has_error() for reply in replies)
        self.why_skipped = (
            f"{failed} of {len(replies)} clients failed, and flwr's wrapper then makes no model"
            if failed
            else getattr(self.strategy, "why_skipped", "")
        )
        return made


class _OlderWrapper(older.DifferentialPrivacyServerSideFixedClipping):
    """The same around a strategy of Flower's older servers."""

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        asked = super().configure_fit(server_round, parameters, client_manager)
        self.num_sampled_clients = len(asked) or self.num_sampled_clients
        return asked

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """As flwr does.

        Raises:
            UsageError: an update is zero, or holds other arrays than were sent.
        """
        for _, result in results:
            _check(parameters_to_ndarrays(result.parameters), self.current_round_params)
        with _own_draws(server_round):
            return super().aggregate_fit(server_round, results, failures)


@contextmanager
def _own_draws(round: int) -> Iterator[None]:
    """numpy's global generator at the start of a stream of the round's, and afterwards where it was."""
    before = np.random.get_state(legacy=False)
    np.random.seed([round, before["state"]["pos"], *before["state"]["key"]])
    try:
        yield
    finally:
        np.random.set_state(before)


def _arrays(record: ArrayRecord) -> list[NDArray[Any]]:
    return record.to_numpy_ndarrays()


def _check(sent: Sequence[NDArray[Any]], model: Sequence[NDArray[Any]], *, alike: bool = True) -> None:
    """Refuse what flwr's wrapper mixes up (arrays by other names), or fails on without a word of why."""
    if not alike or [one.shape for one in sent] != [one.shape for one in model]:
        raise UsageError(
            "flower-dp: a client sent other arrays than the model that it got, and flwr's wrapper compares"
            " them one by one; expected the same arrays in the same order"
        )
    if all(map(np.array_equal, sent, model)):
        raise UsageError(
            "flower-dp: a client sent the model back as it was, and flwr's wrapper divides by the norm of its"
            " update, which is zero; leave out clients without records, or use user-dp"
        )
