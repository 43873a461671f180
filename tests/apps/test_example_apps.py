"""The example apps as Flower runs them: their own ServerApp and ClientApp on a Grid, none of ours inside."""

import threading
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedlab.runtime import SimulationGrid, TappedGrid, quiet_logger
from fedlab.runtime.wrapped import WrappedGrid

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
NODES, ROUNDS = 4, 3


class OneAtATime(WrappedGrid):
    """A Grid for Flower's older servers, which ask each client in a thread of its own."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.lock = threading.Lock()

    def send_and_receive(self, messages: Iterable[Message], **limits: Any) -> list[Message]:
        with self.lock:
            return super().send_and_receive(messages, **limits)


@dataclass
class Configured:
    """A ClientApp whose clients are told the run config, as a SuperNode tells them."""

    app: ClientApp
    config: dict[str, Any]

    def __call__(self, message: Message, context: Context) -> Message:
        context.run_config = self.config
        return self.app(message, context)


@dataclass(frozen=True)
class Trained:
    """What the server saw: (message, reply) of each training reply, in order."""

    seen: list[tuple[Message, Message]]

    @property
    def losses(self) -> list[float]:
        """Mean loss that the clients told, by round."""
        told = [loss_of(reply.content) for _, reply in self.seen]
        size = len(told) // ROUNDS
        return [sum(told[at : at + size]) / size for at in range(0, len(told), size)]


def loss_of(content: RecordDict) -> float:
    """The one figure of a reply that is called a training loss, in whatever record it stands."""
    tables = [*content.metric_records.values(), *content.config_records.values()]
    (loss,) = [
        value for table in tables for key, value in table.items() if key.replace("_", "-") == "train-loss"
    ]
    return float(loss)  # type: ignore[arg-type]


def components(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """ServerApp, ClientApp and run config, as the pyproject names them."""
    table = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    loaded = []
    for component in ("serverapp", "clientapp"):
        module, _, attribute = table["components"][component].partition(":")
        loaded.append(getattr(import_module(module), attribute))
    return loaded[0], loaded[1], table["config"]


Train = Callable[..., Trained]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs an example with changes to its run config."""
    quiet_logger()

    def run(name: str, **changes: Any) -> Trained:
        monkeypatch.syspath_prepend(str(EXAMPLES / name))
        server, client, config = components(name)
        config |= {"num-server-rounds": ROUNDS} | {key.replace("_", "-"): v for key, v in changes.items()}
        torch.manual_seed(0)
        seen: list[tuple[Message, Message]] = []

        def watch(message: Message, reply: Message) -> None:
            assert not reply.has_error(), reply.error.reason
            if message.metadata.message_type == "train":
                seen.append((message, reply))

        grid = TappedGrid(SimulationGrid(Configured(client, config), NODES), watch)  # type: ignore[arg-type]
        server(OneAtATime(grid), Context(1, 1, {}, RecordDict(), config))
        return Trained(seen)

    return run


def test_there_are_five() -> None:
    assert NAMES == ["custom-strategy", "momentum", "numpyclient", "personalised", "pytorch-cnn"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pathspec")
@pytest.mark.parametrize("name", NAMES)
def test_flower_takes_it_for_an_app(name: str) -> None:
    """The checks of `flwr build`, which also packs what it is given."""
    _, warnings = load_and_validate(EXAMPLES / name / "pyproject.toml", check_module=True)
    assert warnings == []
    assert build_fab_from_disk(EXAMPLES / name)


@pytest.mark.parametrize("name", NAMES)
def test_it_knows_nothing_of_us(name: str) -> None:
    for path in (EXAMPLES / name).rglob("*.py"):
        assert "fedlab" not in path.read_text(), path


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, train: Train) -> None:
    """Chance is a loss of ln 10 = 2.3 (fewer digits per client: less)."""
    losses = train(name).losses
    assert len(losses) == ROUNDS
    assert losses[-1] < 0.75 * losses[0]


def test_a_step_of_one_record(train: Train) -> None:
    """Of one record the gradient of the last bias is softmax - onehot: one entry is below 0."""
    trained = train("pytorch-cnn", batch_size=1, max_steps=1, model="mlp", lr=0.5, num_server_rounds=1)
    for message, reply in trained.seen:
        sent = message.content["arrays"].to_torch_state_dict()["3.bias"]
        gradient = (sent - reply.content["arrays"].to_torch_state_dict()["3.bias"]) / 0.5
        assert int((gradient < 0).sum()) == 1
        assert float(gradient.sum()) == pytest.approx(0.0, abs=1e-5)


def test_the_learning_rate_decays(train: Train) -> None:
    trained = train("custom-strategy", lr=0.5, decay=0.5, batch_size=128)
    assert sorted({message.content["config"]["lr"] for message, _ in trained.seen}) == [0.125, 0.25, 0.5]


def test_heads_stay_at_home(train: Train) -> None:
    for message, reply in train("personalised", num_server_rounds=2).seen:
        assert list(message.content["arrays"]) == list(reply.content["arrays"])
        assert all(not key.startswith("head") for key in reply.content["arrays"])
