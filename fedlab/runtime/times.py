"""Computing times: how they are spread over devices, or a trace of them.

Each spread is its quantile function, so that a device's time follows from one number of the seed tree
and expected values can be written down.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from fedlab.errors import DataError, UsageError

AboveZero = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
"""Ranges that a scenario is checked against; the constructors check them again."""

_NORMAL = statistics.NormalDist()


class ComputingTime(Protocol):
    """How the computing times of devices are spread."""

    def quantile(self, share: float) -> float:
        """Virtual seconds that `share` of the devices, between 0 and 1, do not exceed."""


@dataclass(frozen=True)
class Constant:
    """Every device takes the same time.

    Args:
        seconds: virtual seconds per message, at least 0.
    """

    seconds: AtLeastZero = 1.0

    def __post_init__(self) -> None:
        at_least_zero(seconds=self.seconds)

    def quantile(self, share: float) -> float:
        return self.seconds


@dataclass(frozen=True)
class HalfNormal:
    """`minimum` + |N(0, scale²)|: what the authors of FedBuff found to fit devices in production.

    Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
    https://arxiv.org/abs/2106.06639.

    Args:
        scale: standard deviation of the normal before its sign is dropped, in virtual seconds, above 0.
        minimum: virtual seconds that the fastest device takes, at least 0.
    """

    scale: AboveZero = 1.0
    minimum: AtLeastZero = 0.0

    def __post_init__(self) -> None:
        above_zero(scale=self.scale)
        at_least_zero(minimum=self.minimum)

    def quantile(self, share: float) -> float:
        return self.minimum + self.scale * _NORMAL.inv_cdf((1.0 + share) / 2.0)


@dataclass(frozen=True)
class LogNormal:
    """median · exp(N(0, sigma²)): many devices alike, and a long tail of slow ones.

    Args:
        median: virtual seconds that half of the devices do not exceed, above 0.
        sigma: standard deviation of the logarithm, above 0 and at most 10.
    """

    median: AboveZero = 1.0
    sigma: Annotated[float, Field(gt=0, le=10)] = 0.5

    def __post_init__(self) -> None:
        above_zero(median=self.median, sigma=self.sigma)
        if self.sigma > 10.0:
            raise UsageError(f"sigma = {self.sigma}; expected at most 10")

    def quantile(self, share: float) -> float:
        return self.median * math.exp(self.sigma * _NORMAL.inv_cdf(share))


@dataclass(frozen=True)
class Exponential:
    """`minimum` + an exponential time; with a minimum, the shifted exponential of straggler analyses.

    Args:
        mean: of the exponential part, in virtual seconds, above 0.
        minimum: virtual seconds that the fastest device takes, at least 0.
    """

    mean: AboveZero = 1.0
    minimum: AtLeastZero = 0.0

    def __post_init__(self) -> None:
        above_zero(mean=self.mean)
        at_least_zero(minimum=self.minimum)

    def quantile(self, share: float) -> float:
        return self.minimum - self.mean * math.log1p(-share)


TIMES: dict[str, Callable[..., ComputingTime]] = {
    "constant": Constant,
    "half-normal": HalfNormal,
    "log-normal": LogNormal,
    "exponential": Exponential,
}
"""Every spread of computing times by the name that a scenario gives it."""


def read_trace(path: str | Path) -> tuple[float, ...]:
    """Computing times from a CSV file with the columns `device` and `seconds`, one row per device.

    Args:
        path: as seen from the current directory, like that of a data set; `~` is the home directory.
            The names of devices are free and distinct; the order of the rows is what counts.

    Raises:
        DataError: the file is missing or unreadable.
        UsageError: a line is not as expected; the message names it.
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
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: no CSV text in UTF-8 ({error})") from error
    times: list[float] = []
    lines: dict[str, int] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header != ["device", "seconds"]:
            raise UsageError(f"{path}, line 1: got {','.join(header)!r}; expected device,seconds")
        for row in reader:
            if row:
                times.append(_timed(row, f"{path}, line {reader.line_num}", lines, reader.line_num))
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: no CSV text in UTF-8 ({error})") from error
    if not times:
        raise UsageError(f"{path}: no device; expected a line such as 0,12.5 after the first")
    return tuple(times)


def _timed(row: list[str], where: str, lines: dict[str, int], line: int) -> float:
    """The seconds of one row; `lines` knows the devices that came before."""
    if len(row) != 2 or not row[0].strip():
        raise UsageError(f"{where}: got {','.join(row)!r}; expected a device and its seconds, as in 0,12.5")
    device = row[0].strip()
    if device in lines:
        raise UsageError(f"{where}: device {device} stands in line {lines[device]} already; expected it once")
    lines[device] = line
    try:
        seconds = float(row[1])
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise UsageError(f"{where}: got {row[1].strip()!r}; expected a number of seconds >= 0")
    return seconds


def at_least_zero(**values: float) -> None:
    """Raises UsageError for a value that is negative or not finite."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= value < math.inf:
            raise UsageError(f"{name} = {value!r}; expected a finite number >= 0")


def above_zero(**values: float) -> None:
    """Raises UsageError for a value that is not positive or not finite."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 < value < math.inf:
            raise UsageError(f"{name} = {value!r}; expected a finite number > 0")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
