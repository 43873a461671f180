"""`fedlab explain`: exit codes, errors and the words of the report, each from where it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from fedlab import errors, glossary
from fedlab.cli.explain import explanations, look_up
from fedlab.errors import FedlabError, UsageError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FedlabError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_says_what_happened_what_to_do_and_an_example(kind: type[FedlabError]) -> None:
    (found,) = look_up(kind.__name__)
    assert found.meaning and found.advice and found.example
    assert found.meaning == inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def test_the_tree_of_errors_has_every_class_and_its_exit_code() -> None:
    tree = errors.__doc__ or ""
    rows = [line.strip("│├└─ ").split() for line in tree.splitlines()]
    drawn = {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
    assert drawn == {kind.__name__: kind.exit_code for kind in CLASSES}


@pytest.mark.parametrize("code", range(8))
def test_every_exit_code_is_explained_by_its_most_general_error(fedlab: Any, code: int) -> None:
    answer = fedlab("explain", str(code))
    assert answer.code == 0 and answer.out.startswith(str(code))
    if code:
        (named,) = [kind for kind in CLASSES if f"({kind.__name__})" in answer.out]
        assert named.exit_code == code
        assert getattr(named.__mro__[1], "exit_code", 0) != code
        assert "what to do: " in answer.out and "for example: " in answer.out


def test_every_level_word_score_and_threat_has_an_entry() -> None:
    words = [
        *glossary.VERDICTS,
        *glossary.WORDS,
        *glossary.NUMBERS,
        *glossary.METRICS,
        *glossary.THREATS,
        *glossary.LEVELS,
    ]
    for word in words:
        assert look_up(word)
    for level in glossary.LEVELS.values():
        assert any(level.advice == one.advice for one in look_up(level.symbol))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("near identical", "near-identical"),
        ("COPY", "near-identical"),
        ("exit code 4", "4"),
        ("gatefailed", "4"),
        ("gate failed", "4"),
        ("epsilon", "ε, δ"),
        ("canary", "Lower bound of ε, canary"),
        ("label-accuracy", "label_accuracy"),
        ("unaware", "Unaware"),
        ("dpia", "DPIA"),
    ],
)
def test_case_dashes_and_other_names_do_not_matter(asked: str, name: str) -> None:
    assert look_up(asked)[0].name == name


def test_a_word_of_two_meanings_is_told_with_both(fedlab: Any) -> None:
    kinds = [one.kind for one in look_up("not applicable")]
    assert kinds == ["level", "certificate"]
    out = fedlab("explain", "not", "applicable").out
    assert "declined every victim" in out and "equations cannot be set up" in out


def test_what_is_unknown_is_exit_code_2_with_a_hint(fedlab: Any) -> None:
    answer = fedlab("explain", "certifcate")
    assert answer.code == 2 and 'Did you mean "Certificate"?' in answer.err and answer.out == ""
    assert "Did you mean" not in fedlab("explain", "nonsense").err
    with pytest.raises(UsageError, match=r"name of a defense.*fedlab info dp-sgd"):
        look_up("dp-sgd")
    with pytest.raises(UsageError, match="nothing is known"):
        look_up("8")


def test_without_a_word_all_are_listed(fedlab: Any) -> None:
    out = fedlab("explain").out
    assert all(f"{code} " in out for code in range(8))
    assert [one["name"] for one in fedlab("explain", "--json").json] == [one.name for one in explanations()]


def test_explaining_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fedlab.cli import main\n"
        "try: main(['explain', 'unaware'])\nexcept SystemExit as exit: assert not exit.code\n"
        "print([one for one in ('torch', 'pydantic', 'numpy') if one in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "does not know of the defense" in done.stdout
