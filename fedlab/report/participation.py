"""Who takes part: uploads of each tenth of the fleet, by slowness, and of each device class.

A fair share is that of the devices: a tenth of the fleet sends a tenth of the uploads. Who sends less than
half of that is named, if chance is no explanation.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import listed, percent

Row = dict[str, Any]
UNFAIR = 0.5
"""Of its fair share of uploads: who sends less is left out."""
ENOUGH = 20.0
"""Uploads that a fair share must be for that: fewer vary too much (Poisson: below half with p < 1 %)."""
ORDINALS = ("fastest", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "slowest")
"""Tenths of a fleet, by slowness."""


def of_tenths(traffic: list[Row]) -> Row | None:
    """Uploads per device of each tenth, mean over seeds, and as a multiple of the fleet's mean."""
    known = [[float(value) for value in one["deciles"]] for one in traffic if one.get("deciles")]
    if not known:
        return None
    each = [sum(column) / len(known) for column in zip(*known, strict=True)]
    mean = sum(each) / len(each)
    return {
        "uploads_per_device": each,
        "of_fair_share": [value / mean for value in each] if mean > 0.0 else None,
        "fair_share": sum(float(one["uploads"]) for one in traffic) / len(each),
    }


def of_classes(traffic: list[Row]) -> list[Row]:
    """Each class: its share of devices, of uploads, and how much of the time its devices are at work."""
    found: dict[str, list[tuple[Row, float]]] = {}
    for one in traffic:
        for entry in one["classes"]:
            found.setdefault(str(entry["name"]), []).append((entry, float(one.get("seconds") or 0.0)))
    # Which class a device belongs to is drawn by the seed.
    devices = {
        name: sum(int(one["devices"] or 0) for one, _ in members) / len(traffic)
        for name, members in found.items()
    }
    everybody, uploads = sum(devices.values()), sum(int(one["uploads"]) for one in traffic)
    rows = []
    for name, members in found.items():
        own = sum(int(entry["uploads"]) for entry, _ in members)
        room = sum(int(entry["devices"] or 0) * seconds for entry, seconds in members)
        rows.append(
            {
                "name": name,
                "devices": round(devices[name]) or None,
                "asked": sum(int(entry["asked"]) for entry, _ in members),
                "uploads": own,
                "counted": sum(int(entry["counted"]) for entry, _ in members),
                "share_of_devices": devices[name] / everybody if everybody else None,
                "share_of_uploads": own / uploads if uploads else None,
                "utilisation": sum(float(entry["busy_seconds"]) for entry, _ in members) / room
                if room
                else None,
                "fair_share": uploads * devices[name] / everybody if everybody else 0.0,
            }
        )
    return rows


def left_out(row: Row) -> list[str]:
    """Sentences that name who sends less than half of a fair share under the row's strategy."""
    found = []
    tenths = row["tenths"]
    if tenths and tenths["of_fair_share"] and tenths["fair_share"] >= ENOUGH:
        few = [place for place, value in enumerate(tenths["of_fair_share"]) if value < UNFAIR]
        if few:
            values = [percent(tenths["of_fair_share"][place]) for place in few]
            names = [ORDINALS[place] for place in few]
            found.append(
                f"the {listed(names)} tenth{'s' if len(few) > 1 else ''} of devices sent"
                f" {listed(values)} of {'their fair shares' if len(few) > 1 else 'a fair share'} of uploads"
            )
    for one in row["classes"]:
        devices, uploads = one["share_of_devices"], one["share_of_uploads"]
        if not devices or uploads is None or one["fair_share"] < ENOUGH or len(row["classes"]) == 1:
            continue
        if uploads < UNFAIR * devices:
            found.append(
                f"“{one['name']}” are {percent(devices)} of the devices and sent {percent(uploads)} of the"
                " uploads"
            )
    return found
