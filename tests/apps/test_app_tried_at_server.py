"""Flower's server-side DP tried on apps: the server sees what it saw, later models are noisy, images leak."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from app_in_folder import app
from scipy.stats import chi2

from fedlab.apps.audit import audit_app, opened, tries_of, witnessed
from fedlab.apps.contract import Ran
from fedlab.apps.defended.trial import Tried
from fedlab.progress import Quiet

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def under(words: str, path: Path, config: str = "") -> tuple[Ran, Tried]:
    """Two rounds of two clients, as the app is, and under what is asked for."""
    options = {"run_config": config, "supernodes": 2, "rounds": 2, "observe": (1, 2)}
    audit = opened(path, **options, tries=[words], progress=Quiet())  # type: ignore[arg-type]
    ran, facts = witnessed(audit, Quiet())
    (one,) = tries_of(audit, ran, facts, Quiet())
    return ran, one


def noise(plain: Ran, other: Ran) -> np.ndarray:
    """What was added to the model that round 2 began with; round 1 has to be the same to the bit."""
    found = np.zeros(0)
    for one, two in zip(plain.sights, other.sights, strict=True):
        assert (one.round, one.client) == (two.round, two.client) and one.before.keys() == two.before.keys()
        for key, value in one.before.items():
            pairs = ((value, two.before[key]), (one.after[key], two.after[key]))
            assert one.round == 2 or all(np.array_equal(*pair) for pair in pairs)
        if one.round == 2:
            moved = [two.before[key].astype(float) - value for key, value in one.before.items()]
            found = np.concatenate([each.ravel() for each in moved])
    return found


@pytest.mark.parametrize("name", ["pytorch-cnn", "numpyclient"])
def test_the_second_round_begins_with_noise_of_flwrs_deviation(name: str) -> None:
    """z C / K = 0.001 · 100 / 2, and nothing is as long as C: Σ ξ² / s² is chi-square, refused at 1e-6."""
    config = {"pytorch-cnn": "batch-size=16 max-steps=2", "numpyclient": "batch-size=300"}[name]
    plain, one = under("flower-dp:clip=100.0,noise_multiplier=0.001", EXAMPLES / name, config)
    assert one.seen is not None and one.plan is not None, one.why
    assert one.plan.acts == "server" and one.plan.actor is None
    added = noise(plain, one.seen.ran)
    assert added.size > 1000
    total = float((added**2).sum()) / (0.001 * 100.0 / 2) ** 2
    assert 2 * min(chi2.cdf(total, added.size), chi2.sf(total, added.size)) > 1e-6


def test_without_noise_and_clipping_an_app_trains_as_before() -> None:
    """To float32: flwr subtracts the model from each update and adds it again."""
    words = "flower-dp:clip=1e6,noise_multiplier=0.0"
    plain, one = under(words, EXAMPLES / "pytorch-cnn", "batch-size=16 max-steps=2")
    assert one.seen is not None, one.why
    assert np.abs(noise(plain, one.seen.ran)).max() < 1e-6


def test_a_strategy_of_the_apps_own_is_wrapped_as_it_is() -> None:
    """It lowers the clients' rate in round 2 as before, and its own noise comes on top."""
    plain, one = under("flower-dp:noise_multiplier=0.1", EXAMPLES / "custom-strategy", "batch-size=300")
    assert one.seen is not None, one.why
    added = noise(plain, one.seen.ran)
    assert 0.8 < added.std() / (0.1 / 2) < 1.2
    rates = {facts.learning_rate for facts in one.seen.facts.told.values()}
    assert sorted(rate or 0.0 for rate in rates) == pytest.approx([0.3 * 0.8, 0.3])


def test_images_leak_as_before_and_accuracy_pays(tmp_path: Path) -> None:
    """The exact attack on one record finds each image of round 1, with Flower's noise and without."""
    report = audit_app(
        EXAMPLES / "pytorch-cnn",
        run_config='batch-size=1 max-steps=1 model="mlp"',
        supernodes=3,
        rounds=1,
        attacks=("cascade:iterations=0",),
        tries=["flower-dp:noise_multiplier=5.0"],
        out=tmp_path / "run",
    )
    rows = [one for one in report.data["attacks"] if one["attack"] == "cascade"]
    assert {one["defense"]: one["recovered"] for one in rows} == {"none": 3, "flower-dp": 3}
    assert report.data["tried"]["rows"][1]["finding"] == "same"
    assert not any((report.directory / "privacy").glob("flower-dp*.json"))
    (told,) = json.loads((report.directory / "app.json").read_text())["tried"]
    assert (told["acts"], told["status"]) == ("server", "tried")


def test_a_client_that_sends_the_model_back_is_named(tmp_path: Path) -> None:
    folder = app(tmp_path, "idle_server_dp_app", client_after="arrays = message.content['arrays']")
    _, one = under("flower-dp", folder.path)
    assert one.seen is None and "divides by the norm" in one.why
