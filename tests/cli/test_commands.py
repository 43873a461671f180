"""The commands that only look: validate, schema, list, info, data, doctor, and bad usage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fedlab import __version__, doctor, plugins
from fedlab.cli import catalogue
from fedlab.errors import DataError
from fedlab.scenario import load
from fedlab.scenario.reference import markdown

HEAVY = ("torch", "ray", "flwr", "pydantic", "numpy", "opacus", "matplotlib", "scipy")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["data", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom fedlab.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as exit: assert not exit.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and done.stdout


def test_the_installed_command_is_this_one() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="fedlab")
    assert entry.value == "fedlab.cli:main"


def test_version_help_and_no_command(fedlab: Any) -> None:
    assert fedlab("--version").out == f"fedlab-audit {__version__}\n"
    bare = fedlab()
    assert bare.code == 0 and bare.out == fedlab("-h").out
    for command in ("run", "report", "validate", "schema", "list", "info", "data", "doctor"):
        assert f" {command} " in bare.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lst"], "list"),
        (["run"], "SCENARIO"),
        (["run", "--sett", "a=b", "x"], "--set"),
        (["list", "atacks"], 'Did you mean "attacks"'),
        (["info", "dp-sdg"], 'Did you mean "dp-sgd"'),
        (["info", "attacks/mlp"], "no attack is called"),
        (["validate", "quikstart"], 'Did you mean "quickstart"'),
        (["data", "fetch", "mnst"], 'Did you mean "mnist"'),
    ],
)
def test_bad_usage_is_exit_code_2_with_a_hint(fedlab: Any, arguments: list[str], told: str) -> None:
    answer = fedlab(*arguments)
    assert answer.code == 2 and answer.out == ""
    assert told in answer.err and "Traceback" not in answer.err and len(answer.err.splitlines()) < 24


def test_validate_says_what_would_run(fedlab: Any, scenario: Path) -> None:
    answer = fedlab("validate", scenario, "--set", 'clients.mode=["train","eval"]', "--set", "seeds=[1,2,3]")
    assert answer.code == 0
    assert (
        "10 clients, 10 rounds, 1 defense x 2 client modes x 3 seeds = 6 models to train, 0 attacks"
        in answer.out
    )


def test_validate_resolves_to_toml_that_is_the_same_scenario(fedlab: Any, scenario: Path) -> None:
    answer = fedlab("validate", scenario, "--resolved", "--set", "strategy.rounds=4")
    assert load(tomllib.loads(answer.out)) == load(scenario, ["strategy.rounds=4"])


def test_validate_names_every_mistake_on_a_line_of_its_own(fedlab: Any, scenario: Path) -> None:
    scenario.write_text(
        scenario.read_text() + "[clients]\ncuont = 1\nmomentum = 2.0\n[strategy]\ncohort = 99\n"
    )
    answer = fedlab("validate", scenario)
    assert answer.code == 2 and answer.out == ""
    heading, *lines = answer.err.splitlines()
    assert heading == f"error: {scenario}: 3 mistakes"
    assert [line.split(": ")[0].strip() for line in lines] == [
        "clients.cuont (line 6)",
        "clients.momentum (line 7)",
        "strategy.cohort (line 9)",
    ]
    answer = fedlab("validate", scenario, "--json")
    assert answer.code == 2 and answer.err == "" and len(answer.json["problems"]) == 3
    assert fedlab("validate", scenario, "--json", "--set", "clients.cuont=1").json["valid"] is False


def test_schema_is_json_or_the_reference_page(fedlab: Any) -> None:
    assert fedlab("schema").json["properties"]["schema"]["const"] == 1
    assert fedlab("schema", "--markdown").out == markdown()


def test_list_without_a_kind_names_everything(fedlab: Any) -> None:
    found = fedlab("list", "--json").json
    assert set(found) == set(catalogue.KINDS)
    assert "mlp" in found["models"] and "iid" in found["partitions"] and "quickstart" in found["scenarios"]
    assert "weighted-mean" in fedlab("list").out


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_everything_that_is_listed_works_and_describes_itself(fedlab: Any, kind: str) -> None:
    entries = fedlab("list", kind, "--json").json
    assert [entry["name"] for entry in entries] == catalogue.names(kind)
    for entry in entries:
        assert not entry["broken"] and entry["summary"], entry
        shown = fedlab("info", f"{kind}/{entry['name']}").out
        assert entry["name"] in shown and entry["summary"].split()[0] in shown
        assert fedlab("info", f"{kind}/{entry['name']}", "--json").json == [entry]


def test_info_tells_of_a_server_that_must_cheat(fedlab: Any) -> None:
    assert 'threat.server = "malicious"' in fedlab("info", "imprint").out
    assert "malicious" not in fedlab("info", "linear-layer").out


def test_the_example_of_info_is_valid(fedlab: Any) -> None:
    """What `info` prints under "In a scenario" can be pasted into one."""
    base = 'schema = 1\n[task]\ndataset = "digits"\nmodel = "mlp"\n'
    for kind, name in (
        ("defenses", "gradient-pruning"),
        ("defenses", "dp-sgd"),
        ("defenses", "architecture"),
        ("defenses", "stack"),
        ("datasets", "photos"),
        ("partitions", "dirichlet"),
        ("aggregators", "median"),
    ):
        example = fedlab("info", f"{kind}/{name}").out.partition("In a scenario:\n")[2]
        # A table that is opened twice is no TOML: a data set takes the place of the other one.
        load(
            tomllib.loads(
                base.replace('[task]\ndataset = "digits"\n', example)
                if kind == "datasets"
                else base + example
            )
        )
    example = fedlab("info", "models/resnet").out.partition("In a scenario:\n")[2]
    assert load(tomllib.loads(f'schema = 1\n{example}dataset = "digits"')).task.model.name == "resnet"


def test_singular_kinds_are_understood(fedlab: Any) -> None:
    assert fedlab("list", "model", "--json").json == fedlab("list", "models", "--json").json


def test_a_broken_and_a_shadowed_plugin_are_listed_as_such(
    fedlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stranger:
        name = "stranger"

    real = metadata.entry_points

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        found = list(real(group=group))
        for name, value in (("explodes", "no.such.module:x"), ("mlp", "no.such.module:y")):
            entry = metadata.EntryPoint(name, value, group)
            vars(entry)["dist"] = Stranger
            found += [entry] if group == "fedlab.models" else []
        return found

    monkeypatch.setattr(plugins.metadata, "entry_points", entry_points)
    topics = {one.topic: one for one in doctor.plugged()}
    assert set(topics) == {"model explodes", "model mlp"}
    assert {one.status for one in topics.values()} == {"note"}
    assert "does not import" in topics["model explodes"].value
    assert "that of stranger is ignored" in topics["model mlp"].value
    answer = fedlab("list", "models")
    assert answer.code == 0
    assert "broken: the model 'explodes' (no.such.module:x, from stranger) does not import" in answer.out
    assert "ignored: mlp from stranger" in answer.out
    assert "broken" in fedlab("info", "explodes").out
    assert not next(one for one in fedlab("list", "models", "--json").json if one["name"] == "mlp")["broken"]


def test_data_list_verify_and_fetch_use_the_store(fedlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlab.tasks import store

    def verify(name: str) -> list[Path]:
        if name == "mnist":
            raise DataError("mnist is altered")
        return [Path("x")]

    monkeypatch.setattr(store, "verify", verify)
    monkeypatch.setattr(store, "fetch", lambda name: Path("/there") / name)
    assert {"name", "status", "where", "size", "licence", "origin"} == set(
        fedlab("data", "list", "--json").json[0]
    )
    assert "digits" in fedlab("data", "list").out
    answer = fedlab("data", "verify", "digits", "mnist", "photos")
    assert answer.code == 3 and answer.out == "digits: 1 file as pinned\nphotos: 1 file as pinned\n"
    assert "mnist is altered" in answer.err
    assert fedlab("data", "fetch", "digits").out == "digits: /there/digits\n"


def test_doctor_reports_this_machine_and_telemetry(fedlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("numpy",))
    monkeypatch.setattr(doctor, "rival", lambda: iter(()))
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    answer = fedlab("doctor", "--json")
    found = {finding["topic"]: finding for finding in answer.json}
    assert answer.code == 0
    assert found["Flower telemetry"]["value"] == "ON (FLWR_TELEMETRY_ENABLED=1)"
    assert (
        found["Flower telemetry"]["status"] == "note"
        and "FLWR_TELEMETRY_ENABLED=0" in found["Flower telemetry"]["advice"]
    )
    assert found["Ray usage statistics"] == {
        "topic": "Ray usage statistics",
        "value": "off (RAY_USAGE_STATS_ENABLED=0)",
        "status": "ok",
        "advice": "",
    }
    assert found["numpy"]["value"] == metadata.version("numpy")
    assert {"python", "CPU cores", "GPUs", "memory", "/dev/shm", "data set digits"} <= set(found)
    assert "Flower telemetry" in fedlab("doctor").out


def test_doctor_fails_on_a_rival_and_on_a_package_that_does_not_load(
    fedlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("no_such_package_anywhere",))
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1.3.0" if name == "fedlab" else real(name))
    answer = fedlab("doctor")
    assert answer.code == 6
    assert "the distribution fedlab 1.3.0 is installed beside fedlab-audit" in answer.out
    assert "pip uninstall fedlab" in answer.out
    assert "no_such_package_anywhere" in answer.out and "ModuleNotFoundError" in answer.out


def test_output_cut_short_by_its_reader_is_no_error() -> None:
    code = "from fedlab.cli import main\nmain(['schema'])"
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()
    assert done.stderr.read() == b"" and done.wait() == 0


def test_json_has_no_nan(fedlab: Any) -> None:
    for kind in catalogue.KINDS:
        json.loads(fedlab("list", kind, "--json").out, parse_constant=lambda text: pytest.fail(text))


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["list", "--json"]])
def test_output_that_cannot_be_written_is_told(arguments: list[str]) -> None:
    code = f"from fedlab.cli import main\nmain({arguments!r})"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 6
    assert "the output cannot be written: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "ending",
    [
        "raise KeyboardInterrupt",
        # What Ctrl-C leaves behind where a library turns it into another error, or swallows it.
        "try: raise KeyboardInterrupt\nexcept KeyboardInterrupt: raise RecursionError",
        "import os, signal\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: pass\n"
        "raise AttributeError('half an import')",
    ],
)
def test_ctrl_c_while_fedlab_is_still_loading(tmp_path: Path, ending: str) -> None:
    (tmp_path / "typer.py").write_text(ending)
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom fedlab.cli import main\nmain(['list'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "stopped\n")


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("models/mlp", ""),
        ("models/convnet", ""),
        ("strategies/fedavg", ""),
        ("datasets/mnist", ""),  # its module cites two data sets
        (
            "models/vit",
            'Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929.',
        ),
    ],
)
def test_a_paper_is_a_citation_or_nothing(fedlab: Any, name: str, paper: str) -> None:
    (entry,) = fedlab("info", name, "--json").json
    assert entry["paper"] == paper


@pytest.mark.parametrize("command", [("info", "fedbuff"), ("list", "strategies")])
def test_whoever_has_read_enough_ends_no_command_with_an_error(command: tuple[str, ...]) -> None:
    """`fedlab info NAME | head -1`: the reader's end of the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(
        [sys.executable, "-c", "from fedlab.cli import main; main()", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (found.returncode, found.stderr) == (0, "")
