"""What people say of a run: tags and a note, in a small file beside what the run wrote.

It is no part of the run: no manifest, no hash and no report knows of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedlab import files
from fedlab.errors import DataError, UsageError
from fedlab.foreign import LONGEST_TEXT, clean

NAME = "notes.json"
LARGEST = 2**20
"""Bytes that such a file has at most."""
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Marks:
    """Tags, in alphabetical order, and a note."""

    tags: tuple[str, ...] = ()
    note: str = ""

    def tagged(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Marks:
        """With some tags more, and some less.

        Raises:
            UsageError: a new tag is no word, or one to remove is not there.
        """
        added, removed = set(add), set(remove)
        for tag in sorted(added):
            if not _TAG.fullmatch(tag):
                raise UsageError(
                    f"tag {clean(tag)!r}; expected up to 64 letters, digits, dots, dashes and underscores,"
                    " the first a letter or a digit"
                )
        if missing := sorted(removed - set(self.tags)):
            there = ", ".join(self.tags) or "none"
            raise UsageError(f"the run has no tag {clean(missing[0])!r}; its tags: {there}")
        return Marks(tuple(sorted((set(self.tags) | added) - removed)), self.note)

    def noted(self, text: str) -> Marks:
        """With another note; "" is none.

        Raises:
            UsageError: the text is too long.
        """
        text = clean(text).strip()
        if len(text) > LONGEST_TEXT:
            raise UsageError(f"a note of {len(text)} letters; expected at most {LONGEST_TEXT}")
        return Marks(self.tags, text)


def read_marks(directory: Path) -> Marks:
    """What is said of a run; nothing where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / NAME
    if not path.is_file():
        return Marks()
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST:
            raise ValueError(f"a link, or more than {LARGEST} bytes")
        data = clean(json.loads(path.read_bytes()))
        tags, note = data["tags"], data["note"]
        if not isinstance(note, str) or not all(_TAG.fullmatch(tag) for tag in tags):
            raise ValueError("not tags and a note")
        return Marks(tuple(sorted(set(tags))), note)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error}); remove it, and tag the run again: it holds tags and a note only"
        ) from error


def write_marks(directory: Path, marks: Marks) -> None:
    """Keep what is said of a run; nothing said leaves no file.

    Raises:
        BackendError: the disk refuses.
    """
    path = directory / NAME
    if marks == Marks():
        with files.refusal(path):
            path.unlink(missing_ok=True)
        return
    files.write_json(path, {"schema": 1, "tags": list(marks.tags), "note": marks.note})
