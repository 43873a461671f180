"""What an app of others misses here is named, with what to do about it."""

from __future__ import annotations

import sys
from pathlib import Path

import flwr
import pytest
from app_in_folder import app, ran

from fedlab.apps.folder import AppFolder, read
from fedlab.apps.loading import load
from fedlab.apps.needs import OFFLINE, advice
from fedlab.errors import AppFailed, BadApp

WANTED = ("flwr[simulation]>=1.8", "no-such-learner==0.4.30", "no-such-learner-lib==2", "torch==1.0")


def wanting(folder: AppFolder, *dependencies: str) -> AppFolder:
    """The app with these dependencies in its pyproject.toml."""
    project = folder.path / "pyproject.toml"
    listed = ", ".join(f'"{one}"' for one in dependencies)
    project.write_text(project.read_text().replace("[tool.flwr", f"dependencies = [{listed}]\n[tool.flwr", 1))
    return read(folder.path)


def test_a_missing_package_and_the_command_that_installs_what_the_app_asks_for(tmp_path: Path) -> None:
    """What is there (torch, in another version) is not installed again."""
    made = wanting(app(tmp_path, "without", {"task": "import no_such_learner"}), *WANTED)
    with pytest.raises(BadApp) as caught:
        load(made)
    (line,) = [one for one in str(caught.value).splitlines() if one.startswith("Install")]
    assert line.endswith(f"{sys.executable} -m pip install no-such-learner==0.4.30 no-such-learner-lib==2")


def test_a_module_that_is_called_otherwise_than_its_package() -> None:
    assert advice("No module named 'cv2'", ()).endswith("pip install opencv-python-headless")
    assert advice("No module named 'yaml.nodes'", ("torch", "not a requirement!")).endswith("install pyyaml")


def test_a_name_that_flower_no_longer_has() -> None:
    told = advice("cannot import name 'Driver' from 'flwr.server' (somewhere)", ("torch", "flwr>=1.8,<2"))
    assert flwr.__version__ in told and "'flwr>=1.8,<2'" in told and "flwr.server" in told
    assert "flwr.driver" in advice("No module named 'flwr.driver'", ())


def test_data_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE:
        monkeypatch.setenv(name, "1")
    told = advice("OfflineModeIsEnabled: Cannot reach https://huggingface.co/datasets/mnist", ())
    assert "HF_HUB_OFFLINE=0 HF_DATASETS_OFFLINE=0" in told
    for name in OFFLINE:
        monkeypatch.delenv(name)
    assert "Fetch its data first" in advice("Max retries exceeded with url", ())


def test_a_file_that_is_not_there() -> None:
    assert "./data/client_0.pt" in advice("FileNotFoundError: [Errno 2] No such: './data/client_0.pt'", ())
    assert advice("FileNotFoundError: [Errno 2] No such: '/data/client_0.pt'", ()) == ""


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert advice("ValueError: bad value", WANTED) == ""


def test_of_clients_that_all_failed_the_first_is_shown_and_not_what_the_server_made_of_it(
    tmp_path: Path,
) -> None:
    made = app(
        tmp_path,
        "all_fail",
        client_before="import no_such_reader",
        server_after="raise IndexError('nothing to average')",
    )
    with pytest.raises(AppFailed) as caught:
        ran(made, rounds=1)
    told = str(caught.value)
    assert "all 3 training replies failed; the first: ModuleNotFoundError" in told
    assert "the ServerApp failed in round 1: IndexError" in told
    assert "asks for no package no_such_reader" in told, "somebody else's may have that name"
    assert "import no_such_reader" in caught.value.traceback
    assert "nothing to average" not in caught.value.traceback


def test_evaluations_that_fail_are_counted(tmp_path: Path) -> None:
    made = app(tmp_path, "unable")
    for module, old, new in (
        ("server_app", "fraction_evaluate=0.0", "fraction_evaluate=1.0"),
        ("client_app", "app = ClientApp()", "app = ClientApp()\n@app.evaluate()\ndef no(m, c): 1 / 0"),
    ):
        source = made.path / "unable" / f"{module}.py"
        source.write_text(source.read_text().replace(old, new))
    found = ran(made, rounds=1)
    assert found.failed == 0
    assert found.unevaluated.startswith("3 of 3 evaluations failed on the clients; the first: ZeroDivision")
    assert ran(app(tmp_path / "b", "able"), rounds=1).unevaluated == ""


def test_an_app_of_agents_has_no_clients(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.flwr.app.components]\nagentapp = "a.b:app"\n')
    with pytest.raises(BadApp, match=r"1 mistake\n.*agentapp: an agent trains nothing"):
        read(tmp_path)
