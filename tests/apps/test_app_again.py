"""Attacks on an audit that is done, and audits that were stopped: the app runs again, and is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import app_in_folder
import pytest
import torch

import fedlab
from fedlab.apps import attack_app, audit_app, resume_app
from fedlab.apps.apart import is_app
from fedlab.apps.folder import AppFolder
from fedlab.apps.loading import Apps, forget
from fedlab.apps.same import changed, code_of, difference
from fedlab.audit import KnownConfig, Observation
from fedlab.cli.app import execute
from fedlab.errors import AppFailed, BackendError, DataError, ScenarioError, UsageError
from fedlab.progress import Quiet
from fedlab.report import AuditReport

AUDIT = """
[tool.fedlab.audit]
input-shape = [1, 2, 2]
pixel-low = -5.0
pixel-high = 5.0
"""
CLOCK = "import time, torch; torch.manual_seed(time.time_ns() % 2**31)"


class Heard(Quiet):
    """A listener that keeps jobs and messages."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.messages: list[str] = []

    def start(self, job: str, total: int) -> None:
        self.jobs.append(job)

    def message(self, text: str) -> None:
        self.messages.append(text)


@contextmanager
def fresh(folder: AppFolder) -> Iterator[None]:
    """With the app's modules read anew, as in a process of its own."""
    import sys

    before = frozenset(sys.modules)
    try:
        yield
    finally:
        forget(Apps(None, None, (), before), folder)  # type: ignore[arg-type]


def an_app(path: Path, name: str, **lines: str) -> AppFolder:
    """Three clients train a linear layer on four pixels."""
    found = app_in_folder.app(path, name, **lines)
    with (path / "pyproject.toml").open("a") as project:
        project.write(AUDIT)
    return found


def audited(folder: AppFolder, out: Path, attacks: tuple[str, ...] = ("label-recovery",)) -> AuditReport:
    with fresh(folder):
        return audit_app(folder.path, supernodes=3, attacks=attacks, out=out, command="fedlab audit-app app")


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def manifest(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "manifest.json").read_text()))


def mark(directory: Path, **fields: Any) -> None:
    """Change the manifest as a run that ended otherwise would have left it; None removes a field."""
    whole = {key: value for key, value in (manifest(directory) | fields).items() if value is not None}
    (directory / "manifest.json").write_text(json.dumps(whole))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[AppFolder, Path]:
    """An app, and an audit of it."""
    place = tmp_path_factory.mktemp("again")
    folder = an_app(place / "app", "again_app")
    return folder, audited(folder, place / "run").directory


@pytest.fixture
def run(base: tuple[AppFolder, Path], tmp_path: Path) -> Path:
    """A copy of the audit."""
    return Path(shutil.copytree(base[1], tmp_path / "run"))


