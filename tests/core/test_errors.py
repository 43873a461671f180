"""Errors reach other processes whole."""

from __future__ import annotations

import pickle

import pytest

from fedlab.errors import FedlabError, Problem, ScenarioError, UnknownName, did_you_mean


@pytest.mark.parametrize(
    "error",
    [
        ScenarioError("a.toml", [Problem("seed", "got -1; expected at least 0")]),
        UnknownName("model", "mpl", ["mlp", "vit"]),
        FedlabError("plain"),
    ],
)
def test_an_error_of_a_worker_says_the_same_at_home(error: FedlabError) -> None:
    home = pickle.loads(pickle.dumps(error))
    assert type(home) is type(error) and str(home) == str(error) and home.__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("batchsize", "batch_size"),  # a slip
        ("batch_zise", "batch_size"),
        ("certifcate", "Certificate"),  # whatever the case
        ("SIZE", "batch_size"),  # a word of a name
        ("nu", "mu"),
        ("nonsense", ""),  # five of eight letters stand in "Defense" too, in this order
        ("computer", ""),  # four of "count"
        ("", ""),
    ],
)
def test_a_hint_is_for_slips_and_not_for_other_words(name: str, hint: str) -> None:
    said = did_you_mean(name, ["Certificate", "Defense", "batch_size", "count", "frontier", "mu"])
    assert said == (f' Did you mean "{hint}"?' if hint else "")
