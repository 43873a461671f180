"""How training went: updates that failed or were turned away, rounds that brought nothing, virtual time.

What never reached the model was not attacked as part of it either, so these counts belong to the limits
of the evidence. Runs of older versions know failures only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fedlab.report.reading import plural

KINDS = {
    "records": "with records missing or too many",
    "keys": "with unknown names",
    "shape": "of wrong shape",
    "dtype": "of wrong number type",
    "not-finite": "with NaN or infinity",
    "norm": "absurdly long",
    "num-examples": "with an invalid number of examples",
    "quorum": "valid, in rounds without a quorum",
    "duplicate": "sent twice",
    "late": "too late",
    "foreign": "from nobody who was asked",
}


def course(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the trained models of one row: what was lost, and the virtual seconds that one took on average."""
    rejected: Counter[str] = Counter()
    for one in measured:
        rejected.update({str(kind): int(count) for kind, count in (one.get("rejected") or {}).items()})
    seconds = [float(one["virtual_seconds"]) for one in measured if one.get("virtual_seconds") is not None]
    return {
        "failures": sum(int(one.get("failures") or 0) for one in measured),
        "rejected": dict(sorted(rejected.items())),
        "skipped_rounds": sum(int(one.get("skipped_rounds") or 0) for one in measured),
        "virtual_seconds": sum(seconds) / len(seconds) if seconds else None,
    }


def told(utility: Sequence[dict[str, Any]], who: Callable[[dict[str, Any]], str]) -> list[str]:
    """Sentences about what was lost; none where nothing was."""
    found = []
    failed = {who(row): row["failures"] for row in utility if row["failures"]}
    if failed:
        found.append(
            f"{plural(sum(failed.values()), 'client update')} failed and never reached the server"
            f" ({_counts(failed)}): the models were trained, and attacked, without them."
        )
    rejected = {who(row): row["rejected"] for row in utility if row["rejected"]}
    if rejected:
        total = sum(sum(kinds.values()) for kinds in rejected.values())
        whose = "; ".join(
            f"{name}: " + ", ".join(f"{count} {KINDS.get(kind, kind)}" for kind, count in kinds.items())
            for name, kinds in rejected.items()
        )
        found.append(
            f"{plural(total, 'client update')} reached the server but {'was' if total == 1 else 'were'}"
            f" turned away ({whose}): the models were trained, and attacked, without them."
        )
    skipped = {who(row): row["skipped_rounds"] for row in utility if row["skipped_rounds"]}
    if skipped:
        found.append(
            f"{plural(sum(skipped.values()), 'round')} brought too few usable updates ({_counts(skipped)})"
            " and left the model as it was: there was less training than the set-up says."
        )
    return found


def duration(seconds: float | None) -> str:
    """Virtual seconds as people say them: 42 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, unit, next_size, next_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{whole} s"


def _counts(by_name: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in by_name.items())
