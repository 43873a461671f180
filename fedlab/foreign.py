"""What others wrote: its text is cleaned before it is shown, and a newer schema is refused by name."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlab.errors import NewerRun

SCHEMA = 1
"""Of the manifests that this version writes and reads."""
LONGEST_TEXT = 4000
_JOINER = "\u200d"  # holds emoji together; the other format characters can reorder or hide text


def clean(value: Any) -> Any:
    """Strings without control characters and of bounded length, finite numbers, all the way down."""
    if isinstance(value, str):
        kept = "".join(
            "\ufffd"
            if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn") and c not in f"\n\t{_JOINER}"
            else c
            for c in value[:LONGEST_TEXT]
        )
        return kept + ("…" if len(value) > LONGEST_TEXT else "")
    if isinstance(value, dict):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def refuse_newer(manifest: Mapping[str, Any], directory: Path) -> None:
    """Pass a manifest of this version's schema, or one that names none.

    Raises:
        NewerRun: a later fedlab wrote it.
    """
    schema = manifest.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerRun(
            f"{directory}: a newer fedlab wrote this run: schema {schema}, and this one reads {SCHEMA};"
            " update fedlab, or leave the run out"
        )
