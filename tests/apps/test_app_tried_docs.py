"""What the pages say of --try: its commands can be asked for, and what they name has lines to change."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from fedlab.apps.defended.wishes import Wish, wishes
from fedlab.report.tried_changes import Setting, changes
from fedlab.report.tried_entry import Try

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "audit-app.md", ROOT / "docs" / "how-to" / "stop-a-leak.md"]


def asked(page: Path) -> list[list[str]]:
    """What each command of a page gives to --try."""
    found = []
    for command in re.findall(r"^ *(fedlab audit-app .*)$", page.read_text(), re.M):
        words = pairwise(shlex.split(command))
        found.append([after for one, after in words if one == "--try"])
    return [texts for texts in found if texts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_can_be_asked_for(page: Path) -> None:
    assert asked(page)
    for texts in asked(page):
        assert len({wish.label for wish in wishes(texts)}) >= 2


def listed() -> list[Wish]:
    """The defenses that the table of the page names by acting on updates, steps or the run config."""
    rows = re.findall(
        r"^\| (?:updates|clients' steps|the run config) \| (.+?) \|", PAGES[0].read_text(), re.M
    )
    assert len(rows) == 3
    return wishes([name for row in rows for name in re.findall(r"`([^`]+)`", row)])


@pytest.mark.parametrize("wish", listed(), ids=lambda wish: wish.label)
def test_what_the_page_lists_has_lines(wish: Wish) -> None:
    config = {"batch-size": [32, 64]} if wish.name == "protocol" else {}
    found = {
        "label": wish.label,
        "name": wish.name,
        "params": wish.params,
        "status": "tried",
        "config": config,
    }
    told = changes(Try.of(found), Setting(rounds=3, cohort=4))
    if wish.name == "soteria":  # whose choice of coordinates takes the records' own slopes
        assert not told["steps"] and told["notes"]
    else:
        assert told["steps"][0]["code"]
