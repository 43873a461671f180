"""Synthetic(α, β), the features that are no pixels, softmax regression, and the partitions of papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fedlab
from fedlab import plugins
from fedlab.errors import DataError, UsageError
from fedlab.seeds import numpy_generator
from fedlab.tasks import Dataset, Task
from fedlab.tasks.datasets.digits import digits
from fedlab.tasks.datasets.synthetic import synthetic
from fedlab.tasks.models.softmax import softmax
from fedlab.tasks.partition import classes, dominant, natural


def features(x: np.ndarray, bounds: tuple[float, float] | None = None) -> Dataset:
    return Dataset("features", x, np.zeros(len(x), np.int64), 2, "a test", bounds=bounds)


def test_each_user_has_51_records_at_least_and_a_tenth_of_them_is_held_out() -> None:
    train, test = synthetic(seed=3)
    assert train.shape == (1, 1, 60) and train.x.dtype == np.float32 and train.classes == 10
    kept, held = np.bincount(train.groups), np.bincount(test.groups)
    assert len(kept) == len(held) == 30
    assert min(kept + held) >= 50
    assert np.array_equal(kept, (0.9 * (kept + held)).astype(int))


def test_the_seed_decides_everything() -> None:
    assert synthetic(seed=1)[0].sha256() == synthetic(seed=1)[0].sha256() != synthetic(seed=2)[0].sha256()


def test_features_spread_as_j_to_the_minus_six_fifths_around_their_users_centre() -> None:
    """Var x_j = j^-1.2: of the largest user's features 1, 10 and 60 it is 1, 0.063 and 0.0073."""
    train, _ = synthetic(seed=1)
    largest = np.bincount(train.groups).argmax()
    x = train.x[train.groups == largest].reshape(-1, 60)
    assert len(x) > 1000
    found = x.var(0)[[0, 9, 59]] / np.array([1.0, 10.0**-1.2, 60.0**-1.2])
    assert np.abs(found - 1.0).max() < 0.2


def test_alpha_and_beta_are_standard_deviations_of_the_users_means() -> None:
    """Centres are N(B_k, 1) in 60 places with B_k ~ N(0, β): the mean of a user's centre has variance
    β² + 1/60. With β = 5 over 300 users that is 25; were β a variance, it would be 5."""
    train, _ = synthetic(beta=5.0, users=300, seed=0)
    centres = [train.x[train.groups == user].mean() for user in range(300)]
    assert 20.0 < np.var(centres) < 31.0


def test_heterogeneous_users_hold_few_classes_and_the_iid_variant_is_learnable_by_one_rule() -> None:
    train, _ = synthetic(seed=0)
    shares = [np.bincount(train.y[train.groups == user], minlength=10).max() for user in range(30)]
    assert np.median(shares / np.bincount(train.groups)) > 0.5
    even, test = synthetic(iid=True, seed=0)
    x, y = even.x.reshape(-1, 60), np.eye(10)[even.y]
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    right = (np.c_[test.x.reshape(-1, 60), np.ones(len(test))] @ weights).argmax(1) == test.y
    assert right.mean() > 0.6


@pytest.mark.parametrize("arguments", [{"alpha": -1.0}, {"beta": float("inf")}, {"users": 0}])
def test_impossible_users_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        synthetic(**arguments)  # type: ignore[arg-type]


def test_softmax_regression_starts_at_zero_or_as_torch_does() -> None:
    x = torch.ones(2, 1, 1, 60)
    assert torch.equal(softmax((1, 1, 60), 10)(x), torch.zeros(2, 10))
    assert softmax((1, 1, 60), 10, init="torch")(x).abs().min() > 0
    assert [p.numel() for p in softmax((1, 1, 60), 10, bias=False).parameters()] == [600]
    assert isinstance(plugins.build("models", "softmax", (1, 8, 8), 10), torch.nn.Module)


def test_natural_makes_each_group_a_client() -> None:
    train, _ = synthetic(seed=0)
    owned = natural(train, 30, generator=numpy_generator(0))
    assert [set(train.groups[ids]) for ids in owned] == [{user} for user in range(30)]
    with pytest.raises(UsageError, match="has 30 groups with records for training"):
        natural(train, 10, generator=numpy_generator(0))
    with pytest.raises(UsageError, match="needs groups"):
        natural(digits()[0], 10, generator=numpy_generator(0))


