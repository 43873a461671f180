"""Gaussian classes, listed and made when they are asked for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab import plugins
from fedlab.errors import UsageError
from fedlab.tasks import Dataset
from fedlab.tasks.datasets.gaussians import CLIENTS, PAGE, SLOTS, Gaussians, gaussians


@pytest.fixture(scope="module")
def own() -> Gaussians:
    train = gaussians(seed=3, test_records=10)[0]
    assert isinstance(train, Gaussians)
    return train


def test_both_halves_are_balanced_and_their_classes_stand_where_they_should() -> None:
    """Of 20,000 records of a class each coordinate's mean has an sd of 1/141; 320 of them stay within 5."""
    train, test = plugins.build("datasets", {"name": "gaussians", "records": 200_000, "seed": 3})
    assert train.x.dtype == np.float32 and train.shape == (1, 1, 32) and not train.pixels and train.synthetic
    assert np.bincount(train.y).tolist() == [20_000] * 10 and np.bincount(test.y).tolist() == [400] * 10
    means = gaussians(seed=3, test_records=1)[0].means  # type: ignore[attr-defined]
    for label in range(10):
        noise = train.x[train.y == label].reshape(-1, 32) - means[label]
        assert abs(noise.mean(0)).max() < 5 / np.sqrt(20_000)
        assert abs(noise.std() - 1.0) < 5 / np.sqrt(2 * 32 * 20_000)


def test_means_have_the_given_separation() -> None:
    """400 × 50 coordinates: 5 sd of their standard deviation are 0.7 / √(2 · 20,000) · 5 = 0.0175."""
    many = gaussians(classes=400, features=50, separation=0.7, test_records=1)[0]
    assert abs(many.means.std() - 0.7) < 0.0175  # type: ignore[attr-defined]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, CLIENTS - 1), st.integers(0, SLOTS - 1), st.integers(0, 9)), max_size=9)
)
def test_a_record_is_the_same_whoever_asks(places: list[tuple[int, int, int]]) -> None:
    """Against the definition: the mean of the label, and the slot's row of its page, page by page."""
    from fedlab.seeds import numpy_generator

    own = Gaussians(np.arange(30, dtype=np.float32).reshape(10, 3), 5)
    ids = [(client * SLOTS + slot) * 10 + label for client, slot, label in places]
    rows = []
    for client, slot, label in places:
        page, row = divmod(client * SLOTS + slot, PAGE)
        draw = numpy_generator(5, "gaussians", page).standard_normal((PAGE, 3), dtype=np.float32)
        rows.append(draw[row] + own.means[label])
    assert np.array_equal(own.images(ids).numpy().reshape(-1, 3), np.array(rows).reshape(-1, 3))
    assert own.labels(ids).tolist() == [label for _, _, label in places]


def test_own_records_are_standard_normal_around_their_means(own: Gaussians) -> None:
    """10,000 records of class 4 from 100 clients; 5 sd."""
    ids = np.concatenate([own.own(client, np.full(100, 4)) for client in range(100)])
    noise = own.images(ids).numpy().reshape(-1, 32) - own.means[4]
    assert abs(noise.mean(0)).max() < 5 / 100 and abs(noise.std() - 1) < 5 / np.sqrt(2 * 320_000)
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 5 / np.sqrt(320_000)


def test_the_seed_decides_everything(own: Gaussians) -> None:
    again, other = gaussians(seed=3)[0], gaussians(seed=4)[0]
    assert again.sha256() == own.sha256() != other.sha256()
    ids = own.own(99_999_999, np.arange(10))
    assert torch.equal(pickle.loads(pickle.dumps(own)).images(ids), again.images(ids))
    assert not torch.equal(own.images(ids), other.images(ids))
    listed = [gaussians(records=50, seed=seed) for seed in (3, 3, 4)]
    assert listed[0][0].sha256() == listed[1][0].sha256() != listed[2][0].sha256()
    assert isinstance(listed[0][0], Dataset) and listed[0][1].sha256() == gaussians(seed=3)[1].sha256()


def test_what_there_is_not(own: Gaussians) -> None:
    with pytest.raises(UsageError, match=f"{SLOTS + 1} records of client 0; expected at most {SLOTS}"):
        own.own(0, np.zeros(SLOTS + 1, np.int64))
    with pytest.raises(UsageError, match="clients below"):
        own.own(CLIENTS, np.zeros(1, np.int64))
    for ids in ([-1], [len(own)]):
        with pytest.raises(IndexError, match="expected ids from 0"):
            own.images(ids)
    for wrong in ({"classes": 1}, {"features": 0}, {"records": 0}, {"separation": -1.0}, {"test_records": 0}):
        (name,) = wrong
        with pytest.raises(UsageError, match=f"{name} = .*; expected a"):
            gaussians(**wrong)  # type: ignore[arg-type]
