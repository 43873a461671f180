"""The documentation runs: every python block of the README, the tutorials and others, page by page."""

import re
from pathlib import Path

import pytest

from fedlab import plugins

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_python_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = PYTHON.findall(page.read_text())
    assert blocks, f"{page.name} shows no code"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
