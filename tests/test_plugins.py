"""Plugins by name, and values against signatures."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fedlab import plugins, signature
from fedlab.errors import PluginError, UnknownName, UsageError

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


def tiny(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 4,
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    norm: Literal["none", "batch"] = "none",
    hidden: tuple[int, ...] = (8, 8),
    weights: Path | None = None,
) -> dict[str, Any]:
    """A network that remembers how it was made.

    Args:
        width: units of the
            hidden layer.
        rate, norm (optional): two at once.
    """
    return dict(locals())


def median(deltas: Any, weights: Any, *, trim: int = 0) -> Any:
    return deltas, weights, trim


class Attack:
    def __init__(self, steps: int, odd: OnlyForTypeCheckers | None = None) -> None:
        self.steps = steps

    def run(self) -> None: ...


class Trimmed:
    def __init__(self, *, share: float = 0.1) -> None:
        self.share = share

    def aggregate(self, updates: Any, state: Any) -> None: ...


class Distribution:
    def __init__(self, name: str) -> None:
        self.called, self.reads = name, 0

    @property
    def name(self) -> str:
        self.reads += 1
        return self.called


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """install("models", name="attribute", ..., by="package"): offer attributes of this file as plugins."""
    module = types.ModuleType("plugins_of_the_tests")
    vars(module).update(globals(), number=3)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entries: list[metadata.EntryPoint] = []

    def add(kind: str, by: str = "tests", **found: str) -> None:
        for name, value in found.items():
            entry = metadata.EntryPoint(
                name, value if ":" in value else f"{module.__name__}:{value}", f"fedlab.{kind}"
            )
            vars(entry)["dist"] = Distribution(by)
            entries.append(entry)

    monkeypatch.setattr(
        metadata, "entry_points", lambda *, group: [entry for entry in entries if entry.group == group]
    )
    return add


def test_names_import_nothing(install: Install) -> None:
    install("models", b="no.such.module:x", a="tiny")
    assert plugins.names("models") == ["a", "b"]


def test_the_name_of_a_package_is_read_once(install: Install) -> None:
    install("models", tiny="tiny", by="once")
    (entry,) = metadata.entry_points(group="fedlab.models")
    for _ in range(3):
        assert plugins.provider("models", "tiny") == "once"
    assert vars(entry)["dist"].reads == 1


def test_an_unknown_name_is_told_its_neighbour_and_an_unknown_kind_the_kinds(install: Install) -> None:
    install("models", tiny="tiny")
    with pytest.raises(UnknownName, match=r'no model is called "tinny"\. Did you mean "tiny"'):
        plugins.load("models", "tinny")
    with pytest.raises(UnknownName, match="strategies"):
        plugins.names("strategys")


def test_a_broken_plugin_says_why_and_hurts_no_other(install: Install) -> None:
    install("models", by="stranger", broken="no.such.module:x", tiny="tiny")
    with pytest.raises(
        PluginError, match=r"no\.such\.module:x, from stranger.*ModuleNotFoundError"
    ) as caught:
        plugins.load("models", "broken")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert plugins.load("models", "tiny") is tiny


@pytest.mark.parametrize("code", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_module_that_exits_while_it_is_imported_is_broken(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "it_exits.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    install("models", by="stranger", it="it_exits:x")
    with pytest.raises(PluginError, match=r"from stranger.*does not import: SystemExit"):
        plugins.load("models", "it")


def test_ctrl_c_in_an_import_breaks_no_plugin(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "it_stops.py").write_text(
        "try: raise KeyboardInterrupt\nexcept KeyboardInterrupt: raise RecursionError"
    )
    monkeypatch.syspath_prepend(tmp_path)
    install("models", it="it_stops:x")
    with pytest.raises(KeyboardInterrupt):
        plugins.load("models", "it")


def test_a_module_with_two_plugins_leaves_neither_alone(install: Install) -> None:
    install("models", tiny="tiny", median="median")
    install("attacks", it="Attack")
    assert not plugins.alone("models", "tiny") and plugins.alone("attacks", "it")


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("models", "number", "is a int; expected a class or a function"),
        ("attacks", "Trimmed", "is a class without `run`"),
        ("attacks", "tiny", "is a function; expected a class"),
        ("defenses", "Attack", "is a class without `guarantee`"),
        ("aggregators", "Attack", "is a class without `aggregate`"),
    ],
)
def test_a_plugin_of_the_wrong_type_is_refused(install: Install, kind: str, value: str, told: str) -> None:
    install(kind, it=value)
    with pytest.raises(PluginError, match=told):
        plugins.load(kind, "it")


def test_fedlabs_own_name_wins_and_the_rival_is_known(install: Install) -> None:
    install("models", by="stranger", mlp="median")
    install("models", by="fedlab-audit", mlp="tiny")
    assert plugins.load("models", "mlp") is tiny
    assert plugins.provider("models", "mlp") == "fedlab-audit"
    assert plugins.shadowed("models", "mlp") == ["stranger"]


def test_a_name_that_two_strangers_claim_is_nobodys(install: Install) -> None:
    install("models", by="one", mlp="tiny")
    install("models", by="two", mlp="median")
    with pytest.raises(PluginError, match="claimed by one and two"):
        plugins.load("models", "mlp")


def test_a_distribution_found_twice_on_the_path_counts_once(install: Install) -> None:
    install("models", by="one", mlp="tiny")
    install("models", by="one", mlp="tiny")
    assert plugins.load("models", "mlp") is tiny


def test_build_takes_a_name_a_table_or_an_object_and_converts(install: Install) -> None:
    install("models", tiny="tiny")

    class Spec:
        name = "tiny"
        params = {"width": 9}  # noqa: RUF012

    assert plugins.build("models", "tiny", (1, 2, 2), 3)["width"] == 4
    assert plugins.build("models", Spec(), (1, 2, 2), 3)["width"] == 9
    made = plugins.build(
        "models", {"name": "tiny", "rate": 0, "hidden": [1, 2], "weights": "a/b"}, (1, 2, 2), 3, width=5
    )
    assert made["hidden"] == (1, 2) and made["weights"] == Path("a/b") and made["width"] == 5
    assert made["input_shape"] == (1, 2, 2) and made["classes"] == 3


def test_a_bound_plugin_is_made_as_often_as_it_is_called(install: Install) -> None:
    install("models", tiny="tiny")
    factory = plugins.bind("models", {"name": "tiny", "hidden": [3]}, width=2)
    first, second = factory((1,), 2), factory((2,), 3)
    assert first["hidden"] == second["hidden"] == (3,) and first["width"] == 2
    assert (first["classes"], second["classes"]) == (2, 3)


def test_build_refuses_parameters_and_says_which_there_are(install: Install) -> None:
    install("models", tiny="tiny")
    with pytest.raises(UsageError) as caught:
        plugins.build("models", {"name": "tiny", "widht": 3, "rate": 1.0, "norm": "group"}, (1,), 2)
    text = str(caught.value)
    assert (
        'widht: unknown parameter. Did you mean "width"? Parameters: width, rate, norm, hidden, weights'
        in text
    )
    assert "rate: got 1.0; expected a finite number >= 0 and < 1" in text
    assert 'norm: got "group"; expected "none" or "batch"' in text


def test_an_aggregator_function_is_bound_and_a_class_is_made(install: Install) -> None:
    install("aggregators", median="median", trimmed="Trimmed")
    assert plugins.build("aggregators", "median") is median
    assert plugins.build("aggregators", {"name": "median", "trim": 2})(0, 1) == (0, 1, 2)
    assert plugins.build("aggregators", {"name": "trimmed", "share": 0.2}).share == 0.2


def test_parameters_leave_out_what_fedlab_gives_and_read_the_docstring(install: Install) -> None:
    install("models", tiny="tiny")
    install("attacks", it="Attack")
    found = {item.name: item for item in plugins.parameters("models", "tiny")}
    assert list(found) == ["width", "rate", "norm", "hidden", "weights"]
    assert (found["width"].annotation, found["width"].default) == (int, 4)
    assert found["width"].doc == "units of the hidden layer."
    assert found["rate"].doc == found["norm"].doc == "two at once."
    assert found["norm"].type_name == '"none" | "batch"' and found["weights"].type_name == "Path | None"
    # An annotation that exists only for type checkers does not take the others with it.
    steps, _ = plugins.parameters("attacks", "it")
    assert (steps.name, steps.annotation, steps.default) == ("steps", int, plugins.REQUIRED)


@pytest.mark.parametrize(
    ("annotation", "value", "good"),
    [
        (int, 3, True),
        (int, 3.0, False),
        (int, "3", False),
        (int, True, False),
        (float, 3, True),
        (float, float("nan"), False),
        (float, float("inf"), False),
        (bool, 1, False),
        (bool, True, True),
        (str, 3, False),
        (tuple[int, int], [1, 2], True),
        (tuple[int, int], [1], False),
        (int | None, None, True),
        (Path, "x", True),
        (Any, [object], True),
        (Callable[..., int], "text", False),
    ],
)
def test_values_fit_as_strictly_as_json(annotation: Any, value: object, good: bool) -> None:
    known = [signature.Parameter("it", annotation, None)]
    _, faults = signature.fit(known, {"it": value})
    assert (not faults) is good, faults


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=3) | st.floats() | st.none()))
def test_fit_never_raises_and_judges_each_value_once(values: dict[str, Any]) -> None:
    known = signature.parameters(tiny, 2)
    converted, faults = signature.fit(known, values)
    assert sorted([*converted, *(name for name, _ in faults)]) == sorted(values)


def test_a_missing_parameter_is_told_with_its_type() -> None:
    assert signature.fit(signature.parameters(Attack), {})[1] == [("steps", "missing; expected an integer")]


def test_keyword_rest_takes_everything() -> None:
    def free(**rest: Any) -> None: ...

    assert signature.fit(signature.parameters(free), {"a": 1}) == ({"a": 1}, [])


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "an integer >= 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "a finite number >= 0 and < 1"),
        ({"type": "integer", "minimum": 1, "maximum": 5}, "an integer from 1 to 5"),
        ({"anyOf": [{"const": "auto"}, {"type": "boolean"}, {"type": "null"}]}, '"auto" or true or false'),
        ({"type": "array", "minItems": 1, "items": {"type": "string"}}, "a non-empty list, each a string"),
        ({"$ref": "#/$defs/T", "$defs": {"T": {"type": "object"}}}, "a table"),
    ],
)
def test_a_schema_in_words(schema: dict[str, Any], words: str) -> None:
    assert signature.describe(schema) == words
