"""The documentation runs: every python block of the README, the tutorials and others, page by page."""

import contextlib
import functools
import importlib.util
import json
import math
import re
import shlex
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
import typer

from fedlab import plugins
from fedlab.scenario import load

ROOT = Path(__file__).resolve().parent.parent
RUN = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "fleets",
            "flower",
            "membership",
            "populations",
            "privacy",
            "privacy-async",
            "robustness",
        )
    ),
]
PAGES = [*RUN, *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\[[^\]]*\]\(([^)#\s]*)#([^)\s]+)\)")
FENCE = re.compile(r"^ *```(.*?)\n(.*?)^ *```$", re.M | re.S)
DOCS = sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def hook(name: str) -> ModuleType:
    """A file of docs/hooks, which mkdocs loads in the same way."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def generated() -> set[Path]:
    """Pages that exist in the site alone."""
    found = {path.with_suffix(".md") for path in NOTEBOOKS}
    reference = ROOT / "docs" / "reference"
    return found | {reference / f"{name}.md" for name in ("index", *hook("reference").PACKAGES)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_python_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = PYTHON.findall(page.read_text())
    assert blocks, f"{page.name} shows no code"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *DOCS], ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    made = generated()
    for target in LINK.findall(page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            there = (page.parent / target).resolve()
            assert there.exists() or there in made, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *DOCS], ids=str)
def test_links_into_pages_lead_to_a_heading(page: Path) -> None:
    for target, place in ANCHOR.findall(page.read_text()):
        there = (page.parent / target).resolve() if target else page
        if "://" not in target and there.exists():  # what is generated is checked by `make docs`
            assert place in anchors(there.read_text()), f"{page.name} links to {target}#{place}"


def anchors(text: str) -> set[str]:
    """Ids of a page's headings, as mkdocs makes them."""
    toc = pytest.importorskip("markdown.extensions.toc")
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", FENCE.sub("", text), re.M):
        words = re.sub(r"<[^>]*>|[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found.add(toc.unique(toc.slugify(words, "-"), found))
    return found


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *DOCS], ids=str)
def test_blocks_are_of_their_language(page: Path) -> None:
    readers: dict[str, Callable[[str], object]] = {
        "python": lambda block: compile(block, page.name, "exec"),
        "toml": tomllib.loads,
        "json": json.loads,
    }
    for language, block in FENCE.findall(page.read_text()):
        readers.get(language, str)(textwrap.dedent(block))


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert len(listed) == len(set(listed))
    there = {str(path.relative_to(ROOT / "docs")) for path in {*DOCS, *generated()}}
    assert there == set(listed)


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=str)
def test_commands_that_pages_show_exist(page: Path) -> None:
    import fedlab.cli.app

    group = typer.main.get_command(fedlab.cli.app.app)
    for language, block in FENCE.findall(page.read_text()):
        for line in block.splitlines() if language in ("", "sh", "text") else []:
            if line.strip().startswith("fedlab "):
                words = shlex.split(line, comments=True)[1:]
                assert not (wrong := unknown(group, words)), f"{page.name}: {line.strip()}: no {wrong}"


def unknown(group: click.Command, words: list[str]) -> str:
    """The first command or option that does not exist."""
    command = group
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[0]
        command = command.commands[words.pop(0)]
    known = {"--help", *(name for one in command.params for name in (*one.opts, *one.secondary_opts))}
    options = [word.partition("=")[0].rstrip("]") for word in words if word.startswith("--")]
    return next((option for option in options if option not in known), "")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_still_says_what_it_says(path: Path, tmp_path: Path) -> None:
    """Its code runs without Jupyter, and what a terminal would show of it is what is in the file."""
    notebooks = hook("notebooks")
    cells = json.loads(path.read_text())["cells"]
    for cell, outputs in zip(cells, notebooks.run(cells, tmp_path), strict=True):
        assert [said(one) for one in outputs] == [said(one) for one in cell.get("outputs", [])], cell["id"]
        shown = [kind for one in outputs for kind in one.get("data", ())]
        kept = [kind for one in cell.get("outputs", []) for kind in one.get("data", ())]
        assert sorted(shown) == sorted(kept)


