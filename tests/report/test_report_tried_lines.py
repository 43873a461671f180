"""Lines that a report tells people to type do on flwr 1.41 what was tried; what is no code is words."""

from __future__ import annotations

import ast
import math
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import EvaluateIns, FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedlab import plugins
from fedlab.privacy.gaussian import gaussian_epsilon
from fedlab.report.tried_changes import Setting, changes
from fedlab.report.tried_code import attribute, layer
from fedlab.report.tried_entry import Try
from fedlab.runtime import SimulationGrid

SETTING = Setting(rounds=3, cohort=4)
WHERE = {"client": "app/client_app.py", "server": "app/server_app.py"}
BEFORE = {
    "fc.weight": np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4),
    "bn.running_mean": np.zeros(2, np.float32),
    "bn.num_batches_tracked": np.array(0),
    "fc.bias": np.zeros(2, np.float32),
    "scale": np.array(0.5, np.float32),
}
PLAIN = {name: value for name, value in BEFORE.items() if not name.startswith("bn")}
UPDATE = np.random.default_rng(1).normal(0.0, 0.1, 15).astype(np.float32)


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines draw from the operating system; here, from a seed."""
    made = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda: made(7))


def told(name: str, params: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What people are told to change."""
    found = {
        "label": name,
        "name": name,
        "params": params or {},
        "acts": "",
        "status": "tried",
        "where": WHERE,
    }
    return changes(Try.of({**found, **more}), SETTING)


def lines(name: str, params: Mapping[str, Any] | None = None, **more: Any) -> list[str]:
    return [step["code"] for step in told(name, params, **more)["steps"]]


def client(arrays: Mapping[str, np.ndarray]) -> Any:
    """A training function that adds UPDATE to the weights, and moves the statistics."""

    def train(msg: Message, context: Context) -> Message:
        after = {name: np.asarray(value + 1) for name, value in arrays.items()}
        after["fc.weight"] = arrays["fc.weight"] + UPDATE[:12].reshape(3, 4)
        after["fc.bias"] = arrays["fc.bias"] + UPDATE[12:14]
        if "scale" in arrays:
            after["scale"] = np.asarray(arrays["scale"] + UPDATE[14])
        content = RecordDict({"arrays": record(after), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=msg)

    return train


def record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def asked(app: ClientApp | SimulationGrid, kind: str = "train", **config: float) -> Message:
    """The reply of an app to a message of the server; of a Grid's client, which keeps its state."""
    content = RecordDict({"arrays": record(BEFORE), "config": ConfigRecord({"lr": 0.1, **config})})
    grid = app if isinstance(app, SimulationGrid) else SimulationGrid(app, 1)
    (reply,) = grid.send_and_receive([grid.create_message(content, kind, grid.get_node_ids()[0], "1")])
    return reply


def pasted(code: str, evaluates: bool = False) -> ClientApp:
    """An app in whose file the lines stand."""
    names: dict[str, Any] = {}
    exec(compile(code, "client_app.py", "exec"), names)
    app: ClientApp = names["app"]
    app.train()(client(BEFORE))
    if evaluates:
        app.evaluate()(
            lambda msg, context: Message(RecordDict({"m": MetricRecord({"loss": 1.0})}), reply_to=msg)
        )
    return app


def sent(reply: Message) -> np.ndarray:
    """The update (15,) that the server sees."""
    assert not reply.has_error(), reply.error.reason
    after = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    assert list(after) == list(BEFORE)
    assert all(after[name].dtype == BEFORE[name].dtype for name in after)
    # Statistics and counters are the client's own.
    assert after["bn.num_batches_tracked"] == 1 and after["bn.running_mean"].tolist() == [1.0, 1.0]
    return np.concatenate([(after[name] - BEFORE[name]).ravel() for name in PLAIN])


@pytest.mark.parametrize(
    ("name", "params", "change"),
    [
        ("gradient-pruning", {"ratio": 0.6}, "pruned"),
        ("gradient-pruning", {}, "pruned"),
        ("top-k", {"share": 0.2, "feedback": False}, "largest"),
        ("top-k", {}, "largest"),
    ],
)
def test_a_mod_sends_what_the_defense_would(name: str, params: dict[str, Any], change: str) -> None:
    """`told` is held against our own defense, written in torch."""
    defense = plugins.build("defenses", {"name": name, **params})
    expected = getattr(defense, change)(torch.from_numpy(UPDATE), {})
    found = sent(asked(pasted(lines(name, params)[0])))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-7)
    assert 0 < np.count_nonzero(found) < 15


