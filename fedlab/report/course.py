"""How training went: updates that failed, were turned away or came too late, rounds that brought nothing.

What never reached the model was not attacked as part of it either, so these counts belong to the limits
of the evidence. Runs of older versions know failures only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedlab.report.reading import listed, plural

NAMED = 10
"""Clients that a sentence names at most."""
KINDS = {
    "records": "with records missing or too many",
    "keys": "with unknown names",
    "shape": "of wrong shape",
    "dtype": "of wrong number type",
    "not-finite": "with NaN or infinity",
    "norm": "absurdly long",
    "num-examples": "with an invalid number of examples",
    "steps": "with an invalid number of steps",
    "quorum": "valid, in rounds without a quorum",
    "duplicate": "sent twice",
    "late": "too late",
    "foreign": "from nobody who was asked",
}
WEIGHTS = {
    "constant": ": an update counts in full, however stale it is",
    "polynomial": ": an update of staleness s counts 1/(1 + s)^exponent as much as a fresh one",
    "threshold": ": an update counts in full up to the cutoff, and less beyond",
    "hinge": ": an update counts in full up to staleness b, and 1/(a·(s − b) + 1) as much beyond",
}
"""Staleness weights in words."""
UNITS = {
    "seconds": ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "uploads": ((1e6, "million uploads"), (1e3, "thousand uploads"), (1.0, "uploads")),
}
"""What axes are labelled in."""
COUNTS = ("skipped_rounds", "asked", "late", "stopped")


def course(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the trained models of one row: what was lost, and the virtual seconds that one took on average."""
    rejected: Counter[str] = Counter()
    for one in measured:
        rejected.update({str(kind): int(count) for kind, count in (one.get("rejected") or {}).items()})
    seconds = [float(one["virtual_seconds"]) for one in measured if one.get("virtual_seconds") is not None]
    return {
        "failures": sum(int(one.get("failures") or 0) for one in measured),
        "rejected": dict(sorted(rejected.items())),
        **{key: sum(int(one.get(key) or 0) for one in measured) for key in COUNTS},
        "never_contributed": sorted(
            {int(client) for one in measured for client in one.get("never_contributed") or []}
        ),
        "rounds": sum(int(one["rounds"][-1]["round"]) for one in measured if one.get("rounds")),
        "virtual_seconds": sum(seconds) / len(seconds) if seconds else None,
        "wire": _wire(measured),
        "ended": _ended(measured),
    }


