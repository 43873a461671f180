"""What loading an app leaves behind in Python, and what it must not take away."""

from __future__ import annotations

import sys
from pathlib import Path

from app_in_folder import app, forgotten


def test_libraries_in_an_environment_beneath_the_app_stay(tmp_path: Path) -> None:
    made = app(tmp_path, "with_env", server_before="import lib_beneath")
    library = tmp_path / ".venv" / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "lib_beneath.py").write_text("")
    source = made.path / "with_env" / "task.py"
    source.write_text(
        f"import sys; sys.path.append({str(library)!r})\nimport lib_beneath\n" + source.read_text()
    )
    try:
        with forgotten(made):
            assert "with_env.task" in sys.modules
        assert "with_env.task" not in sys.modules and "lib_beneath" in sys.modules
    finally:
        sys.modules.pop("lib_beneath", None)