def said(output: dict[str, object]) -> str:
    """Its text, decibels to the nearest ten: closed forms reach rounding, which machines do differently."""
    data = output.get("data")
    lines = data["text/plain"] if isinstance(data, dict) else output["text"]
    assert isinstance(lines, list)
    return re.sub(r"(\d+)\.\d dB", lambda found: f"{round(int(found[1]), -1)} dB", "".join(lines))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_that_others_can_read(path: Path) -> None:
    text = path.read_text()
    notebook = json.loads(text)
    with contextlib.suppress(ImportError):
        import nbformat

        nbformat.validate(nbformat.from_dict(notebook))
    assert notebook["nbformat"] == 4 and len(text) < 200_000
    assert all(cell["outputs"] or "report = " in "".join(cell["source"]) for cell in code(notebook))
    assert not re.search(r"/(tmp|home|root|work)/", text), "a path of the machine that it was run on"
    page = hook("notebooks").page(path)
    for cell in code(notebook):
        assert "".join(cell["source"]) in page


def code(notebook: dict[str, list[dict[str, list[str]]]]) -> list[dict[str, list[str]]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_gallery_shows_what_its_commands_make() -> None:
    """Each command as it is now, and of each a report that loads nothing from elsewhere."""
    gallery = hook("gallery")
    page = gallery.PAGE.read_text()
    assert len(page) < 200_000 and "<script" not in page
    assert sorted(path.stem for path in gallery.REPORTS.iterdir()) == sorted(
        entry.name for entry in gallery.ENTRIES
    )
    for entry in gallery.ENTRIES:
        shown = gallery.section(entry, "", "").partition("> ")[0]
        assert shown in page, f"docs/gallery.md is older than its entry {entry.name}: make it again"
        if entry.command[0] == "run":
            load(entry.command[1], [one for one in entry.command[2:] if one != "--set"])
        report = (gallery.REPORTS / f"{entry.name}.html").read_text()
        assert len(report) < gallery.LARGEST
        assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=[\"'](?!data:)", report)
        assert not re.search(r"@import|url\((?!#|data:)", report)
        assert not re.search(r"/(tmp|home|root|work)/", report), "a path of the machine that made it"


def test_the_table_of_epsilon_is_right() -> None:
    page = (ROOT / "docs" / "explanation" / "epsilon.md").read_text()
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) % \| ([\d.]+) % \|$", page, re.M)
    assert len(rows) == 6
    for epsilon, bet, found in ((float(one), float(two), float(three)) for one, two, three in rows):
        # Randomised response is the best bet; (TPR, FPR) obey TPR <= e^ε FPR and 1 - FPR <= e^ε (1 - TPR).
        right = 100 / (1 + math.exp(-epsilon))
        rate = 100 * min(0.01 * math.exp(epsilon), 1 - 0.99 * math.exp(-epsilon))
        for shown, value in ((bet, right), (found, rate)):
            assert value <= shown < value + 0.01  # rounded up: a loss is never printed as smaller


def test_the_reference_has_every_public_name() -> None:
    reference = hook("reference")
    for package in reference.PACKAGES:
        page = reference.page(package)
        assert " at 0x" not in page
        for name in reference.exported(package):
            assert f"\n## {name}\n" in page


def test_docstrings_become_markdown() -> None:
    reference = hook("reference")
    text = "Does *it*.\n\nArgs:\n    a: of <b>;\n        more.\n    `c`: d\n\nSee [x]."
    assert reference.prose(text) == (
        "Does \\*it\\*.\n\n**Args**\n\n* **a**: of &lt;b>;\n  more.\n* `c`: d\n\nSee \\[x\\]."
    )


@pytest.mark.parametrize(
    "kind", [kind for kind in plugins.KINDS if kind not in ("attacks", "defenses", "datasets", "models")]
)
def test_the_table_of_algorithms_names_every_one(kind: str) -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text()
    missing = [
        name
        for name in plugins.names(kind)
        if plugins.provider(kind, name) == plugins.HOME and f"\n| `{name}` |" not in text
    ]
    assert not missing
