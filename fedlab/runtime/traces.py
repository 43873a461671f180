"""Measured devices from CSV files: how long they take, and when they are there.

Read strictly: whatever is wrong is told with the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fedlab.errors import DataError, UsageError, did_you_mean
from fedlab.runtime.availability import AvailabilityTrace, Interval, fault


def read_trace(path: str | Path) -> tuple[float, ...]:
    """Computing times from a CSV file with the columns `device` and `seconds`, one row per device.

    Args:
        path: as seen from the current directory, like that of a data set; `~` is the home directory.
            The names of devices are free and distinct; the order of the rows is what counts.

    Raises:
        DataError: the file is missing or unreadable.
        UsageError: a line is not as expected; the message names it.
    """
    return tuple(read_durations(path).values())


def read_durations(path: str | Path) -> dict[str, float]:
    """The same by the names of the devices, in the order of the rows."""
    times: dict[str, float] = {}
    lines: dict[str, int] = {}
    for line, row in _rows(path, ("device", "seconds"), "a device and its seconds, as in 0,12.5"):
        device, where = row[0], f"{path}, line {line}"
        if device in lines:
            raise UsageError(
                f"{where}: device {device} stands in line {lines[device]} already; expected it once"
            )
        lines[device] = line
        times[device] = _seconds(row[1], where)
    if not times:
        raise UsageError(f"{path}: no device; expected a line such as 0,12.5 after the first")
    return times


def read_availability(
    path: str | Path, *, period: float | None = None, devices: Collection[str] | None = None
) -> AvailabilityTrace:
    """When devices are there, from a CSV file with the columns `device`, `start` and `end`.

    One line per interval, in virtual seconds; those of one device stand in ascending order, between them
    may stand others.

    Args:
        path: as for `read_trace`.
        period: virtual seconds after which the trace begins again; never, if None.
        devices: the names that there are, in the fleet's order, such as those of a trace of computing
            times; every name, in the order in which they first occur, if None.

    Raises:
        DataError: the file is missing or unreadable.
        UsageError: a line is not as expected, or a device of `devices` has none; the message names it.
    """
    rows: dict[str, list[Interval]] = {name: [] for name in devices or ()}
    for line, row in _rows(path, ("device", "start", "end"), "a device, a start and an end, as in 0,60,3600"):
        device, where = row[0], f"{path}, line {line}"
        if devices is not None and device not in rows:
            known = f"Expected one of the {len(rows)} devices of the trace of computing times"
            raise UsageError(f"{where}: unknown device {device}.{did_you_mean(device, rows)} {known}")
        found = rows.setdefault(device, [])
        interval = _seconds(row[1], where), _seconds(row[2], where)
        if told := fault(interval, found[-1] if found else None, period):
            raise UsageError(f"{where}: device {device}: {told}")
        found.append(interval)
    missing = [name for name, intervals in rows.items() if not intervals]
    if missing or not rows:
        which = f"no line of device {', '.join(missing[:5])}" if missing else "no device"
        raise UsageError(f"{path}: {which}; expected a line such as {missing[0] if missing else 0},60,3600")
    return AvailabilityTrace(tuple(tuple(intervals) for intervals in rows.values()), period)


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise UsageError(f"{where}: got {text!r}; expected a number of seconds >= 0")
    return seconds


def _rows(path: str | Path, columns: Sequence[str], cells: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row after the first, which names the columns; the first cell is never empty."""
    text = _text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header != list(columns):
            raise UsageError(f"{path}, line 1: got {','.join(header)!r}; expected {','.join(columns)}")
        for row in reader:
            if row and (len(row) != len(columns) or not row[0].strip()):
                raise UsageError(f"{path}, line {reader.line_num}: got {','.join(row)!r}; expected {cells}")
            if row:
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: no CSV text in UTF-8 ({error})") from error


def _text(path: str | Path) -> str:
    """The file's text.

    Raises:
        DataError, UsageError: there is none that can be read.
    """
    try:
        given, path = path, Path(path).expanduser()
        if not path.is_file():
            raise DataError(f'the trace "{given}" is no file; give the path of a CSV file')
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"cannot read the trace {path}: {error}") from error
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(
            f"cannot read the trace {path}: {error.strerror}; give the path of a CSV file"
        ) from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: no CSV text in UTF-8 ({error})") from error