def test_signs() -> None:
    found = sent(asked(pasted(lines("sign")[0])))
    np.testing.assert_allclose(found, np.abs(UPDATE).mean() * np.sign(UPDATE), atol=1e-7)


def test_top_k_remembers_what_it_left_out() -> None:
    """3 of 15 go at once; the same update again brings others, whose owed sum has grown to twice."""
    grid = SimulationGrid(pasted(lines("top-k", {"share": 0.2})[0]), 1)
    first, second = sent(asked(grid)), sent(asked(grid))
    assert np.count_nonzero(first) == np.count_nonzero(second) == 3
    owed = 2 * UPDATE - first
    largest = np.argsort(-np.abs(owed))[:3]
    np.testing.assert_allclose(second[largest], owed[largest], atol=1e-6)


def test_a_random_mask_keeps_its_share() -> None:
    app = pasted(lines("random-mask", {"share": 0.2})[0])
    drawn = [sent(asked(app)) for _ in range(8)]
    assert all(np.count_nonzero(one) == 3 for one in drawn)
    assert len({tuple(np.flatnonzero(one)) for one in drawn}) > 1  # alike with chance 455 ** -7
    place = np.flatnonzero(drawn[0])
    np.testing.assert_allclose(drawn[0][place], 5 * UPDATE[place], rtol=1e-4)
    plain = sent(asked(pasted(lines("random-mask", {"share": 0.2, "scaled": False})[0])))
    place = np.flatnonzero(plain)
    np.testing.assert_allclose(plain[place], UPDATE[place], rtol=1e-4)


def test_qsgd_rounds_to_levels_and_is_right_on_average() -> None:
    """Of buckets of 8 with s = 4: multiples of ‖v‖/4, at most ‖v‖/4 off; the mean of 200 to 6 deviations."""
    app = SimulationGrid(pasted(lines("qsgd", {"levels": 4, "bucket": 8})[0]), 1)
    drawn = np.stack([sent(asked(app)) for _ in range(200)])
    for cut in (slice(0, 8), slice(8, 15)):
        step = np.linalg.norm(UPDATE[cut]) / 4
        levels = drawn[:, cut] / step
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        assert np.abs(drawn[:, cut] - UPDATE[cut]).max() < step * 1.001
        assert np.abs(drawn[:, cut].mean(0) - UPDATE[cut]).max() < 6 * step / 2 / 200**0.5


@pytest.mark.parametrize(
    ("params", "deviation", "fourth"),
    [
        ({"deviation": 0.5}, 0.5, 3.0),
        ({"deviation": 0.5, "distribution": "laplace"}, 0.5, 6.0),
        ({"relative": 2.0}, 2.0 * float(np.linalg.norm(UPDATE)) / 15**0.5, 3.0),
    ],
)
def test_noise_has_the_deviation_that_was_tried(
    params: dict[str, Any], deviation: float, fourth: float
) -> None:
    """3000 draws: the deviation to 6 %, and the kurtosis tells the two kinds apart (3 and 6)."""
    app = SimulationGrid(pasted(lines("noise", params)[0]), 1)
    noise = np.concatenate([sent(asked(app)) - UPDATE for _ in range(200)])
    assert noise.std() == pytest.approx(deviation, rel=0.06)
    kurtosis = np.mean(noise**4) / noise.std() ** 4
    assert abs(kurtosis - fourth) < 1.4


@pytest.mark.parametrize("name", ["sign", "top-k", "noise"])
def test_other_messages_pass_as_they_are(name: str) -> None:
    app = pasted(lines(name, {"deviation": 1.0} if name == "noise" else {})[0], evaluates=True)
    assert asked(app, kind="evaluate").content["m"]["loss"] == 1.0


