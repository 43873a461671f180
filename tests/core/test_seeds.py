"""The seed tree: streams depend on their path and on nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab import seeds

PART = st.one_of(st.integers(-5, 10**6), st.text(alphabet="abc", max_size=4))


@given(st.integers(0, 2**63 - 1), st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_different_paths_give_different_seeds(seed: int, a: list[int | str], b: list[int | str]) -> None:
    assert (seeds.derive(seed, *a) == seeds.derive(seed, *b)) == (
        [(type(p), p) for p in a] == [(type(p), p) for p in b]
    )


def test_a_number_and_its_text_are_different_places() -> None:
    assert seeds.derive(0, 1) != seeds.derive(0, "1")
    assert seeds.derive(0, "a/b") != seeds.derive(0, "a", "b")


def test_streams_do_not_depend_on_earlier_draws() -> None:
    torch.manual_seed(1)
    first = torch.rand(3, generator=seeds.torch_generator(7, "x", 2))
    torch.rand(100)
    assert torch.equal(first, torch.rand(3, generator=seeds.torch_generator(7, "x", 2)))
    assert (seeds.numpy_generator(7, "x").random(4) == seeds.numpy_generator(7, "x").random(4)).all()
