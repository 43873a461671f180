"""What a notebook shows: the page's figures and pictures, inert under hostile text; words for a terminal."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from audited_run import write_audited
from fake_run import write_run
from fleet_run import write_fleet_run
from test_report_page import HOSTILE, Page, hostile_run

from fedlab.errors import DataError, UnknownName
from fedlab.report import AuditReport, build


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return build(hostile_run(tmp_path_factory.mktemp("hostile-notebook") / "run"))


def pictures(page: Page, beginning: str) -> list[str]:
    return [
        attrs["src"] or ""
        for tag, attrs in page.tags
        if tag == "img" and (attrs.get("alt") or "").startswith(beginning)
    ]


def test_the_report_shows_headline_pictures_table_and_limits(report: AuditReport) -> None:
    text = report._repr_html_()
    page = Page(text)
    words = " ".join("".join(page.text).replace("\xa0", " ").split())
    assert report.data["verdict"]["headline"] in words
    for finding in report.data["verdict"]["findings"]:
        assert finding["defense"] in words
    assert report.data["limits"][0] in words
    # The pictures are those of the page, of the defense that lost most.
    shown = pictures(Page(report.html.read_text()), "private image")
    assert pictures(page, "private image") == shown[4:12]
    assert "report.html" in words


def test_markup_is_whole_and_keeps_to_itself(report: AuditReport) -> None:
    for text in (report._repr_html_(), *(one._repr_html_() for one in displays(report))):
        assert "\n\n" not in text  # an empty line ends a block of markup in Markdown
        style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        assert len(style) == 1
        for selector in re.findall(r"(?:^|\})\s*([^{}@]+)\{", style[0]):
            for one in selector.split(","):
                assert ".fedlab-display" in one, f"{one.strip()} would restyle the notebook"
        assert "var(--" in style[0] and "--ink: #" in style[0] and "/* light */" not in style[0]
        rest = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        closed = re.sub(r"<(img|link|br)\b([^>]*?)/?>", r"<\1\2/>", rest)
        ElementTree.fromstring(closed)  # every element is closed, in order


def displays(report: AuditReport) -> list[object]:
    return [
        report.gallery(),
        report.frontier(),
        report.curve(),
        report.curve("loss"),
        report.curve("epsilon"),
    ]


def test_figures_are_inline_svg_in_the_colours_of_the_display(report: AuditReport) -> None:
    for display in (report.frontier(), report.curve()):
        text = display._repr_html_()
        figures = re.findall(r'<svg class="figure".*?</svg>', text, re.DOTALL)
        assert figures
        for figure in figures:
            assert not re.search(r"#[0-9a-f]{6}", figure) and "var(--" in figure


def test_a_terminal_gets_words(report: AuditReport) -> None:
    # fake_run: accuracy after four rounds, as its ACCURACY says.
    assert "none: 94.4 at 4" in repr(report.curve())
    assert "dp-sgd: 71.7 at 4" in repr(report.curve())
    assert "accuracy 94.4 %" in repr(report.frontier())
    told = repr(report.gallery(defense="none", attack="linear-layer"))
    assert re.fullmatch(
        r"none: linear-layer made 8 images, median PSNR 1\d\d\.\d dB, best 1\d\d\.\d dB", told
    )
    assert "<" not in repr(report)


def test_the_gallery_chooses(report: AuditReport) -> None:
    page = Page(report.gallery(defense="no-first-bias", attack="dropout-inversion")._repr_html_())
    assert len(pictures(page, "private image")) == 8
    assert len(pictures(page, "dropout-inversion, reconstruction")) == 8
    assert not pictures(page, "inverting-gradients")
    with pytest.raises(UnknownName, match=r'no defense is called "dp-sdg".*"dp-sgd"'):
        report.gallery(defense="dp-sdg")
    with pytest.raises(UnknownName, match="no attack is called"):
        report.gallery(attack="linear")
    with pytest.raises(UnknownName, match=r"no curve is called.*accuracy"):
        report.curve("acuracy")
    with pytest.raises(UnknownName, match=r"no axis is called.*seconds"):
        report.curve(against="second")


def test_epsilon_by_round(tmp_path: Path) -> None:
    # audited_run: 5.2 after 200 rounds, 7.8412 after 400, in dp-sgd alone.
    display = build(write_audited(tmp_path / "run")).curve("epsilon")
    assert repr(display) == "ε spent against round. dp-sgd: 7.84 at 400"
    assert "ε spent" in display._repr_html_()


def test_curves_against_what_was_spent(tmp_path: Path) -> None:
    # fleet_run: 300 s and 330 uploads for sync, 50 s and 100 for fedbuff, each to a loss of 0.7.
    report = build(write_fleet_run(tmp_path / "run", seeds=(7,)))
    told = repr(report.curve("loss", against="seconds"))
    assert re.fullmatch(
        r"test loss against time \(minutes\)\. sync: 0\.7 at 5; .*fedbuff.*: 0\.7 at 0\.833", told
    )
    assert "0.7 at 330" in repr(report.curve("loss", against="uploads"))
    assert "no loss in training" in repr(report.curve("train_loss", against="bytes"))


def test_what_was_not_measured_is_said(tmp_path: Path, report: AuditReport) -> None:
    bare = build(write_run(tmp_path / "bare", samples=False))
    assert "include_samples = true" in repr(bare.gallery())
    assert "include_samples = true" in bare.gallery()._repr_html_()
    assert "<img" not in bare._repr_html_()
    assert repr(report.curve("epsilon")) == "no ε spent against round was measured"
    assert '<svg class="figure"' not in report.curve("epsilon")._repr_html_()


def test_a_report_outlives_its_run(run_dir: Path) -> None:
    kept = build(run_dir)
    shutil.rmtree(run_dir)
    text = kept._repr_html_()
    assert "no manifest.json" in text and "<img" not in text
    with pytest.raises(DataError, match="no manifest"):
        kept.gallery()


def test_a_damaged_report_is_named(report: AuditReport) -> None:
    broken = AuditReport(report.directory, report.html, {"run": {"cells": []}, "verdict": {"headline": "x"}})
    for show in (broken._repr_html_, broken.frontier):
        with pytest.raises(DataError, match=r"report\.json"):
            show()


def test_hostile_text_is_inert(hostile: AuditReport) -> None:
    texts = [hostile._repr_html_(), *(one._repr_html_() for one in displays(hostile))]
    for text in texts:
        page = Page(text)
        assert {tag for tag, _ in page.tags} <= INERT
        for _, attrs in page.tags:
            assert not [name for name in attrs if name.startswith("on")]
            for name in ("src", "href"):
                assert (attrs.get(name) or "data:").startswith(("data:image/png;base64,", "#", "data:"))
        assert "49" not in {piece.strip() for piece in page.text}  # {{ 7*7 }} was not computed
    assert HOSTILE[:30] in "".join(Page(texts[0]).text).replace("\xa0", " ")  # shown, not lost


INERT = {
    "div", "style", "p", "strong", "figure", "figcaption", "span", "img", "small", "b", "code", "details",
    "summary", "ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "svg", "path",
    "circle", "g", "defs", "use", "text", "clippath", "rect",
}  # fmt: skip