def _ended(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Why training ended before its last round, where that was no success; each reason once."""
    reasons = (one.get("ended") for one in measured if not one.get("reached"))
    return list(dict.fromkeys(str(reason) for reason in reasons if reason))


def _wire(measured: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Bytes that a client receives and sends in a round, on average; None where that was not measured."""
    known = [one["wire"] for one in measured if one.get("wire")]
    if not known:
        return None
    return {key: sum(float(wire[key]) for wire in known) / len(known) for key in ("received", "sent")}


def notes(utility: Sequence[dict[str, Any]], who: Callable[[dict[str, Any]], str]) -> list[str]:
    """Sentences beneath the table of accuracies: what it is measured on, and what travels for it."""
    found = []
    personal = [who(row) for row in utility if row["personal"]]
    if personal:
        which = "" if len(personal) == len(utility) else f" (under {listed(personal)})"
        found.append(
            f"Personal models{which}: each client has its own, and no model is everybody's. Accuracy is the"
            " mean over clients, weighted by their records; each tested its own model on the test records, in"
            " its own mix of labels."
        )
    traffic: dict[tuple[str, str], list[str]] = {}
    for row in utility:
        if row["wire"]:
            sizes = size(row["wire"]["received"]), size(row["wire"]["sent"])
            traffic.setdefault(sizes, []).append(who(row))
    for (received, sent), names in traffic.items():
        which = "" if len(traffic) == 1 else f" (under {listed(names)})"
        found.append(f"On the wire, a client receives {received} and sends {sent} per round{which}.")
    return found


def size(number: float) -> str:
    """Bytes as people say them, in powers of ten: 950 B, 8.32 kB, 2.1 MB."""
    for unit in ("B", "kB", "MB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000.0
    return f"{number:,.3g} GB"


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
            f" turned away ({whose}): the models were trained without them. Attacks saw only those that were"
            " valid, in rounds without a quorum."
        )
    found += _missing(utility, who)
    found += _skipped(utility, who)
    ended = {who(row): " / ".join(row["ended"]) for row in utility if row["ended"]}
    if ended:
        found.append(
            f"Training ended before its last round ({_counts(ended)}): the figures are of what was done by"
            " then."
        )
    return found


def _missing(utility: Sequence[dict[str, Any]], who: Callable[[dict[str, Any]], str]) -> list[str]:
    """Sentences about updates that were asked for and not waited for, and whose they always were."""
    found = []
    late = {who(row): f"{row['late']} of {row['asked']}" for row in utility if row["late"]}
    if late:
        found.append(
            f"{plural(sum(row['late'] for row in utility), 'update')} that clients were asked for came too"
            f" late ({_counts(late)}): the models were trained, and attacked, without slow clients."
        )
    stopped = {who(row): f"{row['stopped']} of {row['asked']}" for row in utility if row["stopped"]}
    if stopped:
        found.append(
            f"{plural(sum(row['stopped'] for row in utility), 'update')} that clients were asked for came to"
            f" nothing, because enough others had come before ({_counts(stopped)}): fast clients count more."
        )
    never = {who(row): row["never_contributed"] for row in utility if row["never_contributed"]}
    if never:
        whose = "; ".join(f"{name}: {_clients(clients)}" for name, clients in never.items())
        found.append(
            f"Clients that were asked, but never contributed to the model of at least one seed ({whose}):"
            " it learned nothing from their records."
        )
    return found


def _skipped(utility: Sequence[dict[str, Any]], who: Callable[[dict[str, Any]], str]) -> list[str]:
    """A sentence about rounds that brought nothing, and the likely cause if it can be told."""
    rows = [row for row in utility if row["skipped_rounds"]]
    if not rows:
        return []
    total = sum(row["skipped_rounds"] for row in rows)
    each = {who(row): f"{row['skipped_rounds']} of {row['rounds']}" for row in rows}
    text = (
        f"{total} of {plural(sum(row['rounds'] for row in utility), 'round')} brought nothing, for want of"
        f" enough usable updates ({_counts(each)}): the model stayed as it was, and there was less training"
        " than the set-up says."
    )
    diverged = [who(row) for row in rows if row["rejected"].get("not-finite")]
    if diverged:
        text += (
            f" Clients sent NaN or infinity (under {listed(diverged)}): training probably diverged there;"
            " lower clients.learning_rate, or clip."
        )
    return [text]


def _clients(ids: list[int]) -> str:
    """`clients 3 and 7`, or `12 clients`."""
    if len(ids) > NAMED:
        return f"{len(ids)} clients"
    return f"client{'s' if len(ids) > 1 else ''} {listed(list(map(str, ids)))}"


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


def unit_of(largest: float, kind: str) -> tuple[float, str]:
    """(its size, its name): the largest unit of seconds, bytes or uploads that is in `largest` twice."""
    units = UNITS[kind]
    return next(((scale, unit) for scale, unit in units if largest >= 2.0 * scale), units[-1])


def quantity(value: float, kind: str) -> str:
    """A number as people say it: of seconds, bytes or uploads, of times, or a plain one."""
    if kind == "seconds":
        return duration(value)
    if kind == "bytes":
        return size(value)
    if kind == "uploads":
        return f"{round(value):,}".replace(",", " ")
    return f"{value:.2g}×" if kind == "times" and value < 1.0 else f"{value:.1f}{'×' * (kind == 'times')}"


def meaning(weight: str) -> str:
    """What a staleness weight does, by its name; nothing if it is none of ours."""
    return WEIGHTS.get(weight.partition("(")[0].strip().lower(), "")


def _counts(by_name: Mapping[str, int | str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in by_name.items())
