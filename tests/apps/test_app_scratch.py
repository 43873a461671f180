"""What an app writes at a relative path: never into its user's folder, and told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlab.apps import scratch as scratches
from fedlab.apps.scratch import lay_out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An app's folder, with data and results of its user."""
    found = tmp_path / "app"
    for path in (found / "data" / "train", found / "outputs", found / ".venv", found / "pkg" / "__pycache__"):
        path.mkdir(parents=True)
    for name, text in (
        ("pyproject.toml", ""),
        ("model.pt", "the user's"),
        ("data/train/records.txt", "many"),
        ("outputs/old.txt", "the user's"),
        ("pkg/__pycache__/x.pyc", ""),
        (".env", "secret"),
    ):
        (found / name).write_text(text)
    return found


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    found = tmp_path / "scratch"
    found.mkdir()
    return found


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_relative_paths_lead_where_they_lead_from_the_apps_folder(folder: Path, scratch: Path) -> None:
    laid = lay_out(folder / "pyproject.toml", scratch)
    assert (scratch / "data" / "train" / "records.txt").read_text() == "many"
    assert (scratch / "outputs").is_dir()
    assert not (scratch / ".venv").exists() and not (scratch / ".env").exists()
    assert not (scratch / "pkg" / "__pycache__").exists()
    assert laid.told() == []


def test_what_is_written_stays_in_the_scratch_directory_and_is_told(folder: Path, scratch: Path) -> None:
    before = contents(folder)
    laid = lay_out(folder, scratch)
    (scratch / "outputs" / "new.txt").write_text("the app's")
    (scratch / "outputs" / "old.txt").write_text("the app's")
    (scratch / "model.pt").write_text("the app's")
    (scratch / "data" / "train" / "records.txt").unlink()
    (scratch / ".cache").write_text("hidden")
    assert contents(folder) == before
    assert laid.told() == [
        "the app wrote 3 files, which were not kept: model.pt, outputs/new.txt, outputs/old.txt"
    ]


def test_one_file_is_told_as_one_and_many_as_a_few(folder: Path, scratch: Path) -> None:
    laid = lay_out(folder, scratch)
    (scratch / "0.txt").write_text("")
    assert laid.told() == ["the app wrote 1 file, which was not kept: 0.txt"]
    for number in range(1, 7):
        (scratch / f"{number}.txt").write_text("")
    assert laid.told() == [
        "the app wrote 7 files, which were not kept: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"
    ]


def test_the_smallest_files_are_copied_and_others_linked(
    folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 bytes are the user's two results, of 10 each; beside empty files there is room for one of them."""
    (folder / "data" / "train" / "records.txt").write_text("x" * 30)
    monkeypatch.setattr(scratches, "COPIED", 15)
    laid = lay_out(folder, scratch)
    assert (scratch / "model.pt").is_symlink() is False
    assert (scratch / "outputs" / "old.txt").is_symlink()
    assert (scratch / "data" / "train" / "records.txt").read_text() == "x" * 30
    (scratch / "data" / "train" / "new.txt").write_text("beside a file that is linked")
    assert not (folder / "data" / "train" / "new.txt").exists()
    assert laid.reached() == []
    (scratch / "outputs" / "old.txt").write_text("through the link")
    assert laid.told()[1] == "the app changed 1 file of its own folder: outputs/old.txt"


def test_what_is_written_at_absolute_paths_is_told_and_run_directories_are_not_the_apps(
    folder: Path, scratch: Path
) -> None:
    laid = lay_out(folder, scratch)
    (folder / "outputs" / "new.txt").write_text("")
    (folder / "runs" / "app-1" / "attacks").mkdir(parents=True)
    (folder / "runs" / "app-1" / "manifest.json").write_text("")
    (folder / "runs" / "app-1" / "attacks" / "x.json").write_text("")
    assert laid.told() == ["the app changed 1 file of its own folder: outputs/new.txt"]


def test_a_folder_of_very_many_files_and_a_link_are_linked_as_a_whole_and_told(
    folder: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "pkg" / "inner").symlink_to(elsewhere)
    (folder / "data" / "more.txt").write_text("")
    monkeypatch.setattr(scratches, "MANY", 2)  # of data: train, train/records.txt, more.txt
    laid = lay_out(folder, scratch)
    assert (scratch / "data").is_symlink() and (scratch / "linked").is_symlink()
    assert (scratch / "pkg" / "inner").is_symlink() and not (scratch / "outputs").is_symlink()
    assert laid.told() == ["what the app wrote there stays, for it is linked: data, linked, pkg/inner"]


def test_links_that_go_round_end(folder: Path, scratch: Path) -> None:
    (folder / "data" / "again").symlink_to(folder)
    (folder / "nowhere").symlink_to(folder / "no such file")
    lay_out(folder, scratch)
    assert (scratch / "data" / "again" / "model.pt").read_text() == "the user's"


def test_the_scratch_directory_takes_nothing_of_the_app_with_it(folder: Path) -> None:
    import tempfile

    (folder / "big").symlink_to(folder / "data")
    before = contents(folder)
    with tempfile.TemporaryDirectory() as scratch:
        lay_out(folder, Path(scratch))
    assert contents(folder) == before


def test_no_folder_is_nothing_to_lay_out(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "beside").touch()
    assert lay_out(tmp_path / "nowhere", scratch).told() == []
    assert list(scratch.iterdir()) == []