class TestAttack:
    def test_answers_are_added_and_what_was_done_is_not_done_again(
        self, base: tuple[AppFolder, Path], run: Path
    ) -> None:
        folder, _ = base
        before, scenario = files(run), (run / "scenario.toml").read_text()
        heard = Heard()
        with fresh(folder):
            report = attack_app(run, attacks=["linear-layer"], threats=["labels=true"], progress=heard)
        assert "the same app, the same updates" in heard.messages
        rows = {(row["attack"], row["threat_label"]) for row in report.data["attacks"]}
        assert rows == {
            ("label-recovery", ""),
            ("linear-layer", ""),
            ("linear-layer", "with-labels"),
        }
        assert (run / "scenario.toml").read_text() == scenario
        after = files(run)
        kept = [
            path for path in before if "/observations/" in path or "/truth/" in path or "label-re" in path
        ]
        assert len(kept) == 4 and all(after[path] == before[path] for path in kept)
        heard = Heard()
        attack_app(run, attacks=["linear-layer"], progress=heard)
        assert heard.jobs == [] and "nothing new" in heard.messages[0]

    def test_what_was_tried_is_attacked_too(self, tmp_path: Path) -> None:
        folder = an_app(tmp_path / "app", "tried_app")
        with fresh(folder):
            tried = audit_app(
                folder.path,
                supernodes=3,
                attacks=["label-recovery"],
                tries=["clipping"],
                out=tmp_path / "run",
            )
        with fresh(folder):
            report = attack_app(tried.directory, attacks=["linear-layer"])
        rows = {(row["defense"], row["attack"]) for row in report.data["attacks"]}
        assert {("none", "linear-layer"), ("clipping", "linear-layer")} < rows
        seen = files(tried.directory / "observations")
        mark(tried.directory, status="interrupted")
        answers = files(tried.directory / "attacks")
        with fresh(folder):
            again = resume_app(tried.directory)
        assert files(tried.directory / "observations") == seen
        assert files(tried.directory / "attacks") == answers
        assert {(row["defense"], row["attack"]) for row in again.data["attacks"]} == rows

    def test_an_app_that_draws_from_the_clock_is_refused(self, tmp_path: Path) -> None:
        folder = an_app(tmp_path / "app", "clock_app", client_before=CLOCK)
        run = audited(folder, tmp_path / "run").directory
        before = files(run)
        with fresh(folder), pytest.raises(DataError) as found:
            attack_app(run, attacks=["linear-layer"])
        told = str(found.value)
        # That one client draws the same batches again has a chance of 1/90.
        assert " of 3 updates are not those that were kept" in told and "no seed reaches" in told
        assert "fedlab audit-app app --attack linear-layer" in told and "another model" not in told
        assert len(told.splitlines()) < 10
        assert files(run) == before

    def test_an_app_that_was_changed_is_refused_by_file(self, tmp_path: Path) -> None:
        folder = an_app(tmp_path / "app", "changed_app")
        run = audited(folder, tmp_path / "run").directory
        task = folder.path / "changed_app" / "task.py"
        task.write_text(task.read_text().replace("randperm(6)", "arange(6)"))
        (folder.path / "unrelated.txt").write_text("no code")
        with fresh(folder), pytest.raises(DataError) as found:
            attack_app(run, attacks=["linear-layer"])
        assert "the app's files changed: changed_app/task.py" in str(found.value)
        assert manifest(run)["status"] == "finished"

    def test_one_that_fails_now_leaves_the_audit_finished(self, tmp_path: Path) -> None:
        folder = an_app(tmp_path / "app", "later_app")
        run = audited(folder, tmp_path / "run").directory
        server = folder.path / "later_app" / "server_app.py"
        server.write_text(server.read_text().replace("    pass\n", "    raise KeyError('gone')\n", 1))
        with fresh(folder), pytest.raises(AppFailed, match="gone"):
            attack_app(run, attacks=["linear-layer"])
        assert manifest(run)["status"] == "finished"

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"status": "interrupted"}, "fedlab resume"),
            ({"asked": None}, "fedlab audit-app app"),
        ],
    )
    def test_what_cannot_be_attacked_says_what_to_do(
        self, run: Path, change: dict[str, Any], words: str
    ) -> None:
        mark(run, **change)
        with pytest.raises(UsageError, match=words):
            attack_app(run, attacks=["linear-layer"])

    def test_an_app_with_obstacles_cannot_be_attacked(self, run: Path) -> None:
        told = json.loads((run / "app.json").read_text())
        (run / "app.json").write_text(json.dumps(told | {"obstacles": ["clients step with Adam"]}))
        with pytest.raises(UsageError, match="clients step with Adam"):
            attack_app(run, attacks=["linear-layer"])

    def test_mistakes_are_told_before_the_app_runs(self, run: Path) -> None:
        heard = Heard()
        with pytest.raises(ScenarioError, match="no-such-attack"):
            attack_app(run, attacks=["no-such-attack"], progress=heard)
        assert heard.jobs == heard.messages == []

    def test_a_malicious_server_is_refused_by_the_app(self, base: tuple[AppFolder, Path], run: Path) -> None:
        with fresh(base[0]):
            report = attack_app(run, attacks=["imprint"], threats=["server=malicious"])
        (row,) = [row for row in report.data["attacks"] if row["threat_label"] == "server-malicious"]
        assert row["level"] == "refused"
        (answer,) = (run / "attacks").rglob("imprint@server-malicious.json")
        assert "app's clients" in json.loads(answer.read_text())["error"]

    def test_nobody_is_asked_about_where_no_record_is_known_that_was_not_used(
        self, base: tuple[AppFolder, Path], run: Path
    ) -> None:
        """The records of an app are those of its clients: a non-member drawn from them may be a member."""
        with fresh(base[0]):
            report = attack_app(run, attacks=["membership-loss"])
        (row,) = report.data["membership"]
        assert row["level"] == "refused" and row["auc"] is None

    def test_from_python_it_is_named(self, run: Path) -> None:
        with pytest.raises(UsageError, match=r"fedlab\.apps\.attack_app"):
            fedlab.attack(run)
        mark(run, status="failed")
        with pytest.raises(UsageError, match=r"fedlab\.apps\.resume_app"):
            fedlab.resume(run)


