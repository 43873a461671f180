"""The benchmarks' own machinery, and one tiny round of fedlab's side of each."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest
from flwr.app import ArrayRecord

from benchmarks import document, soak
from benchmarks.harness import RESULTS, Result, Row, Turns, read
from benchmarks.sides import async_side, bare, fedlab_side, floor
from benchmarks.sides.fedlab_side import Federation
from benchmarks.suite import ATTACKS, DEFENSES
from benchmarks.work import WORKS
from fedlab.runtime import InlineExecutor


def tiny(name: str):
    """The work of a benchmark with four clients of four records."""
    return replace(WORKS[name], clients=4, cohort=4, records=4, batch=min(WORKS[name].batch, 2))


def test_the_networks_have_the_parameters_that_the_bars_speak_of():
    counts = {
        name: sum(value.numel() for value in work.network().parameters()) for name, work in WORKS.items()
    }
    assert counts == {"mlp": 64 * 64 + 64 + 64 * 10 + 10, "cnn": 1_626_442}


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("strategy", ["ours", "flwr"])
def test_a_round_updates_every_client_of_the_cohort(name, strategy):
    train = Federation(tiny(name), InlineExecutor()).rounds(strategy)
    assert train(1)["updates"] == 4


def test_the_bare_loop_ends_where_a_client_of_ours_does():
    """Both start from the same weights and take the same full-batch steps on the same records."""
    work = replace(tiny("mlp"), clients=1, cohort=1)
    federation = Federation(work, InlineExecutor())
    start = federation.model.state()
    result = federation.strategy("ours").start(federation.grid, ArrayRecord(start), num_rounds=1)
    expected = bare.client_of(work, start)(0)
    for array, value in zip(result.arrays.to_torch_state_dict().values(), expected.values(), strict=True):
        assert float((array - value).abs().max()) < 1e-6


def test_the_floor_is_the_same_arithmetic():
    """Written by hand and stacked, three steps end where three of PyTorch's own do."""
    work = replace(tiny("mlp"), epochs=3, batch=0)
    start = work.network().state_dict()
    images, labels = work.data()
    stacked = {name: value.expand(4, *value.shape) for name, value in start.items()}
    x, y = images.reshape(4, 4, 64), labels.reshape(4, 4)
    found = floor.steps(stacked, x, y, work.epochs, work.learning_rate)
    train = bare.client_of(work, {name: value.clone() for name, value in start.items()})
    for client in range(4):
        for name, value in train(client).items():
            assert float((found[name][client] - value).abs().max()) < 1e-6


def test_messages_without_work_come_back():
    fedlab_side.messenger(WORKS["mlp"], InlineExecutor())(7)


def test_a_ratio_is_the_median_of_the_turns():
    """Turn by turn 2, 10 and 3 times as fast: the outlier does not count."""
    ours = [{"amount": 10, "seconds": seconds} for seconds in (1.0, 0.2, 1.0)]
    theirs = [{"amount": 10, "seconds": seconds} for seconds in (2.0, 2.0, 3.0)]
    turns = Turns({"ours": ours, "theirs": theirs}, {})
    assert turns.ratio("ours", "theirs") == pytest.approx(3.0)
    assert turns.rate("ours") == 10.0


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", 2.0, at_least=2.0), True),
        (Row("a", 1.9, at_least=2.0), False),
        (Row("a", 0.3, at_most=0.2), False),
        (Row("a", 0.1, at_most=0.2), True),
        (Row("a", float("nan"), at_most=0.2), False),
        (Row("a", 1e9), True),
    ],
)
def test_a_bar_is_met_or_missed(row, met):
    assert row.met is met


def test_a_result_survives_its_file(tmp_path):
    result = Result("a", "work", [Row("b", 2.0, "s", at_most=1.0)], notes=["n"], versions={"torch": "2"})
    path = result.write(tmp_path)
    assert read(path) == result
    assert json.loads(path.read_text())["met"] is False


def test_growth_is_found_in_the_samples():
    """0.5 MB a round is a slope of 0.5; ten descriptors more in the last third are ten."""
    rounds = range(10, soak.ROUNDS + 1, soak.EVERY)
    samples = [{"round": n, "driver_mb": 100 + 0.5 * n, "fds": 38 + 10 * (n >= 200)} for n in rounds]
    assert soak.slope(samples, "driver_mb") == pytest.approx(0.5)
    assert soak.growth(samples, "fds") == 10.0


def test_the_page_shows_the_results_as_they_are_on_disk():
    shown = document.PAGE.read_text().split(document.BEGIN)[1].split(document.END)[0]
    assert shown.strip() == document.tables().strip(), "run python -m benchmarks.document"


def test_every_benchmark_has_a_module_that_can_run():
    for name in document.NAMES:
        assert callable(importlib.import_module(f"benchmarks.{name}").main)


def test_every_result_is_of_a_benchmark():
    rows = {f"{suite.kind}_{name}" for suite in (ATTACKS, DEFENSES) for name in suite.rows}
    assert {path.stem for path in RESULTS.glob("*.json")} <= {*document.NAMES, *rows}


@pytest.mark.parametrize("suite", (ATTACKS, DEFENSES), ids=lambda suite: suite.name)
def test_a_suite_s_page_shows_the_results_as_they_are_on_disk(suite):
    page = suite.page.read_text()
    assert page == suite.written(page, suite.tables()), f"call benchmarks.suite.{suite.name.upper()}.write()"


def test_attack_figures_with_a_bar_stand_apart(tmp_path):
    """One of each kind: a bar in the first table, none in the second, where the work is not told again."""
    rows = [Row("PSNR", 99.0, "dB", at_least=100.0), Row("time", 2.0, "s")]
    result = Result("attack_x", "MLP", rows, notes=["mind the gap"])
    result.write(tmp_path)
    barred, beside = ATTACKS.tables(tmp_path).split("### Beside the bars")
    assert "| MLP (`x`) | PSNR | 99 dB | ≥ 100 | MISSED |" in barred and "time" not in barred
    assert "| `x` | time | 2 s |" in beside and "PSNR" not in beside and "- `x`: mind the gap" in beside


def test_the_event_loop_ends_where_fedbuff_does(monkeypatch):
    """The same clients at the same time; models that differ by rounding only."""
    monkeypatch.setattr(async_side, "CONCURRENCY", 12)
    monkeypatch.setattr(async_side, "BUFFER", 3)
    ours, plain = async_side.Population(500, 2), async_side.Population(500, 2)
    found, expected = ours.ours()(60), plain.plain()(60)
    assert found["now"] == expected["now"]
    for name, value in plain.state.items():
        assert float((ours.state[name] - value).abs().max()) < 1e-6
