"""Errors reach other processes whole."""

from __future__ import annotations

import pickle

import pytest

from fedlab.errors import FedlabError, Problem, ScenarioError, UnknownName


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