class TestResume:
    def test_a_failed_audit_goes_on_to_the_same_bits(self, tmp_path: Path) -> None:
        flag = tmp_path / "flag"
        before = f"import os\n    if os.path.exists({str(flag)!r}): raise KeyError('not yet')"
        folder = an_app(tmp_path / "app", "failing_app", server_before=before)
        whole = audited(folder, tmp_path / "whole")
        flag.touch()
        with pytest.raises(AppFailed, match="not yet"):
            audited(folder, tmp_path / "run")
        run = tmp_path / "run"
        assert manifest(run)["status"] == "failed" and is_app(run)
        flag.unlink()
        with fresh(folder):
            report = resume_app(run)
        assert manifest(run)["status"] == "finished" and "error" not in manifest(run)
        assert report.data["attacks"] == whole.data["attacks"]
        seen = ("observations", "attacks", "truth")
        for place in seen:
            mine, theirs = files(run / place), files(whole.directory / place)
            assert list(mine.values()) == list(theirs.values()) and mine

    def test_attacks_that_are_done_are_kept(self, base: tuple[AppFolder, Path], run: Path) -> None:
        (answer,) = (run / "attacks").rglob("label-recovery.json")
        kept = json.loads(answer.read_text()) | {"marked": True}
        answer.write_text(json.dumps(kept))
        mark(run, status="interrupted")
        heard = Heard()
        with fresh(base[0]):
            resume_app(run, progress=heard)
        assert json.loads(answer.read_text()) == kept
        assert heard.jobs == ["run the app"]

    def test_of_other_updates_nothing_is_kept(self, tmp_path: Path) -> None:
        folder = an_app(tmp_path / "app", "other_app", client_before=CLOCK)
        run = audited(folder, tmp_path / "run").directory
        before = files(run / "observations")
        (answer,) = (run / "attacks").rglob("label-recovery.json")
        answer.write_text(json.dumps(json.loads(answer.read_text()) | {"marked": True}))
        mark(run, status="interrupted")
        with fresh(folder):
            report = resume_app(run)
        assert files(run / "observations") != before
        assert "marked" not in json.loads(answer.read_text())
        assert report.data["run"]["status"] == "finished"

    def test_of_an_app_that_was_edited_nothing_is_kept(self, base: tuple[AppFolder, Path], run: Path) -> None:
        """Scores rest on what its author says of pixels, too, which no update shows."""
        asked = manifest(run)["asked"]
        mark(run, status="interrupted", asked=asked | {"code": asked["code"] | {"pyproject.toml": "0"}})
        (answer,) = (run / "attacks").rglob("label-recovery.json")
        answer.write_text(json.dumps(json.loads(answer.read_text()) | {"marked": True}))
        heard = Heard()
        with fresh(base[0]):
            resume_app(run, progress=heard)
        assert "marked" not in json.loads(answer.read_text())
        assert any("files changed" in one for one in heard.messages)

    def test_a_finished_one_says_so(self, run: Path) -> None:
        heard, before = Heard(), files(run)
        resume_app(run, progress=heard)
        assert "is finished" in heard.messages[0] and files(run) == before

    def test_answers_of_other_versions_are_not_mixed(self, base: tuple[AppFolder, Path], run: Path) -> None:
        mark(run, status="interrupted", versions=manifest(run)["versions"] | {"torch": "1.0"})
        with pytest.raises(BackendError, match=r"torch was 1\.0"):
            resume_app(run)
        with fresh(base[0]):
            resume_app(run, force=True)
        assert manifest(run)["versions"]["torch"] == torch.__version__

    def test_a_recording_of_a_deployment_has_nobody_to_go_on_with(self, run: Path) -> None:
        mark(run, status="interrupted", asked=None, deployment={"run_id": 1})
        for resume in (resume_app, fedlab.resume):
            with pytest.raises(UsageError, match=r"fedlab attack .* --app"):
                resume(run)


