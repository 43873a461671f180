"""What a folder says of its app, and every way in which it can be wrong."""

from pathlib import Path

import pytest
from app_in_folder import CONFIG, app, forgotten

from fedlab.apps.folder import overrides, read
from fedlab.apps.loading import load
from fedlab.errors import BadApp, UnknownName, UsageError

COMPONENTS = '[tool.flwr.app.components]\nserverapp = "a.b:app"\nclientapp = "a.c:app.inner"\n'


def described(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_what_is_read(tmp_path: Path) -> None:
    text = (
        '[project]\nname = "mine"\n' + COMPONENTS + "[tool.flwr.app.config]\nNum_Rounds = 3\nlr = 0.1\n"
        "[tool.flwr.app.config.data]\nname = 'x'\n[tool.fedlab.audit]\nbatch-size = 4\n"
        "[tool.flwr.federations]\ndefault = 'local'\nlocal.options.num-supernodes = 7\n"
    )
    for path in (described(tmp_path, text), tmp_path / "pyproject.toml"):
        found = read(path)
        assert (found.path, found.name, found.supernodes) == (tmp_path, "mine", 7)
        assert (found.serverapp, found.clientapp) == ("a.b:app", "a.c:app.inner")
        assert found.config == {"Num_Rounds": 3, "lr": 0.1, "data.name": "x"}
        assert found.rounds_key() == "Num_Rounds" and found.audit == {"batch-size": 4}
    bare = read(described(tmp_path, COMPONENTS))
    assert (bare.name, bare.config, bare.rounds_key(), bare.supernodes, bare.audit) == (
        tmp_path.name,
        {},
        None,
        None,
        None,
    )


def test_every_mistake_at_once(tmp_path: Path) -> None:
    text = (
        '[tool.flwr.app.components]\nserverap = "a:b"\nclientapp = "a.b"\n[tool.flwr.app.config]\nx = [1]\n'
    )
    with pytest.raises(BadApp) as caught:
        read(described(tmp_path, text))
    first, *mistakes = str(caught.value).splitlines()
    assert first == f"{tmp_path / 'pyproject.toml'}: 3 mistakes"
    assert "serverapp is missing" in mistakes[0] and 'Did you mean "serverap"?' in mistakes[0]
    assert "clientapp = 'a.b'; expected \"module:attribute\"" in mistakes[1]
    assert "config.x = [1]; Flower takes a number" in mistakes[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"no table \[tool.flwr.app\]"),
        ("[tool]\nflwr = 3", "tool.flwr = 3; expected a table"),
        ("[tool.flwr.app]\n", r"no table \[tool.flwr.app.components\]"),
        ("[tool.flwr", "cannot be read: Expected"),
        (COMPONENTS + "[tool.fedlab]\naudit = 1\n", "tool.fedlab.audit = 1; expected a table"),
        ("[tool.flwr.app]\nconfig = 2\n" + COMPONENTS, "tool.flwr.app.config = 2; expected a table"),
    ],
)
def test_one_mistake(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadApp, match=told) as caught:
        read(described(tmp_path, text))
    assert caught.value.exit_code == 2


def test_no_folder_no_pyproject(tmp_path: Path) -> None:
    with pytest.raises(BadApp, match=r"no folder .*nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(BadApp, match=r"no pyproject.toml in"):
        read(tmp_path)


def test_changes_of_the_run_config(tmp_path: Path) -> None:
    found = read(
        described(tmp_path, COMPONENTS + "[tool.flwr.app.config]\n" + CONFIG + "name = 'a'\nfast = true\n")
    )
    changes = overrides('lr=1 name="x y"  fast = false')
    assert changes == {"lr": 1, "name": "x y", "fast": False} and overrides(" ") == {}
    assert found.configured(changes) == {"num-server-rounds": 2, **changes}
    with pytest.raises(UnknownName, match=r'"num-server-round".*Did you mean "num-server-rounds"'):
        found.configured({"num-server-round": 1})
    for wrong, kind in (({"lr": True}, "a number"), ({"fast": 1}, "true or false"), ({"name": 2}, "a text")):
        with pytest.raises(UsageError, match=f"expected {kind}"):
            found.configured(wrong)
    for text, told in (
        ("lr 0.1", "'lr 0.1'"),
        ("lr=", "'lr='"),
        ("lr=fast", 'lr="..."'),
        ("lr=[1]", "a number"),
    ):
        with pytest.raises(UsageError, match=r"run config .*expected") as caught:
            overrides(text)
        assert told in str(caught.value)


def test_apps_that_do_not_load(tmp_path: Path) -> None:
    def told(name: str, files: dict[str, str]) -> BadApp:
        with pytest.raises(BadApp) as caught:
            load(app(tmp_path / name, name, files))
        assert "/fedlab/" not in caught.value.traceback
        return caught.value

    broken = told("broken", {"server_app": "import math\n\ndef f():\n    return 1 / 0\n\napp = f()\n"})
    assert "does not import: ZeroDivisionError: division by zero" in str(broken)
    assert next(line for line in broken.traceback.splitlines() if "File" in line).endswith(
        "line 6, in <module>"
    )
    absent = told("absent", {"client_app": "import no_such_library\n"})
    assert "pyproject.toml asks for no package no_such_library" in str(absent)
    assert "client_app.py" in absent.traceback
    syntax = told("syntax", {"client_app": "app = (\n"})
    assert "SyntaxError" in str(syntax) and "client_app.py" in syntax.traceback
    leaving = told("leaving_early", {"client_app": "import sys\nsys.exit('bye')\n"})
    assert "ended the process with code 1 while it was imported" in str(leaving)
    other = told("other", {"client_app": "from flwr.clientapp import ClientApp\nclient = ClientApp()\n"})
    assert 'has no app; expected a ClientApp there. Did you mean "client"?' in str(other)
    assert "is a function; expected a ServerApp object" in str(
        told("function", {"server_app": "def app(): pass\n"})
    )
    assert other.traceback == ""


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    folder = app(tmp_path, "there")
    text = (tmp_path / "pyproject.toml").read_text()
    for wrong, told in (
        ("their.server_app", r'no module their in .*Did you mean "there"'),
        ("there.server", "no module there.server"),
    ):
        described(tmp_path, text.replace("there.server_app", wrong))
        with pytest.raises(BadApp, match=told):
            load(read(tmp_path))
    described(tmp_path, text.replace('"there.server_app', '"json.server_app'))
    with pytest.raises(BadApp, match=r"no module json.server_app"):
        load(read(tmp_path))
    with forgotten(folder) as apps:
        assert apps.output == ()


def test_two_apps_of_the_same_name(tmp_path: Path) -> None:
    first, second = app(tmp_path / "a", "twice"), app(tmp_path / "b", "twice")
    with forgotten(first) as apps:
        with pytest.raises(BadApp, match="another module twice is in use already"):
            load(second)
    with forgotten(second) as others:
        assert others.client is not apps.client
