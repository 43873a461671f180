"""The process that executes a deployed run, and what is made of its end; and that Flower is as we know it."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.superlink.grid import HttpGrid

from fedlab.apps.tap import OUTPUT
from fedlab.apps.tap.executing import _News, execute
from fedlab.apps.tap.flower import ListeningGrid, serve
from fedlab.apps.tap.link import Address
from fedlab.apps.tap.process import _told
from fedlab.errors import AppFailed, BackendError, FedlabError
from fedlab.progress import Quiet
from fedlab.runtime._flower import RunNotRunningException


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.news: list[tuple[Any, ...]] = []

    def began(self, about: Any) -> None:
        self.news.append(("began", about))

    def sent(self, ids: Any, messages: Any) -> None:
        self.news.append(("sent", ids, messages))

    def arrived(self, replies: Any) -> None:
        self.news.append(("arrived", replies))

    def ended(self, error: BaseException | None, folder: str) -> None:
        self.news.append(("ended", error, folder))


def grid(listener: Heard) -> ListeningGrid:
    return ListeningGrid("127.0.0.1:1", True, None, token="t", listener=listener, patience=7.0)


def test_a_grid_that_listens_passes_on_what_flower_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own `send_and_receive` goes through the two methods that tell, with its own arguments."""
    made, replied = object.__new__(Message), object.__new__(Message)
    asked: list[Any] = []

    class Metadata:
        reply_to_message_id = "a"

    monkeypatch.setattr(Message, "metadata", Metadata())
    monkeypatch.setattr(HttpGrid, "push_messages", lambda self, messages: asked.append(messages) or ["a"])
    monkeypatch.setattr(HttpGrid, "pull_messages", lambda self, ids: asked.append(set(ids)) or [replied])
    listener = Heard()
    assert list(grid(listener).send_and_receive([made])) == [replied]
    assert asked == [[made], {"a"}]
    assert listener.news == [("sent", ["a"], [made]), ("arrived", [replied])]


def test_flower_still_has_what_is_replaced() -> None:
    """Two names of one module, called with these arguments; and the retries of its Grid."""
    module = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    assert module.HttpGrid is HttpGrid
    source = inspect.getsource(module.run_serverapp)
    assert "grid = HttpGrid(" in source and "context = run_(" in source
    for name in (
        "grid=grid",
        "server_app_dir=app_path",
        "server_app_attr=server_app_attr",
        "context=context",
    ):
        assert name in source
    send = inspect.getsource(HttpGrid.send_and_receive)
    assert "self.push_messages(messages)" in send and "self.pull_messages(msg_ids)" in send
    made = grid(Heard())
    assert made._retry_invoker.max_time == 7.0 and made._retry_invoker.max_tries is None


def test_flwr_serverapp_is_called_with_both_names_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Flower's command one that calls the two names as Flower's does."""
    module: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    before = module.HttpGrid, module.run_, sys.argv
    error = ValueError("no")

    class Run:
        run_id, fab_id, fab_version, fab_hash = 5, "me/app", "1.0.0", "abc"

    context = Context(1, 1, {}, RecordDict(), {"lr": 0.1})

    def app(grid: Any, context: Any, server_app_dir: str, server_app_attr: str) -> None:
        raise error

    def command() -> None:
        assert sys.argv == ["flwr-serverapp", "--token", "t"]
        made = module.HttpGrid(runtime_api_address="h:1", insecure=True, root_certificates=None, token="t")
        monkeypatch.setattr(HttpGrid, "run", Run())
        module.run_(grid=made, server_app_dir="/app", server_app_attr="a:b", context=context)

    monkeypatch.setattr(module, "run_", app)
    monkeypatch.setattr("flwr.superlink.cli.flwr_serverapp", command)
    listener = Heard()
    with pytest.raises(ValueError, match="no"):
        serve(["--token", "t"], listener, 3.0)
    about = {"run_id": "5", "app": "me/app", "version": "1.0.0", "hash": "abc", "folder": "/app"}
    assert listener.news == [
        ("began", about | {"configuration": {"lr": 0.1}}),
        ("ended", error, "/app"),
    ]
    assert (module.HttpGrid, module.run_, sys.argv) == (before[0], app, before[2])


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ValueError("x"), "failed"),
        (SystemExit(3), "failed"),
        (SystemExit(0), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (RunNotRunningException(), "stopped"),
        (httpx.ConnectError("refused"), "gone"),
        (httpx.ReadTimeout("slow"), "gone"),
    ],
)
def test_whose_fault_an_end_is(error: BaseException, how: str) -> None:
    told = _told({"kind": "ended", "error": error, "folder": "/app"})
    assert told["how"] == how and json.loads(json.dumps(told)) == told
    assert _told({"kind": "ended", "error": None, "folder": "/app"}) == {"kind": "ended", "how": "well"}


@pytest.mark.parametrize(
    ("end", "code", "kind", "words"),
    [
        (
            {"how": "gone", "text": "refused"},
            1,
            BackendError,
            "went away in round 2, and was not back after 9",
        ),
        ({"how": "stopped", "text": ""}, 0, AppFailed, "stopped from outside in round 2: by flwr stop"),
        ({"how": "failed", "text": "E: x", "traceback": "T"}, 1, AppFailed, "failed in round 2: E: x"),
        ({}, -9, AppFailed, "by signal SIGKILL, in round 2"),
        ({}, 1, BackendError, "ended with code 1, in round 2. The end of what it said:\n  last words"),
    ],
)
def test_what_is_said_of_an_end(
    end: dict[str, Any], code: int, kind: type[FedlabError], words: str, tmp_path: Path
) -> None:
    (tmp_path / OUTPUT).write_text("last words\n")
    news = _News(Quiet(), rounds=1)
    news.take({"kind": "round", "number": 2})
    if end:
        news.take({"kind": "ended", **end})
    with pytest.raises(FedlabError) as caught:
        news.judge(code, tmp_path, "h:1", 9.0)
    assert type(caught.value) is kind and words in str(caught.value)


def test_a_run_that_went_well_and_was_not_recorded(tmp_path: Path) -> None:
    news = _News(Quiet(), rounds=1)
    news.take({"kind": "ended", "how": "well"})
    news.judge(0, tmp_path, "h:1", 9.0)
    news.take({"kind": "fault", "text": "OSError: disk full"})
    news.take({"kind": "ended", "how": "well"})
    with pytest.raises(
        BackendError, match="went well, and could not be recorded to its end: OSError: disk full"
    ):
        news.judge(0, tmp_path, "h:1", 9.0)


def test_a_superlink_that_went_away_before_the_run_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process: Flower's own, which asks nobody for its task, and gives up."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    address = Address("127.0.0.1:1", insecure=True)
    with pytest.raises(BackendError) as caught:
        execute(tmp_path, address, "0" * 64, (1,), 1.0, Quiet())
    text = str(caught.value)
    assert (
        "Flower's executor ended with code 1, before its first round" in text and "Connection refused" in text
    )
    assert not (tmp_path / "deployment.json").exists()
