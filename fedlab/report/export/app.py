"""How an app was read, as Markdown: what stood in the way of attacks, and the facts that they rest on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab.report.export.words import bullets, said, table

Row = dict[str, Any]


def app(data: Row) -> Iterator[str]:
    """Nothing where no app was audited."""
    found = data.get("app")
    if not found:
        return
    yield "## How the app was read"
    if found["obstacles"]:
        yield "**Not attacked.** What stood in the way:"
        yield bullets(map(said, found["obstacles"]))
    elif found["doubts"]:
        yield "**Attacked as plain training, which it is not:**"
        yield bullets(map(said, found["doubts"]))
    if found["failed"]:
        yield (
            f"**{found['failed']} of {found['replies']} replies were errors**; the first one:"
            f" {said(found['failure'][:600])}"
        )
    if found["facts"]:
        yield f"An attack rests on facts about the app. {said(found['sureness'])}"
        rows = [(one["name"], one["value"], one["source"], one["sure"]) for one in found["facts"]]
        yield table(("fact", "value", "source", "how surely"), rows)
