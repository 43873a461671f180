"""Every mistake at once, each with its place and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlab.errors import ScenarioError
from fedlab.scenario import load, source

SMALLEST = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def told(given: Any, overrides: list[str] | None = None) -> dict[str, str]:
    """Place -> message of every problem."""
    with pytest.raises(ScenarioError) as caught:
        load(given, overrides or [])
    assert caught.value.exit_code == 2
    return {problem.place: problem.message for problem in caught.value.problems}


def test_nine_different_mistakes_are_all_named_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """schema = 1
[task]
dataset = "digts"
model = { name = "mlp", widht = 3 }
[clients]
cuont = 20
momentum = nan
[strategy]
rounds = 5
cohort = 11
[audit]
rounds = [1, 7]
[threat]
labels = 1
[[attacks]]
name = "inverting"
[[attacks]]
name = "inverting"
[[defenses]]
name = "noise"
"""
    )
    problems = told(file)
    assert {place: text.split(";")[0].split(". ")[0] for place, text in problems.items()} == {
        "task.dataset (line 3)": 'no data set is called "digts"',
        "task.model.widht (line 4)": "unknown parameter",
        "clients.cuont (line 6)": "unknown key",
        "clients.momentum (line 7)": "got nan",
        "strategy.cohort (line 10)": "got 11",
        "audit.rounds (line 12)": "round 7 never happens",
        "threat.labels (line 14)": "got 1",
        "attacks.1 (line 17)": 'there is already one labelled "inverting"',
        "defenses.0.noise_multiplier (line 19)": "missing",
    }
    assert 'Did you mean "count"? Keys in [clients]: count, partition' in problems["clients.cuont (line 6)"]
    assert 'Did you mean "width"' in problems["task.model.widht (line 4)"]
    assert 'Did you mean "digits"' in problems["task.dataset (line 3)"]
    assert "expected at most 10" in problems["strategy.cohort (line 10)"]


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("clients", "count", 0, "expected an integer from 1"),
        ("clients", "count", 2.0, "expected an integer"),
        ("clients", "count", True, "expected an integer"),
        ("clients", "count", "10", 'got "10"; expected an integer'),
        ("clients", "batch_size", -1, "from 0"),
        ("clients", "learning_rate", 0, "expected a finite number > 0"),
        ("clients", "learning_rate", float("inf"), "got inf; expected a finite number > 0"),
        ("clients", "momentum", 1, ">= 0 and < 1"),
        ("clients", "weight_decay", -0.1, ">= 0"),
        ("clients", "mode", [], 'got []; expected "train" or "eval" or a non-empty list'),
        ("clients", "mode", ["train", "train"], "'train' is given twice"),
        ("clients", "partition", "dirichlt", 'Did you mean "dirichlet"'),
        ("clients", "partition", 3, "got 3; expected a name"),
        ("strategy", "name", "fedag", 'Did you mean "fedavg"'),
        ("strategy", "aggregator", "weighted-meen", 'Did you mean "weighted-mean"'),
        ("strategy", "server_optimizer", 3, "got 3; expected a name"),
        ("strategy", "rounds", 0, "expected an integer from 1"),
        ("strategy", "evaluate_every", 0, "expected an integer from 1"),
        ("runtime", "workers", 0, 'expected "auto" or an integer from 1'),
        ("runtime", "executor", "dask", 'expected "ray" or "inline"'),
        ("runtime", "num_cpus", 0, "> 0"),
        ("runtime", "num_gpus", -1, ">= 0"),
        ("audit", "rounds", [], "a non-empty list"),
        ("audit", "rounds", 1, "a non-empty list"),
        ("audit", "rounds", [2, 2], "2 is given twice"),
        ("audit", "rounds", [11], "round 11 never happens; expected rounds from 1 to 10"),
        ("audit", "victims", 11, "at most 10: 10 clients per round times 1 observed rounds"),
        ("audit", "success_psnr", 201, "<= 200"),
        ("threat", "labels", "yes", "expected true or false"),
    ],
)
def test_one_bad_value(section: str, key: str, value: object, message: str) -> None:
    problems = told(SMALLEST | {section: {key: value}})
    assert len(problems) == 1
    ((place, text),) = problems.items()
    assert place.startswith(f"{section}.{key}") and message in text


def test_rules_between_keys() -> None:
    both = told(SMALLEST | {"seed": 1, "seeds": [1], "clients": {"local_steps": 1, "local_epochs": 1}})
    assert set(both) == {"seed", "clients.local_steps"}
    assert told(SMALLEST | {"seeds": [1, 1]}) == {"seeds": "1 is given twice; expected each once"}
    assert set(told(SMALLEST | {"seeds": []})) == {"seeds"} and set(told(SMALLEST | {"seed": -1})) == {"seed"}


def test_what_is_missing_is_named() -> None:
    assert set(told({})) == {"schema", "task"}
    assert set(told({"schema": 1, "task": {"dataset": "digits"}})) == {"task.model"}
    assert set(told(SMALLEST | {"attacks": [{"iterations": 3}]})) == {"attacks.0.name"}


def test_plugin_parameters_are_checked_by_name_type_range_and_constructor() -> None:
    model = {"name": "mlp", "width": 1.5, "dropout": 1.0, "norm": "layer", "hidden": [1, "2"]}
    problems = told(
        {
            "schema": 1,
            "task": {"dataset": {"name": "npz"}, "model": model},
            "attacks": [{"name": "inverting", "iterations": 0}],
            "defenses": [{"name": "broken"}, {"name": "none", "strength": 1}],
        }
    )
    assert problems["task.dataset.path"] == "missing; expected a string"
    assert problems["task.model.width"] == "got 1.5; expected an integer"
    assert problems["task.model.dropout"] == "got 1.0; expected a finite number >= 0 and < 1"
    assert problems["task.model.norm"] == 'got "layer"; expected "none" or "batch"'
    assert problems["task.model.hidden"] == 'got [1, "2"]; expected a list, each an integer'
    assert "iterations must be at least 1, got 0" in problems["attacks.0"]
    assert "does not import: AttributeError" in problems["defenses.0.name"]
    assert problems["defenses.1.strength"] == "unknown parameter. Parameters: none"
    assert len(problems) == 8


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\nb", "", ".hidden", "-x", "<script>", "é", "x" * 65, "a\0", 3]
)
def test_labels_and_names_are_file_names(name: object) -> None:
    assert set(told(SMALLEST | {"name": name})) == {"name"}
    assert set(told(SMALLEST | {"defenses": [{"name": "none", "label": name}]})) == {"defenses.0.label"}


def test_nan_deep_inside_a_parameter_is_found() -> None:
    model = {"name": "mlp", "hidden": [1, float("nan")]}
    problems = told({"schema": 1, "task": {"dataset": "digits", "model": model}})
    assert problems["task.model.hidden.1"] == "got nan; expected a finite number"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('schema = 1\nname = "a\n', "line 2, column 10", "Illegal character"),
        ("schema = 1\nschema = 1\n", "line 2, column 11", "already set above; give it once: schema = 1"),
        ("[task]\n[task]\n", "line 2", "Cannot declare"),
        ("count = ten\n", "line 1", "no TOML value; text needs quotes"),
        ("a = 1 2\n", "line 1", "goes on after its value ends"),
        ("a = " + "[" * 2000, "file", "nested too deeply"),
        ("a = " + "9" * 5000, "file", "Exceeds the limit"),
        ("a = [1,", "end of file", "ends inside a text, a list or a table"),
    ],
)
def test_broken_toml_is_one_clear_message(tmp_path: Path, text: str, place: str, message: str) -> None:
    file = tmp_path / "it.toml"
    file.write_text(text)
    problems = told(file)
    assert len(problems) == 1
    ((found, sentence),) = problems.items()
    assert found.startswith(place) and message in sentence and len(sentence) < 300


def test_files_that_are_no_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (source.LARGEST + 1))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"schema = 1\n\xff\xfe")
    run = tmp_path / "run"
    run.mkdir()
    (run / "scenario.toml").touch()
    monkeypatch.setattr(source, "shipped", lambda: {"quickstart": tmp_path / "quickstart.toml"})
    assert "larger than 1 MB" in told(large)["file"]
    assert "no UTF-8 text" in told(binary)["line 2"]
    assert "this is a directory; did you mean" in told(run)["file"]
    assert 'Did you mean "quickstart"' in told("quikstart.toml")["file"]
    assert "NUL" in told("a\0b")["file"]
    assert "no name given" in told("")["file"]
    assert told("x" * 5000)["file"]
    assert told("/dev/null")["schema"].startswith("missing")


def test_a_bare_name_finds_a_shipped_scenario_but_an_existing_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "schema = 1\ntask = {{ dataset = 'digits', model = 'mlp' }}\nclaim = '{}'\n"
    (tmp_path / "shipped.toml").write_text(text.format("shipped"))
    monkeypatch.setattr(source, "shipped", lambda: {"demo": tmp_path / "shipped.toml"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # a directory of that name, perhaps a run, is not in the way
    assert load("demo").claim == "shipped"
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text(text.format("mine"))
    assert load("demo").claim == "mine"


def test_the_checkouts_scenarios_are_found() -> None:
    assert "quickstart" in source.shipped()


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "label", "count", "rounds", "cohort", "quorum", "time", "trace", "availability", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["schema", "seed", "seeds", "task", "clients", "strategy", "devices", "audit", "attacks", "defenses", "x"]
)


@given(st.dictionaries(KEYS, TREES, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_tables_whatever_raise_anything_but_a_scenario_error(data: dict[str, Any]) -> None:
    try:
        load(data)
    except ScenarioError as error:
        assert error.problems
