"""The page in the hands of people: with a keyboard, on a phone, on paper, in the dark, and without script."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from audited_run import write_audited

from fedlab.report import AuditReport, build
from fedlab.report.gallery import data_uri

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STYLES = Path(data_uri.__code__.co_filename).parent
VOID = {"meta", "link", "img", "br", "input", "hr"}

# What a reader does, as a script of the test's own: the page's policy is taken out of its copy for that.
DEEDS = """
<script>
const seen = {};
const table = document.querySelector("table[data-sortable]");
const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
const buttons = [...table.tHead.querySelectorAll("button")];
seen.before = names();
buttons[3].click();
seen.worst_first = names();
seen.sorted = table.tHead.rows[0].cells[3].getAttribute("aria-sort");
buttons[3].click();
seen.best_first = names();
buttons[0].click();
seen.by_name = names();
seen.said = document.querySelector("[aria-live]").textContent;
const first = document.querySelector('.sheet [role="button"]');
first.focus();
first.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
const box = document.querySelector("dialog");
seen.open = box.open;
seen.enlarged = [...box.querySelectorAll("figcaption")].map((one) => one.textContent);
box.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
seen.next = box.querySelector("figcaption").textContent;
box.querySelector("button").click();
seen.shut = !box.open;
seen.focus = document.activeElement === first;
seen.wide = document.documentElement.scrollWidth;
seen.window = innerWidth;
document.body.replaceChildren(JSON.stringify(seen));
</script>
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return build(write_audited(tmp_path_factory.mktemp("reader") / "run"))


class Outline(html.parser.HTMLParser):
    """Elements that are open, headings in order, and what can be reached with the keyboard."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.headings: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes another element"


def test_the_page_is_well_formed_and_its_headings_skip_no_level(audited: AuditReport) -> None:
    page = Outline(audited.html.read_text())
    assert page.stack == [] and page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


def test_everything_has_a_name(audited: AuditReport) -> None:
    page = Outline(audited.html.read_text())
    names = {attrs.get("id") for _, attrs in page.tags}
    for tag, attrs in page.tags:
        if tag in ("section", "nav"):
            assert attrs["aria-labelledby"] in names
        if attrs.get("tabindex") is not None:
            assert attrs["tabindex"] == "0" and attrs.get("aria-label"), "no jumps, and no nameless stop"
        if tag == "th":
            assert attrs["scope"] in ("col", "row")
        if tag == "svg":
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"


def test_without_script_nothing_is_missing(audited: AuditReport) -> None:
    text = audited.html.read_text()
    page = Outline(text)
    # Buttons would do nothing: only the script adds them. What folds, folds without it.
    assert not [tag for tag, _ in page.tags if tag in ("button", "dialog", "template")]
    assert "hidden" not in {name for _, attrs in page.tags for name in attrs}


def schemes() -> dict[str, dict[str, str]]:
    """The colours of light, dark and paper."""
    css = (STYLES / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block)) for block in blocks]
    light, dark, print_ = found
    return {"light": light, "dark": dark, "print": light | print_}


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * one for one in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_has_contrast(scheme: str) -> None:
    colours = schemes()[scheme]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    for back in ("paper", "panel"):
        for text in ("ink", "muted", "accent", "bad", "calm"):
            assert contrast(text, back) >= 4.5, (text, back)
    for back in (name for name in colours if name.startswith("tint-")):
        assert contrast("ink", back) >= 7.0, back
        assert contrast("bad", back) >= 3.0, back  # marks and signs, which are no text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])
def test_sorting_and_enlarging_with_the_keyboard(audited: AuditReport, tmp_path: Path, width: int) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", audited.html.read_text())
    (tmp_path / "page.html").write_text(text.replace("</body>", DEEDS + "</body>"))
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None
    seen = json.loads(html.unescape(body.group(1)))
    assert seen["before"] == ["none", "dp-sgd", "no-first-bias"]
    # The linear layer's attack: 150 dB, 6 dB, and none on the third, which stands last either way.
    assert seen["worst_first"] == ["none", "dp-sgd", "no-first-bias"] and seen["sorted"] == "descending"
    assert seen["best_first"] == ["dp-sgd", "none", "no-first-bias"]
    assert seen["by_name"] == ["dp-sgd", "no-first-bias", "none"] and "Defense" in seen["said"]
    assert seen["open"] and seen["shut"] and seen["focus"]
    assert seen["enlarged"][0] == "private image 1"
    assert len(seen["enlarged"]) == 1 + 3 + 3  # what attacks made of it, and of random updates
    assert seen["next"] == "private image 2"
    assert seen["wide"] <= seen["window"], "nothing sticks out to the side"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_it_prints(audited: AuditReport, tmp_path: Path) -> None:
    subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
         f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={tmp_path / 'page.pdf'}",
         audited.html.resolve().as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    pdf = (tmp_path / "page.pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert pdf.startswith(b"%PDF") and 5 <= pages <= 40
