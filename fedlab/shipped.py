"""The scenarios that come with fedlab; a module of its own, so that shells complete their names at once."""

from __future__ import annotations

from pathlib import Path


def shipped() -> dict[str, Path]:
    """Name -> file of the scenarios that come with fedlab, installed or in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "scenarios", package.parent / "scenarios"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}
