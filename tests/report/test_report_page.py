"""The page: self-contained, inert under hostile text, and the same in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from audited_run import checks, write_audited
from fake_run import write_run
from safetensors.numpy import load_file

from fedlab.errors import DataError
from fedlab.report import AuditReport, build
from fedlab.report.gallery import data_uri

HOSTILE = (
    "=cmd|'/c calc'!A1 <script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}$\\frac{1}{0}$"
    " ../../etc/passwd"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def script(self) -> str:
        """What the one script of the page says, as a parser reads it."""
        return next(piece for piece in self.text if piece.startswith('"use strict"'))

    def attributes(self, *names: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]


def hostile_run(directory: Path) -> Path:
    write_audited(
        directory,
        name=HOSTILE,
        claim=HOSTILE,
        command=HOSTILE,
        objects={"task": HOSTILE, "aggregator": HOSTILE, HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        status=HOSTILE,
        error=HOSTILE,
        model={"name": HOSTILE, "params": {HOSTILE: HOSTILE}},
        dataset={
            "name": HOSTILE,
            "source": HOSTILE,
            "licence": HOSTILE,
            "shape": [HOSTILE],
            "sha256": HOSTILE,
        },
    )
    manifest = json.loads((directory / "manifest.json").read_text())
    for cell in manifest["cells"]:
        cell["defense"] = HOSTILE + cell["defense"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    for path in (directory / "attacks").rglob("*.json"):
        data = json.loads(path.read_text()) | {
            "paper": HOSTILE,
            "needs": [HOSTILE],
            "attack": HOSTILE + path.stem,
        }
        data["victims"][0]["refusal"] = HOSTILE
        if path.stem == "label-recovery":
            data |= {"victims": [], "control": [], "error": HOSTILE, "failed": True}
        path.write_text(json.dumps(data))
    for path in (directory / "privacy").glob("*.json"):
        if ".checks" not in path.name:
            said = {"reason": HOSTILE, "unit": HOSTILE, "mechanism": HOSTILE, "cautions": [HOSTILE]}
            path.write_text(json.dumps(json.loads(path.read_text()) | said))
        else:
            named = {"name": HOSTILE, "verdict": HOSTILE, "words": HOSTILE, "statistic": 1.0, "p": 0.5}
            path.write_text(json.dumps(checks(checks=[named], alarm=HOSTILE, why_no_one_run=HOSTILE)))
    event = {"event": "caution", "cell": HOSTILE, "reason": HOSTILE}
    (directory / "events.jsonl").write_text(json.dumps(event))
    return directory


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return build(hostile_run(tmp_path_factory.mktemp("hostile") / "run"))


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    script = (Path(data_uri.__code__.co_filename).parent / "page.js").read_text()
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]
    assert text.count(f"<script>{script}</script>") == 1  # and nothing else is one
    assert not {tag for tag, _ in page.tags} & {
        "iframe", "object", "embed", "form", "base", "audio", "video", "frame", "foreignobject",
    }  # fmt: skip
    for value in page.attributes("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
        assert value.startswith(("data:", "#")), value
    for value in re.findall(r"url\(([^)]*)\)", text):
        assert value.startswith(("#", "data:")), value
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "@import" not in text and "@font-face" not in text
    return page


def test_nothing_leaves_the_page(report: AuditReport) -> None:
    text = report.html.read_text()
    page = assert_self_contained(text)
    assert "http://" not in text and "https://" not in text
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}';" in policy and "unsafe-eval" not in policy


def test_identifiers_are_unique_and_links_lead_somewhere(report: AuditReport) -> None:
    page = Page(report.html.read_text())
    names = page.attributes("id")
    assert len(names) == len(set(names))
    assert {link[1:] for link in page.attributes("href") if link.startswith("#")} <= set(names)


def test_every_image_and_figure_has_words(report: AuditReport) -> None:
    page = Page(report.html.read_text())
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    figures = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("class") == "figure"]
    assert len(figures) == 3 and all(attrs["aria-label"] for attrs in figures)


def test_hostile_text_is_inert(hostile: AuditReport) -> None:
    text = hostile.html.read_text()
    page = assert_self_contained(text)
    assert not [1 for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"]
    assert HOSTILE in "".join(page.text).replace("\xa0", " ")  # shown as it is, not lost
    assert "49" not in {piece.strip() for piece in page.text}


def test_figures_follow_light_and_dark(report: AuditReport) -> None:
    figures = re.findall(r'<svg class="figure".*?</svg>', report.html.read_text(), re.DOTALL)
    assert len(figures) == 3
    for figure in figures:
        assert "var(--ink)" in figure and "font-family" not in figure
        assert not re.search(r"#[0-9a-f]{6}", figure)


def test_no_template_trusts_anything() -> None:
    templates = sorted(Path(data_uri.__code__.co_filename).parent.glob("*.j2"))
    assert len(templates) > 15
    for one in templates:
        assert not re.search(r"\|\s*safe\b|autoescape", re.sub(r"{#.*?#}", "", one.read_text())), one.name


def test_pictures_are_the_stored_pixels(report: AuditReport) -> None:
    stored = load_file(report.directory / "truth" / "none-train-s7.safetensors")
    images = [
        attrs["src"]
        for tag, attrs in Page(report.html.read_text()).tags
        if tag == "img" and (attrs.get("alt") or "").startswith("private image")
    ]
    # The first four stand on the first screen, all eight in the gallery.
    assert images[4:12] == [data_uri(stored[f"1-{client}"][0]) for client in range(8)]
    assert images[:4] == images[4:8]


@pytest.mark.parametrize("shape", [(1, 5, 3), (3, 2, 4)])
def test_png_round_trip(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    content = base64.b64decode(data_uri(image).removeprefix("data:image/png;base64,"))
    decoded = np.rint(matplotlib.image.imread(io.BytesIO(content), format="png") * 255)
    expected = np.rint(image.astype(np.float64) * 255).transpose(1, 2, 0)
    np.testing.assert_array_equal(decoded.reshape(expected.shape), expected)


def test_without_samples_no_pixel_is_shown(tmp_path: Path) -> None:
    page = build(write_run(tmp_path / "run", samples=False)).html.read_text()
    assert "include_samples = true" in page and "data:image/png" not in page


def test_a_batch_is_shown_matched(tmp_path: Path) -> None:
    report = build(write_run(tmp_path / "run", batch=3, defenses=("none",)))
    assert next(r for r in report.data["attacks"] if r["attack"] == "linear-layer")["images"] == 24
    assert report.html.read_text().count('alt="linear-layer, reconstruction') == 8


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/b", "..", ".", "", "x" * 300, "a\x00b", "CON\n"])
def test_cell_names_cannot_lead_outside(run_dir: Path, name: str) -> None:
    path = run_dir / "manifest.json"
    data: dict[str, Any] = json.loads(path.read_text())
    data["cells"][0]["name"] = name
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="is no name"):
        build(run_dir)


def test_a_link_out_of_the_directory_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    shutil.rmtree(run_dir / "attacks" / "none-train-s7")
    os.symlink(tmp_path / "secret", run_dir / "attacks" / "none-train-s7")
    with pytest.raises(DataError, match="leads outside"):
        build(run_dir)


def browse(page: Path, folder: Path) -> tuple[list[str], set[str], str]:
    """Console messages, requested URLs and the document that headless Chromium makes of `page`, offline."""
    folder.mkdir()
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}",
            "--dump-dom", page.resolve().as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    urls = re.findall(r'"url":"((?:https?|ftp|wss?):[^"]*)"', (folder / "net.json").read_text())
    # The browser's own errands; that the page holds no URL at all is another test's business.
    own = re.compile(r"https?://([\w-]+\.)*(google|googleapis|gvt1|gstatic)\.com/")
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return console, {url for url in urls if not own.match(url)}, done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_without_complaint(
    report: AuditReport, hostile: AuditReport, tmp_path: Path
) -> None:
    for name, one in (("plain", report), ("hostile", hostile)):
        console, asked, document = browse(one.html, tmp_path / name)
        assert (console, asked) == ([], set())
        assert "How far this evidence reaches" in document
    # The same eyes see a page that does complain and does ask.
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.invalid/x.png'><script>console.log('seen')</script>")
    console, asked, _ = browse(bad, tmp_path / "bad")
    assert len(console) == 1 and asked == {"http://example.invalid/x.png"}