class TestSame:
    def seen(self, value: float = 1.0) -> Observation:
        state = {"w": torch.tensor([value, 2.0])}
        return Observation(1, 0, {"w": torch.zeros(2)}, state, {}, {}, KnownConfig(batch_size=2))

    def test_the_same_bits_are_no_difference(self) -> None:
        assert difference([self.seen()], [self.seen()]) is None

    def test_how_much_it_is_and_where_it_began(self) -> None:
        one, other = self.seen(), self.seen(1.5)
        found = difference([one, replace(one, client=1)], [other, replace(one, client=1)])
        assert found is not None
        assert (found.updates, found.kept, found.largest, found.started) == (1, 2, 0.5, False)
        moved = replace(one, before={"w": torch.ones(2)})
        found = difference([one], [moved])
        assert found is not None and found.started and "another model" in str(found)

    def test_who_is_missing_or_told_otherwise_differs(self) -> None:
        one = self.seen()
        assert difference([one], []) is not None
        assert difference([], [one]) is not None
        assert difference([one], [replace(one, config=KnownConfig(batch_size=3))]) is not None
        assert difference([one], [replace(one, update={"v": one.update["w"]})]) is not None

    def test_code_is_what_is_seen_and_decides(self, tmp_path: Path) -> None:
        for name in ("pkg/a.py", "b.toml", "data.csv", ".hidden/c.py", "pkg/__pycache__/d.py", "venv/e.py"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(name)
        (tmp_path / "venv" / "pyvenv.cfg").write_text("")
        assert list(code_of(tmp_path)) == ["b.toml", "pkg/a.py"]
        before = {"asked": {"code": code_of(tmp_path)}, "versions": {}, "machine": {}}
        assert changed(before, tmp_path) == []
        (tmp_path / "b.toml").unlink()
        assert changed(before, tmp_path) == ["the app's files changed: b.toml"]
        assert "versions changed: " in changed(before | {"versions": {"torch": "1.0"}}, tmp_path)[1]


@pytest.mark.parametrize("command", ["attack", "resume"])
def test_settings_are_refused(run: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    mark(run, status="failed" if command == "resume" else "finished")
    assert execute([command, str(run), "--set", "runtime.executor=inline", "--quiet"]) == 2
    assert "audit of an app" in " ".join(capsys.readouterr().err.split())


def test_the_command_line_in_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a relative path; what the app writes is told and is not in its folder."""
    wrote = "import pathlib; pathlib.Path('outputs/new.txt').write_text('x')"
    folder = an_app(tmp_path / "app", "writing_app", server_after=wrote)
    (folder.path / "outputs").mkdir()
    with monkeypatch.context() as there:  # the audit itself is done here, where outputs/ is another one
        (tmp_path / "outputs").mkdir()
        there.chdir(tmp_path)
        audited(folder, tmp_path / "run")
    before = files(folder.path)
    monkeypatch.chdir(tmp_path)
    assert execute(["attack", "run", "--attack", "linear-layer"]) == 0
    shown = capsys.readouterr()
    assert "linear-layer" in shown.out and str(tmp_path / "run" / "report.html") in shown.out
    told = " ".join(shown.err.split())
    assert "the same app, the same updates" in told
    assert "the app wrote 1 file, which was not kept: outputs/new.txt" in told
    assert files(folder.path) == before
