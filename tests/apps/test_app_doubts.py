"""A doubt is about attacks: it is told where attacks run, and not beside the reason why none does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedlab.apps import opened
from fedlab.progress import Quiet


class Heard(Quiet):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize(
    ("obstacles", "told"), [((), ["in doubt: a step"]), (("a loss",), ["not attacked: a loss"])]
)
def test_a_doubt_is_told_only_where_attacks_run(
    obstacles: tuple[str, ...], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(obstacles=obstacles, doubts=("a step",))
    monkeypatch.setattr(opened, "run", lambda *_, **__: None)
    monkeypatch.setattr(opened, "infer", lambda *_: found)
    asked = SimpleNamespace(clients=2, observe=(1,), seed=0)
    audit: Any = SimpleNamespace(apps=None, app=None, changes={}, asked=asked, rounds=1, adapter=None)
    progress = Heard()
    assert opened.witnessed(audit, progress)[1] is found
    assert progress.messages == told
