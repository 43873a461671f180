"""The line of every key."""

from __future__ import annotations

import tomllib
from typing import Any

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedlab.scenario.places import line_of, lines

TEXT = '''\
# [not.a.table]
schema = 1
claim = """
[clients]
count = 3
"""

[task] # a comment = 1
model = { name = "mlp",  hidden = [1] }
"quoted key" = 'x = "'
a.b = 1

[clients]
mode = [
    "train", # ]
    "eval",
]
count = 4

[[attacks]]
name = "one"
[attacks.extra]
deep = 1
[[attacks]]
name = "two"
'''


def test_lines_of_tables_keys_strings_and_arrays_of_tables() -> None:
    tomllib.loads(TEXT)
    rows = TEXT.splitlines()
    assert {path: rows[line - 1] for path, line in lines(TEXT).items()} == {
        ("schema",): "schema = 1",
        ("claim",): 'claim = """',
        ("task",): "[task] # a comment = 1",
        ("task", "model"): 'model = { name = "mlp",  hidden = [1] }',
        ("task", "quoted key"): '"quoted key" = \'x = "\'',
        ("task", "a"): "a.b = 1",
        ("task", "a", "b"): "a.b = 1",
        ("clients",): "[clients]",
        ("clients", "mode"): "mode = [",
        ("clients", "count"): "count = 4",
        ("attacks",): "[[attacks]]",
        ("attacks", 0): "[[attacks]]",
        ("attacks", 0, "name"): 'name = "one"',
        ("attacks", 0, "extra"): "[attacks.extra]",
        ("attacks", 0, "extra", "deep"): "deep = 1",
        ("attacks", 1): "[[attacks]]",
        ("attacks", 1, "name"): 'name = "two"',
    }
    assert lines(TEXT)["clients",] == 13  # and not 4, which lies in the text of `claim`


def test_what_stands_inside_a_value_has_the_line_of_its_key() -> None:
    found = lines(TEXT)
    assert line_of(("task", "model", "hidden", 0), found) == found["task", "model"]
    assert line_of(("attacks", 1, "missing"), found) == found["attacks", 1]
    assert line_of(("nowhere",), found) is None


def test_windows_line_ends_count_once() -> None:
    assert lines("a = 1\r\nb = '''x\r\ny'''\r\nc = 2\r\n") == {("a",): 1, ("b",): 2, ("c",): 4}


KEYS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=6)
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.booleans())
def test_every_top_key_is_found_on_a_line_that_holds_it(data: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(data, multiline_strings=multiline)
    assert tomllib.loads(text) == data
    found, rows = lines(text), text.replace("\r\n", "\n").split("\n")
    for key in data:
        line = line_of((key,), found)
        assert line is not None, (key, text)
        assert tomli_w.dumps({key: 1}).split(" = ")[0] in rows[line - 1]
