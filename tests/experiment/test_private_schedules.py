"""Noise at the server and sums instead of updates, in whole runs under both schedules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedlab
from fedlab.audit import Observation, archive
from fedlab.clients import ClientConfig
from fedlab.errors import UsageError
from fedlab.experiment.assembly import federated
from fedlab.scenario import Scenario
from tests.experiment import crashes

ASYNC = {"name": "fedbuff", "options": {"concurrency": 6, "staleness": "polynomial"}}


@pytest.fixture(scope="module", autouse=True)
def pageless() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


def scenario(
    defenses: list[dict[str, Any]], cohort: int = 3, attacked: bool = False, **strategy: Any
) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": 3,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16}},
        "clients": {"count": 8, "batch_size": 2, "local_steps": 1, "mode": "eval"},
        "strategy": {"rounds": 4, "cohort": cohort, "aggregator": "mean", **strategy},
        "devices": {"time": {"name": "half-normal", "scale": 10.0}},
        "defenses": defenses,
        "attacks": [{"name": "linear-layer"}] if attacked else [],
        "audit": {"rounds": [1, 3], "victims": 2, "adaptive": False},
        "runtime": {"executor": "inline"},
    }


def run(out: Path, defenses: list[dict[str, Any]], **changes: Any) -> None:
    fedlab.run(scenario(defenses, **changes), out=out)


def seen(out: Path, cell: str) -> list[Observation]:
    return archive.load(out / "observations" / cell)


def epsilon(out: Path) -> float:
    return float(json.loads((out / "report.json").read_text())["guarantees"][0]["epsilon"])


def events(out: Path, cell: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "privacy" / f"{cell}.journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("schedule", [{}, ASYNC])
def test_a_server_that_sees_sums_makes_the_same_model_and_holds_one_sum_a_round(
    tmp_path: Path, schedule: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    run(out, [{"name": "none"}, {"name": "secure-aggregation"}], **schedule)
    hashes = json.loads((out / "manifest.json").read_text())["weights_sha256"]
    assert hashes["none"] == hashes["secure-aggregation"]
    sums = seen(out, "secure-aggregation-eval-s3")
    assert [one.round for one in sums] == [1, 3]
    for one in sums:
        assert len(one.parts) == 3 and one.client == one.parts[0].client
        assert one.config.batch_size == 6
        assert all(part.round <= one.round for part in one.parts)
    if schedule:
        assert any(part.round < one.round for one in sums for part in one.parts)  # stale ones


def test_the_sum_of_a_round_is_the_mean_of_its_updates(tmp_path: Path) -> None:
    """Under a synchronous server without staleness, against the single updates of the undefended run."""
    out = tmp_path / "run"
    run(out, [{"name": "none"}, {"name": "secure-aggregation"}])
    singles, sums = seen(out, "none-eval-s3"), seen(out, "secure-aggregation-eval-s3")
    for one in sums:
        mine = [single for single in singles if single.round == one.round]
        assert [part.client for part in one.parts] == [single.client for single in mine]
        for name, value in one.update.items():
            mean = torch.stack([single.update[name] for single in mine]).double().mean(0)
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-7)
            assert torch.equal(one.before[name], mine[0].before[name])


def scores(out: Path, cell: str) -> list[dict[str, Any]]:
    return json.loads((out / "attacks" / cell / "linear-layer.json").read_text())["victims"]


def test_a_sum_of_one_leaks_what_the_update_leaks(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, [{"name": "none"}, {"name": "secure-aggregation"}], cohort=1, attacked=True)
    single, summed = scores(out, "none-eval-s3"), scores(out, "secure-aggregation-eval-s3")
    assert [one["round"] for one in summed] == [one["round"] for one in single] == [1, 3]
    for ours, theirs in zip(summed, single, strict=True):
        assert ours["psnr"] == pytest.approx(theirs["psnr"], rel=1e-3)


def test_a_match_with_any_record_of_any_client_in_the_sum_counts(tmp_path: Path) -> None:
    """3 clients of 2 records each: 6 truths for each sum, and the truth names whose they are."""
    out = tmp_path / "run"
    run(out, [{"name": "secure-aggregation"}], attacked=True)
    (cell,) = [path.stem for path in (out / "truth").glob("*.json")]
    truth = json.loads((out / "truth" / f"{cell}.json").read_text())["victims"]
    assert [len(one["record_ids"]) for one in truth] == [6, 6]
    assert all(len(one["clients"]) == 3 for one in truth)
    assert [len(one["psnr"]) for one in scores(out, cell)] == [6, 6]
    control = json.loads((out / "attacks" / cell / "linear-layer.json").read_text())["control"]
    assert [len(one["psnr"]) for one in control] == [6, 6]  # nulls remain


@pytest.mark.parametrize("schedule", [{}, ASYNC])
@pytest.mark.parametrize("name", ["user-dp", "dp-ftrl"])
def test_every_update_that_counts_is_charged_once_to_the_round_that_it_makes(
    tmp_path: Path, schedule: dict[str, Any], name: str
) -> None:
    out = tmp_path / "run"
    run(out, [{"name": name, "noise_multiplier": 2.0}], **schedule)
    found = events(out, f"{name}-eval-s3")
    by_round = Counter(event["round"] for event in found)
    assert sorted(by_round) == [1, 2, 3, 4] and max(by_round.values()) == 3
    if not schedule:  # a buffer may hold a client twice, which is then one user
        assert set(by_round.values()) == {3}
    assert len({(event["client"], event["round"]) for event in found}) == len(found)
    assert all(event["noise_multiplier"] == 2.0 and event["sample_rate"] == 1.0 for event in found)
    assert epsilon(out) > 0.0


def test_participations_are_bounded_and_the_target_rests_on_the_bound(tmp_path: Path) -> None:
    """8 clients, each asked twice at most, over 4 buffers of 3: who took part twice is at the target."""
    options = {"concurrency": 6, "max_participations": 2}
    out = tmp_path / "run"
    run(out, [{"name": "user-dp", "epsilon": 4.0}], name="fedbuff", options=options)
    taken = Counter(event["client"] for event in events(out, "user-dp-eval-s3"))
    assert max(taken.values()) == 2
    assert 3.8 < epsilon(out) <= 4.0


@pytest.mark.parametrize(
    ("strategy", "rate"),
    [({}, 0.375), ({"deadline": 5.0}, 1.0), ({"over_selection": 2.0}, 1.0), (ASYNC, 1.0)],
)
def test_who_is_left_out_is_not_drawn(strategy: dict[str, Any], rate: float) -> None:
    """3 of 8 clients by Poisson sampling; a deadline, or the first to come, leave out some of them."""
    drawn = {} if strategy is ASYNC else {"sampling": "poisson"}
    settings = Scenario.model_validate(scenario([{"name": "none"}], **drawn, **strategy))
    found = federated(settings, [np.arange(5)] * 8, ClientConfig(), 3)
    assert found.rate == rate and found.dropout == 0.0


def test_the_class_that_drops_out_most_counts() -> None:
    classes = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "dropout": 0.75}]
    settings = scenario([{"name": "none"}], sampling="poisson") | {"devices": {"dropout": 0.25}}
    found = [settings, settings | {"devices": {"dropout": 0.25, "classes": classes}}]
    made = [federated(Scenario.model_validate(one), [np.arange(5)] * 8, ClientConfig(), 3) for one in found]
    assert [one.dropout for one in made] == [0.25, 0.75]


def test_the_same_run_on_the_same_seed_has_the_same_noise(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        run(tmp_path / name, [{"name": "dp-ftrl", "noise_multiplier": 2.0, "restart": 4}], **ASYNC)
        hashes.append(json.loads((tmp_path / name / "manifest.json").read_text())["weights_sha256"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("defense", "changes", "named"),
    [
        ("user-dp", {"aggregator": "median"}, "median"),
        ("secure-aggregation", {"aggregator": "krum", "cohort": 6}, "Krum"),
        ("secure-aggregation", {"local_rule": "scaffold"}, "Scaffold"),
        ("user-dp", {"name": "pfedhn", "aggregator": "weighted-mean"}, "user-dp, which changes how"),
    ],
)
def test_what_cannot_go_together_is_refused_by_name(
    tmp_path: Path, defense: str, changes: dict[str, Any], named: str
) -> None:
    settings = {"noise_multiplier": 1.0} if defense == "user-dp" else {}
    with pytest.raises(UsageError, match=named):
        run(tmp_path / "run", [{"name": defense, **settings}], **changes)


def test_a_threshold_above_the_cohort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threshold = 4"):
        run(tmp_path / "run", [{"name": "secure-aggregation", "threshold": 4}])
