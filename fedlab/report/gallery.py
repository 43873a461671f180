"""Original, reconstruction and control side by side, if the run was told to keep pixels.

All victims are shown, up to a limit and in order: none is chosen for how well the attack did.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedlab.audit.scoring import VictimScore
from fedlab.errors import DataError
from fedlab.report.reading import key, reached
from fedlab.report.rundir import Run, malformed

MOST_IMAGES = 8


@dataclass(frozen=True)
class Picture:
    """A data URI, or None where there is no image; `psnr` in dB against the original."""

    uri: str | None
    psnr: float | None = None


@dataclass(frozen=True)
class Strip:
    """One attack on the victims of a sheet, and its control, in the order of the originals."""

    attack: str
    answers: tuple[Picture, ...]
    controls: tuple[Picture, ...]
    note: str | None = None


@dataclass(frozen=True)
class Sheet:
    """The contact sheet of one trained cell."""

    strategy: str
    defense: str
    client_mode: str
    seed: int
    originals: tuple[Picture, ...]
    strips: tuple[Strip, ...]


def collect(run: Run) -> list[Sheet]:
    """One sheet per strategy, defense and mode, of its first seed; empty if no pixels were kept.

    Raises:
        DataError: a file of images is damaged, or does not fit its scores.
    """
    sheets: dict[tuple[str, ...], Sheet] = {}
    for cell in run.cells:
        path = run.file("truth", f"{cell['name']}.safetensors")
        if key(cell) in sheets or not path.is_file():
            continue
        with malformed(str(path)):
            sheets[key(cell)] = _sheet(run, cell, _load(path))
    return list(sheets.values())


def _sheet(run: Run, cell: dict[str, Any], truth: dict[str, NDArray[Any]]) -> Sheet:
    victims = [f"{one['round']}-{one['client']}" for one in run.truth[cell["name"]]["victims"]]
    # The first image of each victim, then the second of each: batches differ in size.
    places = [
        (victim, index)
        for index in range(max((len(truth[name]) for name in victims), default=0))
        for victim in victims
        if index < len(truth[victim])
    ][:MOST_IMAGES]
    strips = []
    for one in reached(file for file in run.attacks if file["cell"] == cell["name"]):
        kept = run.file("attacks", cell["name"], f"{one['file']}.safetensors")
        images = _load(kept) if kept.is_file() else {}
        answers = _pictures(images, "victim", one.get("victims") or [], places)
        controls = _pictures(images, "control", one.get("control") or [], places)
        note = None
        if not any(picture.uri for picture in answers):
            silent = (
                "This attack answers with no image." if victims else "No update was eligible to be attacked."
            )
            note = str(one.get("error") or _refusal(one) or silent)
        strips.append(Strip(one["attack"], answers, controls, note))
    originals = tuple(Picture(data_uri(truth[victim][index])) for victim, index in places)
    return Sheet(*key(cell), cell["seed"], originals, tuple(strips))


def _pictures(
    images: dict[str, NDArray[Any]], kind: str, entries: list[dict[str, Any]], places: list[tuple[str, int]]
) -> tuple[Picture, ...]:
    scores = {f"{one['round']}-{one['client']}": VictimScore.from_dict(one) for one in entries}
    found = []
    for victim, index in places:
        score, batch = scores.get(victim), images.get(f"{kind}/{victim}")
        matched = score.matched[index] if score is not None and index < len(score.matched) else None
        if score is None or batch is None or matched is None:
            found.append(Picture(None))
        else:
            found.append(Picture(data_uri(batch[matched]), score.psnr[index]))
    return tuple(found)


def _refusal(attack: dict[str, Any]) -> str | None:
    return next((str(one["refusal"]) for one in attack.get("victims") or [] if one.get("refusal")), None)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, TypeError) as error:
        raise DataError(
            f"{path}: not readable ({error}); the file is damaged, attack the run again"
        ) from error


def data_uri(image: NDArray[Any]) -> str:
    """A PNG of one image (C, H, W) in [0, 1]: grey, or colour for three channels; else the first channel.

    Written by hand so that the bytes depend on the pixels alone, and no metadata comes along.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise DataError(f"an image of shape {image.shape}; expected (C, H, W). The file is damaged")
    channels = 3 if image.shape[0] == 3 else 1
    pixels = np.nan_to_num(np.asarray(image[:channels], dtype=np.float64)).clip(0.0, 1.0)
    rows = np.ascontiguousarray(np.rint(pixels * 255).astype(np.uint8).transpose(1, 2, 0))
    height, width, _ = rows.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    # Each PNG row starts with its filter type, 0 for none.
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(body, 9)), (b"IEND", b""))
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()