def test_statistics_stay_at_home() -> None:
    reply = asked(pasted(lines("protocol", {"share_buffers": False})[0]))
    after = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    assert after["bn.num_batches_tracked"] == 0 and after["bn.running_mean"].tolist() == [0.0, 0.0]
    assert not np.array_equal(after["fc.bias"], BEFORE["fc.bias"])


def trained(code: str, arrays: Mapping[str, np.ndarray]) -> ClientApp:
    """The file of an app in which the lines with @app.train stand around its own training."""
    tree = ast.parse(code)
    names: dict[str, Any] = {
        "Message": Message,
        "Context": Context,
        "ClientApp": ClientApp,
        "own": client(arrays),
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse("return own(msg, context)").body
    exec(compile(ast.fix_missing_locations(tree), "client_app.py", "exec"), names)
    app: ClientApp = names["app"]
    return app


WEIGHTS = {name: value for name, value in PLAIN.items() if value.ndim}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of weights and biases alone: flwr's mods cannot do with others."""
    monkeypatch.setattr(f"{__name__}.BEFORE", WEIGHTS)


def moved(reply: Message) -> np.ndarray:
    """The update (14,) of the weights."""
    assert not reply.has_error(), reply.error.reason
    after = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    return np.concatenate([(after[name] - WEIGHTS[name]).ravel() for name in WEIGHTS])


def test_flwr_clips(plain: None) -> None:
    mod, wrapper = lines("clipping", {"clip": 0.05})
    found = moved(asked(trained(mod, WEIGHTS), clipping_norm=0.05))
    np.testing.assert_allclose(found, 0.05 * UPDATE[:14] / np.linalg.norm(UPDATE[:14]), atol=1e-6)
    assert round(float(np.linalg.norm(found)), 5) == 0.05
    strategy = wrapped(wrapper)
    assert (strategy.noise_multiplier, strategy.clipping_norm, strategy.num_sampled_clients) == (0.0, 0.05, 4)


@pytest.mark.parametrize("kept", ["scale", "bn.num_batches_tracked"])
def test_flwr_leaves_single_numbers_alone(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the notes say: an array without axes is neither clipped nor noised."""
    arrays = {**WEIGHTS, kept: BEFORE[kept]}
    monkeypatch.setattr(f"{__name__}.BEFORE", arrays)
    reply = asked(trained(lines("local-dp", {"noise_multiplier": 5.0})[0], arrays))
    own = UPDATE[14] if kept == "scale" else 1
    assert reply.content["arrays"][kept].numpy() == np.asarray(arrays[kept] + own)


def wrapped(code: str) -> Any:
    names: dict[str, Any] = {"strategy": FedAvg()}
    exec(code, names)
    return names["strategy"]


def test_flwrs_mods_break_evaluation_in_the_whole_app(plain: None) -> None:
    """What the note says, and why the lines give them to @app.train."""
    from flwr.clientapp.mod import LocalDpMod

    app = ClientApp(mods=[LocalDpMod(1.0, 2.0, 1.0, 1e-5)])
    answer = lambda msg, context: Message(RecordDict({"m": MetricRecord({"loss": 1.0})}), reply_to=msg)  # noqa: E731
    app.evaluate()(answer)
    assert asked(app, kind="evaluate").has_error()
    safe = trained(lines("local-dp", {"noise_multiplier": 1.0})[0], WEIGHTS)
    safe.evaluate()(answer)
    assert not asked(safe, kind="evaluate").has_error()


class Legacy(NumPyClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return [value + 1 for value in parameters], 1, {}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return 0.5, 1, {}


def test_clients_of_the_first_api_take_flwrs_older_mods() -> None:
    """Of the same names, in the whole app, and strategies of the same names and settings, as notes say."""
    import flwr.server.strategy as older
    from flwr.client.mod import LocalDpMod, fixedclipping_mod

    mod = LocalDpMod(1.0, 2.0, 1e6, 1e-5)  # hardly any noise
    app = ClientApp(lambda context: Legacy().to_client(), mods=[mod])  # type: ignore[arg-type]
    weights = ndarrays_to_parameters([np.zeros(4, np.float32)])
    grid = SimulationGrid(app, 1)
    fit = recorddict_compat.fitins_to_recorddict(FitIns(weights, {}), keep_input=True)
    evaluate = recorddict_compat.evaluateins_to_recorddict(EvaluateIns(weights, {}), keep_input=True)
    replies = []
    for content, kind in ((fit, "train"), (evaluate, "evaluate")):
        message = grid.create_message(content, kind, grid.get_node_ids()[0], "1")
        replies += grid.send_and_receive([message])
    found = recorddict_compat.recorddict_to_fitres(replies[0].content, keep_input=True)
    (after,) = parameters_to_ndarrays(found.parameters)
    np.testing.assert_allclose(after, 0.5, atol=1e-3)  # ones, clipped to length 1
    assert recorddict_compat.recorddict_to_evaluateres(replies[1].content).loss == 0.5
    assert fixedclipping_mod.__name__ in lines("clipping")[0]
    for code in (lines("clipping")[1], *lines("user-dp", {"noise_multiplier": 1.0})):
        names: dict[str, Any] = {"strategy": older.FedAvg()}
        exec(code.replace("flwr.serverapp.strategy", "flwr.server.strategy"), names)
        assert names["strategy"].num_sampled_clients == 4


@pytest.mark.parametrize("params", [{"noise_multiplier": 0.7, "clip": 0.5}, {"epsilon": 8.0, "clip": 0.5}])
def test_local_dp_adds_the_noise_that_was_tried(params: dict[str, Any], plain: None) -> None:
    """Deviation 2 C σ; for a target, σ of the exact Gaussian over three rounds. 3000 draws: to 6 %."""
    sigma = params.get("noise_multiplier")
    if sigma is None:
        low, high = 0.1, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if gaussian_epsilon(3**0.5 / middle, 1e-5) <= 8.0 else (middle, high)
        sigma = high
    code = lines("local-dp", params)[0]
    grid = SimulationGrid(trained(code, WEIGHTS), 1)  # shorter than C, the update is not clipped
    noise = np.concatenate([moved(asked(grid)) - UPDATE[:14] for _ in range(200)])
    assert noise.std() == pytest.approx(2 * 0.5 * sigma, rel=0.06)
    call = next(one for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Call))
    given = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
    exact = given["sensitivity"] * math.sqrt(2 * math.log(1.25 / given["delta"])) / given["epsilon"]
    assert sigma <= exact <= 1.001 * sigma


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"noise_multiplier": 0.8, "clip": 2.0}, "DifferentialPrivacyServerSideFixedClipping"),
        ({"epsilon": 8.0}, "DifferentialPrivacyServerSideFixedClipping"),
        (
            {"noise_multiplier": 0.1, "clipping": "adaptive", "count_noise": 0.3},
            "DifferentialPrivacyServerSideAdaptiveClipping",
        ),
    ],
)
def test_flwr_wraps_the_strategy(params: dict[str, Any], kind: str) -> None:
    (code,) = lines("user-dp", params)
    strategy = wrapped(code)
    assert type(strategy).__name__ == kind and strategy.num_sampled_clients == 4
    if "epsilon" in params:
        assert gaussian_epsilon(3**0.5 / strategy.noise_multiplier, 1e-5) <= 8.0
        assert gaussian_epsilon(3**0.5 / (0.999 * strategy.noise_multiplier), 1e-5) > 8.0
    assert any("curious server" in note for note in told("user-dp", params)["notes"])


@pytest.mark.parametrize("params", [{}, {"noise_multiplier": 0.0, "clip": 2.0}])
def test_flwr_wraps_it_as_it_was_tried(params: dict[str, float]) -> None:
    strategy = wrapped(lines("flower-dp", params)[0])
    found = strategy.noise_multiplier, strategy.clipping_norm
    assert found == (params.get("noise_multiplier", 1.0), params.get("clip", 1.0))
    assert any("curious server" in note for note in told("flower-dp", params)["notes"])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(self.fc1(x).relu())
        return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("params", "clip"),
    [
        ({"noise_multiplier": 0.9, "max_grad_norm": 0.5}, 0.5),
        ({"noise_multiplier": 0.9, "clipping": "per-layer"}, [0.5] * 4),
        ({"noise_multiplier": 0.9, "clipping": "adaptive", "count_noise": 2.0}, 1.0),
        ({"noise_multiplier": 0.9, "clipping": "adaptive"}, 1.0),
        ({"epsilon": 8.0}, 1.0),
        ({"noise_multiplier": 0.9, "fix": True}, 1.0),
    ],
)
def test_opacus_trains(params: dict[str, Any], clip: Any) -> None:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = TensorDataset(torch.randn(40, 4), torch.arange(40) % 3)
    names = {
        "model": model,
        "optimizer": optimizer,
        "loader": DataLoader(data, batch_size=8, shuffle=True),
        "criterion": nn.CrossEntropyLoss(),
        "local_epochs": 1,
        "num_rounds": 3,
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    *fix, code = lines("dp-sgd", params)
    assert bool(fix) == bool(params.get("fix"))
    for one in fix:
        exec(one, names)
        assert names["model"] is not None
        names["model"], names["optimizer"] = model, optimizer
    if "epsilon" in params:  # Opacus' other accountant needs a hundredth of the time
        code = code.replace("PrivacyEngine()", 'PrivacyEngine(accountant="rdp")')
    exec(code, names)
    after = model.state_dict()
    assert list(after) == list(before) and any(not after[name].equal(before[name]) for name in after)
    private = names["optimizer"]
    if params.get("clipping") != "adaptive":  # which moves
        assert getattr(private, "max_grad_norms", private.max_grad_norm) == clip
    assert type(names["loader"].batch_sampler).__name__ == "UniformWithReplacementSampler"
    if "epsilon" not in params:
        assert private.noise_multiplier == pytest.approx(0.9, rel=0.1)


def test_mixtures_and_copies() -> None:
    names: dict[str, Any] = {
        "torch": torch,
        "images": torch.rand(5, 1, 4, 4),
        "labels": torch.arange(5),
        "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 5)),
        "criterion": nn.CrossEntropyLoss(),
    }
    exec(lines("mixup", {"alpha": 0.4})[0], names)
    assert 0.0 <= names["share"] <= 1.0 and names["loss"].ndim == 0
    exec(lines("oasis", {"transforms": ["major-rotation", "vertical-flip"]})[0], names)
    assert names["images"].shape == (25, 1, 4, 4) and names["labels"].tolist() == [0, 1, 2, 3, 4] * 5
    assert names["images"][5:10].equal(names["images"][:5].rot90(1, (-2, -1)))
    assert lines("oasis", {"transforms": ["shear"]}) == []


@pytest.mark.parametrize(
    "made",
    [
        nn.Conv2d(1, 8, 3, padding="same", bias=False),
        nn.Linear(3, 4),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.ReLU(inplace=True),
        nn.GroupNorm(2, 8),
        nn.GELU(approximate="tanh"),
        nn.AdaptiveAvgPool2d((1, 1)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_layers_are_written_as_torch_makes_them(made: nn.Module) -> None:
    code = layer(str(made))
    assert code is not None and str(eval(code, {"nn": nn})) == str(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "os.system('ls')",
        "Linear(os.system('ls'))",
        "Linear(1)\nimport os",
        "print(1)",
        "Linear(**{})",
        "Sequential(\n  (0): Linear(1)\n)",
        "Linear(" * 3000,
        "Frozen",
        "__import__('os')",
        "Linear(1); 2",
    ],
    ids=range(12),
)
def test_what_is_no_layer_is_no_code(text: str) -> None:
    assert layer(text) is None


def test_places_of_layers() -> None:
    assert attribute("block.0.conv1") == "self.block[0].conv1"
    for name in ("0", "0.conv", "a b", "a;import os", "class", "", "a..b", "é"):
        assert attribute(name) is None


def network(*layers: tuple[str, str, str], name: str = "Net") -> dict[str, Any]:
    changed = [dict(zip(("layer", "before", "after"), one, strict=True)) for one in layers]
    return {"network": {"class": name, "file": "app/task.py", "line": 12, "changes": changed}}


CONV = "Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))"


def test_layers_before_and_after() -> None:
    (step,) = told("architecture", **network(("conv", CONV, CONV[:-1] + ", bias=False)")))["steps"]
    assert (step["file"], step["line"], step["language"]) == ("app/task.py", 12, "diff")
    assert "class Net" not in step["code"] and "Net" in step["text"]
    assert step["code"] == (
        "- self.conv = nn.Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))\n"
        "+ self.conv = nn.Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)\n"
    )


def test_a_layer_of_a_sequential_has_no_name() -> None:
    (step,) = told("architecture", **network(("1", "Dropout(p=0.1, inplace=False)", "Dropout(p=0.5)")))[
        "steps"
    ]
    assert step["code"] == "- nn.Dropout(p=0.1, inplace=False),\n+ nn.Dropout(p=0.5),\n"


def test_dropout_that_is_put_in() -> None:
    (step,) = told(
        "architecture",
        **network(("fc2", "Linear(in_features=8, out_features=3, bias=True)", "Dropout(p=0.5)")),
    )["steps"]
    assert step["code"].splitlines()[0] == "+ self.fc2_dropout = nn.Dropout(p=0.5)"
    assert "+ self.fc2(self.fc2_dropout(x))" in step["code"]


def test_what_is_no_layer_of_torch_is_said_in_words() -> None:
    steps = told("precode", **network(("fc", "Linear(2, 2)", "Sequential(\n  (bottleneck): B()\n)")))["steps"]
    assert [(step["code"], step["language"]) for step in steps] == [("", "words")]


def test_a_first_layer_that_is_frozen() -> None:
    (code,) = lines("frozen-first-layer", **network(("fc1", "Linear(4, 8)", "Linear(4, 8)")))
    model = Small()
    exec(code, {"self": model})
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == [
        "fc1.weight",
        "fc1.bias",
    ]


def test_the_run_config_is_toml() -> None:
    key = 'batch"size\n'
    (step,) = told("protocol", {"batch_size": 64}, config={"lr": [0.1, 0.2], key: [32, 64]})["steps"]
    assert step["file"] == "pyproject.toml"
    assert tomllib.loads(step["code"])["tool"]["flwr"]["app"]["config"] == {"lr": 0.2, key: 64}


def test_a_stack_is_the_lines_of_its_parts() -> None:
    parts = [{"name": "gradient-pruning", "ratio": 0.6}, {"name": "sign"}]
    first, second = lines("stack", {"of": parts})
    assert "def prune(" in first and "def signs(" in second
    assert any("nearest to the records" in note for note in told("stack", {"of": parts})["notes"])


def test_somebodys_own_defense_has_no_lines() -> None:
    found = told("their-own", {"x": 1})
    assert found["steps"] == [] and "fedlab info" in found["notes"][0]


def test_mods_of_a_plugin_are_asked_for_by_name() -> None:
    (code,) = lines("model-inspection", {}, acts="around clients")
    names: dict[str, Any] = {}
    exec(code, names)
    app = names["app"]
    assert len(app._mods) == 1
    app.train()(client(PLAIN))
    assert moved(asked(app)).shape == (14,)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gradient-pruning", {"ratio": "0.9); import os; ("}),
        ("noise", {"deviation": [1]}),
        ("dp-sgd", {"noise_multiplier": "1.0\nimport os"}),
        ("dp-sgd", {"noise_multiplier": math.inf}),
        ("qsgd", {"levels": 0}),
        ("local-dp", {"noise_multiplier": 0.0}),
        ("local-dp", {"epsilon": 1.0, "delta": 7.0}),
        ("clipping", {"clip": True}),
        ("stack", {"of": [{}]}),
    ],
)
def test_no_number_no_code(name: str, params: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        told(name, params)
