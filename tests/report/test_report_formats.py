"""The report as Markdown and as CSV: complete, and inert whatever the run's names are."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fedlab.errors import UnknownName
from fedlab.report import AuditReport
from fedlab.report.export import TABLES, exported
from fedlab.report.export.app import app
from fedlab.report.export.table import csv_text, written
from fedlab.report.export.words import block, said, table

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "`` ` ``` code",
    "one\ntwo\r\n\nthree",
    "[x](javascript:alert(1)) ![y](http://example.org/z.png)",
    "# heading",
    "1. first",
    "- item",
    "+ item",
    "> quoted",
    "***bold*** __under__ ~~gone~~",
    "\\| \\",
    "&lt;b&gt; &amp; <b>",
    "=cmd|' /C calc'!A0",
    "---",
    "$x$",
    "../../etc/passwd",
]

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tokens(text: str) -> list[Token]:
    return [inner for outer in READER.parse(text) for inner in (outer, *(outer.children or []))]


def shown(text: str) -> str:
    """What a reader sees of a line of Markdown."""
    return "".join(one.content for one in tokens(text) if one.type == "text")


def plain(value: str) -> str:
    return " ".join(value.split())


def poisoned(report: AuditReport, text: str) -> dict[str, Any]:
    """The report with `text` for every name that a run may choose, and every word that it may say."""
    data = copy.deepcopy(report.data)
    data["run"] |= {"name": text, "claim": text, "error": text, "status": text, "command": text}
    data["run"]["versions"][text] = text
    data["run"]["artefacts"][text] = text
    for row in data["attacks"]:
        row |= {"attack": text, "defense": text, "refusal": text, "error": text, "threat_label": text}
    for row in [*data["utility"], *data["guarantees"], *data["run"]["cells"]]:
        row |= {"defense": text}
    data["guarantees"][1]["mechanism"] = text
    data["limits"].append(text)
    data["verdict"]["headline"] = text
    data["gates"] = [{"verdict": "failed", "expression": text, "text": text}]
    return data


@given(st.sampled_from(HOSTILE) | st.text(max_size=30))
def test_escaped_text_reads_as_what_it_is_and_is_nothing_else(text: str) -> None:
    kinds = {one.type for one in tokens(said(text))}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    # The reader drops NUL, as CommonMark says.
    assert shown(said(text)).replace("\ufffd", "\0") == (plain(text).replace("\ufffd", "\0") or "–")


@given(st.lists(st.tuples(st.sampled_from(HOSTILE), st.sampled_from(HOSTILE)), min_size=1, max_size=4))
def test_a_table_keeps_its_cells_apart(rows: list[tuple[str, str]]) -> None:
    found = [one for one in tokens(table(("name", ">figure"), rows)) if one.type == "td_open"]
    assert len(found) == 2 * len(rows)


@pytest.mark.parametrize("text", ["```\n# out", "````", "a", "``` ~~~"])
def test_a_block_of_code_cannot_be_left(text: str) -> None:
    (fence,) = tokens(block(text))
    assert (fence.type, fence.content) == ("fence", f"{text}\n")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_full_of_hostile_strings_is_inert_markdown(report: AuditReport, text: str) -> None:
    clean = tokens(exported(report, "md"))
    dirty = AuditReport(report.directory, report.html, poisoned(report, text))
    found = tokens(exported(dirty, "md"))
    for kind in ("link_open", "image", "em_open", "strong_open", "code_inline", "s_open", "blockquote_open"):
        expected = [one for one in clean if one.type == kind]
        # A status other than "finished" adds one bold sentence, and gates none.
        assert len([one for one in found if one.type == kind]) == len(expected) + (kind == "strong_open")
    html = [one.content.strip() for one in found if one.type.startswith("html")]
    assert html and all(re.fullmatch(r"</?(details|summary)>.*", one, re.DOTALL) for one in html)
    assert "script" not in "".join(html)


def test_markdown_says_what_the_report_says(report: AuditReport) -> None:
    text = exported(report, "md")
    words = " ".join(shown(line) for line in text.splitlines())
    data = report.data
    assert data["verdict"]["headline"] in words
    for sentence in [*data["limits"], *data["threat_models"]["tested"], *data["threat_models"]["not_tested"]]:
        assert plain(sentence) in words
    for row in data["attacks"]:
        if row["psnr_median"] is not None:
            assert f"{row['psnr_median']:.1f} dB" in words
    assert "ε = 7.85 at δ = 0.00001" in words and "No formal guarantee:" in words
    assert data["run"]["command"] in text
    # Every row of every table has as many cells as its head.
    for lines in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1


def test_json_is_the_file_itself(report: AuditReport) -> None:
    assert exported(report, "json") == report.json.read_text(encoding="utf-8")


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_one_line_per_row_and_one_column_per_figure(report: AuditReport) -> None:
    text = exported(report, "csv")
    assert text.count("\r\n") == len(report.data["attacks"]) + 1 and "\n" not in text.replace("\r\n", "")
    for line, row in zip(read(text), report.data["attacks"], strict=True):
        assert (line["attack"], line["defense"]) == (row["attack"], row["defense"])
        expected = "" if row["psnr_median"] is None else repr(row["psnr_median"])
        assert line["psnr_median"] == expected
        assert line["psnr_ci95.low"] == ("" if row["psnr_ci95"] is None else repr(row["psnr_ci95"][0]))
        assert line["threat.labels"] == "false"
    images = read(exported(report, "csv", "images"))
    assert len(images) == sum(len(row["psnr"]) for row in report.data["attacks"])


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_can_be_written_and_read(report: AuditReport, name: str) -> None:
    lines = list(csv.reader(io.StringIO(csv_text(report.data, name), newline="")))
    assert len({len(line) for line in lines}) == 1 and len(set(lines[0])) == len(lines[0])


def test_no_such_table_names_those_there_are(report: AuditReport) -> None:
    with pytest.raises(UnknownName, match='Did you mean "utility"'):
        exported(report, "csv", "utilty")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1"])
def test_what_a_spreadsheet_would_compute_is_text(text: str) -> None:
    ((cell,),) = list(csv.reader(io.StringIO(written([{"name": text}]), newline="")))[1:]
    assert cell == f"'{text}"


def test_numbers_keep_their_sign_and_quotes_their_place() -> None:
    row = {"a": -1.5, "b": None, "c": True, "d": 'say "x", then\r\ny', "e": "plain - text", "f": -3}
    text = written([row])
    assert text == 'a,b,c,d,e,f\r\n-1.5,,true,"say ""x"", then\r\ny",plain - text,-3\r\n'


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=12)), min_size=1, max_size=4))
def test_any_text_survives_csv(rows: list[dict[str, str]]) -> None:
    found = read(written([{"first": "x", **row} for row in rows]))
    for line, row in zip(found, rows, strict=True):
        for name, value in row.items():
            assert line[name].removeprefix("'") == value.removeprefix("'")
            assert not line[name].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_a_report_that_a_program_made_strict_json_of_is_unchanged(report: AuditReport) -> None:
    before = json.dumps(report.data)
    for form in ("md", "csv", "json"):
        exported(report, form)
    assert json.dumps(report.data) == before


@pytest.mark.parametrize("text", HOSTILE)
def test_why_an_app_was_not_attacked_stands_in_markdown(text: str) -> None:
    fact = {"name": "loss", "value": text, "source": text, "sure": "recorded"}
    read = {
        "obstacles": [text],
        "doubts": ["unsure"],
        "failed": 1,
        "replies": 3,
        "failure": text,
        "facts": [fact],
    }
    found = "\n\n".join(app({"app": read | {"sureness": "1 fact: 1 recorded."}}))
    assert "**Not attacked.**" in found and "**1 of 3 replies were errors**" in found
    assert "unsure" not in found  # a doubt is about attacks, and none ran
    assert not [
        one for one in tokens(found) if one.type in ("html_inline", "html_block", "link_open", "image")
    ]
    assert sum(one.type == "tr_open" for one in tokens(found)) == 2  # the head and one fact
    assert "unsure" in "".join(app({"app": read | {"obstacles": [], "sureness": ""}}))
    assert not list(app({"app": None}))
