"""Who attacks, and what they make of their records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedlab.adversaries import Adversary, Group, Recruits, groups, poison
from fedlab.adversaries.data import Backdoor, LabelFlip
from fedlab.adversaries.replacement import ModelReplacement
from fedlab.adversaries.updates import SignFlip
from fedlab.errors import PluginError, UsageError
from fedlab.tasks import Dataset, Task
from tests.conftest import dropout_mlp


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int) -> Tensor:
    return torch.full((count, 1, 4, 4), 0.25)


def test_labels_are_mirrored() -> None:
    y = torch.tensor([0, 1, 2, 3, 4])
    _, flipped = LabelFlip().poison(images(5), y, 5, rng())
    assert flipped.tolist() == [4, 3, 2, 1, 0] and y.tolist() == [0, 1, 2, 3, 4]


def test_one_class_is_called_another() -> None:
    y = torch.tensor([0, 1, 2, 1])
    _, flipped = LabelFlip(source=1, target=2).poison(images(4), y, 3, rng())
    assert flipped.tolist() == [0, 2, 2, 2]


def test_success_of_a_flip_counts_records_whose_label_it_changes() -> None:
    """Of five mirrored classes the middle one keeps its label, so that its records say nothing."""
    y = torch.tensor([0, 2, 4])
    assert LabelFlip().aim(images(3), y, 5)[1].tolist() == [4, -1, 0]  # type: ignore[index]
    assert LabelFlip(source=2, target=0).aim(images(3), y, 5)[1].tolist() == [-1, 0, -1]  # type: ignore[index]


def test_a_backdoor_marks_the_corner_of_a_share_of_the_records() -> None:
    """Half of six records: three with label 1 and a bright 2 × 2 square; the others as they were."""
    x, y = Backdoor(target=1, size=2, share=0.5).poison(
        images(6), torch.zeros(6, dtype=torch.int64), 3, rng()
    )
    marked = (x[:, 0, 2:, 2:] == 1.0).all(2).all(1)
    assert marked.sum() == 3 and torch.equal(y, marked.long())
    rest = x.clone()
    rest[:, :, 2:, 2:] = 0.25
    assert torch.equal(rest, images(6))


def test_a_backdoor_marks_at_least_one_record() -> None:
    _, y = Backdoor(target=1, share=0.01).poison(images(3), torch.zeros(3, dtype=torch.int64), 3, rng())
    assert y.sum() == 1


def test_success_of_a_backdoor_counts_images_of_other_classes_with_the_trigger() -> None:
    x, wanted = Backdoor(target=1, size=1, value=0.5).aim(images(3), torch.tensor([0, 1, 2]), 3)  # type: ignore[misc]
    assert wanted.tolist() == [1, -1, 1] and bool((x[:, 0, 3, 3] == 0.5).all())


def test_model_replacement_poisons_as_the_backdoor_does() -> None:
    y = torch.arange(6) % 3
    plain = Backdoor(target=2, size=3, value=0.5, share=0.4)
    for found, expected in zip(
        ModelReplacement(target=2, size=3, value=0.5, share=0.4).poison(images(6), y, 3, rng()),
        plain.poison(images(6), y, 3, rng()),
        strict=True,
    ):
        assert torch.equal(found, expected)


@given(st.integers(5, 40), st.lists(st.floats(0.125, 0.5) | st.just(0.0), max_size=2), st.integers(0, 99))
def test_fractions_are_rounded_drawn_by_the_seed_and_disjoint(
    count: int, fractions: list[float], seed: int
) -> None:
    recruits = [Recruits(f"a{i}", Adversary(), share) for i, share in enumerate(fractions)]
    if sum(round(share * count) for share in fractions) > count:
        return
    found = groups(recruits, count, seed)
    assert [len(one.clients) for one in found] == [round(share * count) for share in fractions]
    everyone = [client for one in found for client in one.clients]
    assert len(set(everyone)) == len(everyone) and all(0 <= client < count for client in everyone)
    assert [one.clients for one in groups(recruits, count, seed)] == [one.clients for one in found]


def test_named_clients_are_not_drawn_and_other_seeds_draw_others() -> None:
    recruits = [Recruits("drawn", Adversary(), 0.5), Recruits("named", Adversary(), None, [9, 3])]
    drawn, named = groups(recruits, 10, 1)
    assert named.clients == (3, 9) and not {3, 9} & set(drawn.clients)
    assert len({groups(recruits, 10, seed)[0].clients for seed in range(20)}) > 5


@pytest.mark.parametrize(
    "entries, message",
    [
        ([[1, 1]], "belongs to a0 already"),
        ([[1], [2, 1]], "adversary a1: client 1 belongs to a0"),
        ([[5]], "client 5; expected 0 to 4"),
        ([0.6, 0.6], "only 2 of 5 are left"),
        ([0.1], "0.1 of 5 clients is none"),
    ],
)
def test_a_client_attacks_under_one_label(entries: Sequence[object], message: str) -> None:
    recruits = [
        Recruits(
            f"a{i}",
            Adversary(),
            one if isinstance(one, float) else None,
            one if isinstance(one, list) else None,
        )
        for i, one in enumerate(entries)
    ]
    with pytest.raises(UsageError, match=message):
        groups(recruits, 5, 0)


def small(dtype: type) -> tuple[Task, list[np.ndarray]]:
    x = np.arange(6 * 16).reshape(6, 1, 4, 4)
    pixels = x.astype(np.uint8) if dtype is np.uint8 else (x / 100.0).astype(np.float32)
    data = Dataset("small", pixels, np.arange(6) % 3, 3, source="made by the tests", groups=np.arange(6))
    return Task(data, data, dropout_mlp), [np.array([0, 1]), np.array([2, 3]), np.array([5, 4])]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_poisoned_records_are_copies_that_their_owner_trains_on(dtype: type) -> None:
    task, owners = small(dtype)
    found, mine = poison(task, owners, [Group("b", Backdoor(target=1, size=1, share=1.0), (0, 2))], 7)
    assert [ids.tolist() for ids in mine] == [[6, 7], [2, 3], [8, 9]]
    assert np.array_equal(found.train.x[:6], task.train.x) and np.array_equal(found.train.y[:6], task.train.y)
    assert found.train.x.dtype == task.train.x.dtype and found.test is task.test
    assert found.train.y[6:].tolist() == [1] * 4
    assert found.train.groups is not None and found.train.groups[6:].tolist() == [0, 1, 5, 4]
    copies, originals = found.train.x[6:].copy(), task.train.x[[0, 1, 5, 4]].copy()
    assert (copies[:, :, 3, 3] == (255 if dtype is np.uint8 else 1.0)).all()
    copies[:, :, 3, 3] = originals[:, :, 3, 3] = 0
    assert np.array_equal(copies, originals)
    assert [ids.tolist() for ids in owners] == [[0, 1], [2, 3], [5, 4]]


def test_without_poison_everything_is_as_it_was() -> None:
    task, owners = small(np.uint8)
    found, mine = poison(task, owners, [Group("s", SignFlip(), (0, 1))], 7)
    assert found is task and mine is owners


def test_what_a_client_poisons_does_not_depend_on_who_else_does() -> None:
    task, owners = small(np.uint8)
    attack = Backdoor(target=1, size=1, share=0.5)
    one, mine = poison(task, owners, [Group("b", attack, (2,))], 7)
    both, theirs = poison(task, owners, [Group("b", attack, (0, 2))], 7)
    assert np.array_equal(one.train.x[mine[2]], both.train.x[theirs[2]])
    assert np.array_equal(one.train.y[mine[2]], both.train.y[theirs[2]])


@pytest.mark.parametrize(
    "attack, message",
    [
        (LabelFlip(source=0, target=3), "target = 3; expected a class from 0 to 2"),
        (LabelFlip(source=7, target=1), "source = 7; expected a class from 0 to 2"),
        (Backdoor(target=3), "target = 3; expected a class from 0 to 2"),
        (Backdoor(size=5), "size = 5; expected at most 4"),
    ],
)
def test_an_attack_that_does_not_fit_the_data_is_refused(attack: Adversary, message: str) -> None:
    task, owners = small(np.uint8)
    with pytest.raises(UsageError, match=message):
        poison(task, owners, [Group("x", attack, (0,))], 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LabelFlip(source=1),
        lambda: LabelFlip(source=1, target=1),
        lambda: LabelFlip(source=-1, target=1),
        lambda: Backdoor(target=-1),
        lambda: Backdoor(size=0),
        lambda: Backdoor(value=1.5),
        lambda: Backdoor(share=0.0),
    ],
)
def test_what_is_out_of_range_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]


class Wrong(Adversary):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def poison(self, x: Tensor, y: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.x, self.y


@pytest.mark.parametrize(
    "x, y, message",
    [
        (images(1), torch.zeros(1, dtype=torch.int64), "images"),
        (images(2) * 9, torch.zeros(2, dtype=torch.int64), "pixels outside"),
        (images(2), torch.zeros(2), "labels"),
        (images(2), torch.tensor([0, 3]), "labels from 0 to 3; expected 0 to 2"),
    ],
)
def test_a_plugin_that_poisons_into_nonsense_is_named(x: Tensor, y: Tensor, message: str) -> None:
    task, owners = small(np.uint8)
    with pytest.raises(PluginError, match=f"Wrong poisoned records into {message}"):
        poison(task, owners, [Group("x", Wrong(x, y), (0,))], 0)