def test_dominant_gives_four_fifths_from_three_neighbouring_classes() -> None:
    """50 records: 40 of the client's three classes (13 or 14 each), and 1 of each of the ten."""
    train, _ = digits()
    owned = dominant(train, 10, generator=numpy_generator(0), per_client=50)
    assert len(np.unique(np.concatenate(owned))) == 500
    for client, ids in enumerate(owned):
        counts = np.bincount(train.y[ids], minlength=10)
        own = [(2 * client + step) % 10 for step in range(3)]
        assert sorted(counts[own]) == [14, 14, 15]
        assert set(np.delete(counts, own)) == {1}
    with pytest.raises(UsageError, match="lower per_client = 500"):
        dominant(train, 10, generator=numpy_generator(0), per_client=500)
    with pytest.raises(UsageError, match="share = "):
        dominant(train, 10, generator=numpy_generator(0), share=1.5)


def test_classes_gives_each_client_its_two_and_all_records_to_somebody() -> None:
    """10 clients with 2 of 10 classes: each class is held by two, in parts of 0.4/1.0 to 0.6/1.0."""
    train, _ = digits()
    owned = classes(train, 10, generator=numpy_generator(0))
    assert sorted(np.concatenate(owned).tolist()) == list(range(len(train)))
    counts = np.array([np.bincount(train.y[ids], minlength=10) for ids in owned])
    assert ((counts > 0).sum(1) == 2).all() and ((counts > 0).sum(0) == 2).all()
    shares = (counts / counts.sum(0))[counts > 0]
    assert shares.min() >= 0.39 and shares.max() <= 0.61
    with pytest.raises(UsageError, match="per_client = 11"):
        classes(train, 10, generator=numpy_generator(0), per_client=11)
    with pytest.raises(UsageError, match="4 clients with 2 classes each cannot hold 10"):
        classes(train, 4, generator=numpy_generator(0))


@pytest.mark.parametrize(
    ("x", "bounds", "words"),
    [
        (np.full((2, 1, 1, 1), 7.0, np.float32), (0.0, 1.0), "pixels from 7 to 7"),
        (np.full((2, 1, 1, 1), np.inf, np.float32), None, "features from inf to inf"),
        (np.zeros((2, 1, 1, 1), np.uint8), None, "uint8 pixels stand for"),
        (np.zeros((2, 1, 1, 1)), (0.0, 1.0), "pixels of type float64"),
        (np.zeros((2, 1, 1, 1), np.int64), None, "expected float32 or float64 features"),
    ],
)
def test_values_out_of_bounds_are_refused(
    x: np.ndarray, bounds: tuple[float, float] | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        features(x, bounds)


def test_features_may_be_any_finite_number_of_either_precision() -> None:
    for kind in (np.float32, np.float64):
        data = features(np.full((3, 1, 1, 2), -40.0, kind))
        assert data.images([0]).dtype == torch.from_numpy(data.x).dtype and not data.pixels
    assert features(np.full((3, 1, 1, 2), 0.5, np.float32), (0.0, 1.0)).pixels
    assert not features(np.full((3, 1, 1, 2), -2.0, np.float32), (-4.0, 4.0)).pixels


def test_float64_features_reach_a_network_of_either_precision() -> None:
    data = features(np.ones((3, 1, 1, 2)))
    for network in (softmax((1, 1, 2), 2), softmax((1, 1, 2), 2).double()):
        model = Task(data, data, lambda network=network: network).model(0)  # type: ignore[misc]
        outputs, _ = model(model.state(), data.images([0]), training=False)
        assert outputs.dtype == network.head.weight.dtype  # type: ignore[union-attr]


SCENARIO = {
    "schema": 1,
    "task": {"dataset": {"name": "synthetic", "seed": 1}, "model": "softmax"},
    "clients": {"count": 30, "partition": "natural", "local_steps": 2, "learning_rate": 0.01},
    "strategy": {"rounds": 2, "evaluate_every": 1},
    "runtime": {"executor": "inline"},
}


def test_a_run_on_features_trains_and_an_attack_on_them_is_refused(tmp_path: object) -> None:
    report = fedlab.run(SCENARIO, out=f"{tmp_path}/run")
    assert report.data["utility"][0]["accuracy"] > 0.1
    attacked = SCENARIO | {"attacks": [{"name": "linear-layer"}]}
    with pytest.raises(UsageError, match="no pixels in \\[0, 1\\], and attacks"):
        fedlab.run(attacked, out=f"{tmp_path}/attacked")
    robust = SCENARIO | {"strategy": {"rounds": 2, "local_rule": "fal"}}
    with pytest.raises(UsageError, match="no pixels in \\[0, 1\\], and the local rule fal"):
        fedlab.run(robust, out=f"{tmp_path}/robust")
