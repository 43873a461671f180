"""Membership attacks in a run: who is asked about, what an attack gets to see, and what is written down."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from fedlab_attacks.membership.loss import LossMembership

import fedlab
from fedlab.audit.detection import detection
from fedlab.audit.membership import Candidates, MembershipAttack
from fedlab.errors import NotApplicable, ScenarioError
from fedlab.experiment import membership, trials
from fedlab.experiment.dividing import divide
from fedlab.experiment.membership import MembershipAnswer, MembershipJob
from fedlab.experiment.questions import Questions, Target
from fedlab.experiment.setup import build_task
from fedlab.report import AuditReport
from fedlab.scenario import load
from fedlab.tasks import Task


def scenario(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 5,
        "name": "asked",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 48, "depth": 1, "dropout": 0.0}},
        "clients": {"count": 60, "batch_size": 8, "local_epochs": 6, "learning_rate": 0.3},
        "strategy": {"rounds": 2, "cohort": 5},
        "runtime": {"executor": "inline"},
        "audit": {"rounds": [1, 2], "victims": 5, "candidates": 60},
        "attacks": [
            {"name": "membership-loss"},
            {"name": "membership-gradient", "label": "beside-others", "against_others": True},
            {"name": "membership-lira", "shadows": 8},
        ],
    }
    return base | changes


Asked = list[tuple[MembershipJob, MembershipAnswer]]


def watched(settings: dict[str, Any], out: Path) -> tuple[AuditReport, Asked]:
    """A run, and every job as it was handed to an attack."""
    seen: Asked = []
    membership_infer = membership.infer

    def infer(job: MembershipJob, report: Any) -> MembershipAnswer:
        answer = membership_infer(job, report)
        seen.append((job, answer))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials.membership, "infer", infer)
        return fedlab.run(settings, out=out), seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditReport, Asked]:
    return watched(scenario(), tmp_path_factory.mktemp("runs") / "asked")


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(load(scenario()))


def written(report: AuditReport, label: str, cell: str = "none-train-s5") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report.directory / "attacks" / cell / f"{label}.json").read_text())
    return found


def row(report: AuditReport, attack: str) -> dict[str, Any]:
    return next(one for one in report.data["membership"] if one["attack"] == attack)


def test_members_are_told_and_random_updates_tell_nothing(finished: tuple[AuditReport, Asked]) -> None:
    report, _ = finished
    for attack in ("membership-loss", "beside-others"):
        one = row(report, attack)
        assert one["auc"] > 0.55 and one["auc_ci95"][0] > 0.5
        low, high = one["control"]["auc_ci95"]
        assert low < 0.5 < high
        assert one["powers"][0]["rate"] is not None


def test_what_the_sample_cannot_support_is_refused(finished: tuple[AuditReport, Asked]) -> None:
    one = row(finished[0], "membership-loss")
    assert 100 <= one["non_members"] < 1000
    assert one["powers"][1]["rate"] is None
    assert one["powers"][1]["reason"] == f"needs at least 1000 non-members, had {one['non_members']}"


def test_denied_knowledge_is_told_and_the_audit_goes_on(finished: tuple[AuditReport, Asked]) -> None:
    one = row(finished[0], "membership-lira")
    assert one["level"] == "refused" and "proxy_data" in one["refusal"] and one["auc"] is None
    assert not one["failed"] and "Not applicable" in one["sentence"]


def test_candidates_are_the_clients_own_and_records_of_nobody(
    finished: tuple[AuditReport, Asked], task: Task
) -> None:
    report, seen = finished
    owners = divide(load(scenario()), task)[5]
    test = {image.numpy().tobytes() for image in task.test.images(range(len(task.test)))}
    asked: list[bytes] = []
    (job, _), file = seen[0], written(report, "membership-loss")
    assert len(job.targets) == len(file["targets"]) > 2
    for target, entry in zip(job.targets, file["targets"], strict=True):
        assert entry["clients"] == list(target.clients) and len(target.clients) == 1
        mine = {image.numpy().tobytes() for image in task.train.images(owners[target.clients[0]])}
        images = [image.numpy().tobytes() for image in target.candidates.images]
        assert [one in mine for one in images] == [bool(flag) for flag in entry["member"]]
        assert 0 < sum(entry["member"]) == len(images) / 2 <= 30
        others = [one for one, flag in zip(images, entry["member"], strict=True) if not flag]
        assert set(others) <= test
        asked += others
        assert {one.client for one in target.observations} == set(target.clients)
        assert target.clients[0] not in {one.client for one in target.others}
        assert {one.round for one in target.others} == {one.round for one in target.observations}
    assert len(set(asked)) == len(asked)  # each test record is asked about once


def test_the_truth_never_reaches_an_attack(finished: tuple[AuditReport, Asked]) -> None:
    """Nothing that a job holds says who is a member, and the order of the candidates does not either."""
    report, seen = finished
    assert {one.name for one in fields(Candidates)} == {"images", "labels"}
    assert {one.name for one in fields(Target)} == {"clients", "observations", "others", "candidates"}
    assert {one.name for one in fields(MembershipJob)} == {
        "cell", "label", "attack", "targets", "threat", "victim", "seed", "under",
    }  # fmt: skip
    for job, _ in seen:
        assert b"Truth" not in pickle.dumps(job) and b"Questions" not in pickle.dumps(job)
    for entry in written(report, "membership-loss")["targets"]:
        flags = entry["member"]
        assert flags != sorted(flags) and flags != sorted(flags, reverse=True)
        places = torch.tensor(flags).nonzero().double().mean() / (len(flags) - 1)
        assert 0.2 < float(places) < 0.8


def test_scores_and_flags_are_written_and_no_record_is_named(finished: tuple[AuditReport, Asked]) -> None:
    report, seen = finished
    file = written(report, "membership-loss")
    assert file["kind"] == "membership" and file["plugin"] == "membership-loss" and not file["failed"]
    answer = next(answer for job, answer in seen if job.label == "membership-loss")
    for place, entry in enumerate(file["targets"]):
        scores = answer.scores[place]
        assert scores is not None and entry["scores"] == scores.tolist()
        assert len(entry["control"]) == len(entry["member"]) == len(entry["scores"])
        assert set(entry) == {
            "clients", "rounds", "member", "scores", "control", "label_control", "refusal",
        }  # fmt: skip


def test_the_same_seed_asks_the_same(finished: tuple[AuditReport, Asked], tmp_path: Path) -> None:
    again = fedlab.run(scenario(attacks=[{"name": "membership-loss"}]), out=tmp_path / "again")
    assert written(again, "membership-loss") == written(finished[0], "membership-loss")


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditReport, Asked]:
    """Clients of very different labels, asked about under two threats."""
    return watched(skewed_scenario(), tmp_path_factory.mktemp("runs") / "skewed")


def skewed_scenario() -> dict[str, Any]:
    clients = scenario()["clients"] | {"count": 20, "partition": {"name": "dirichlet", "alpha": 0.1}}
    return scenario(
        clients=clients,
        attacks=[{"name": "membership-loss"}],
        threats=[{"label": "data", "proxy_data": True}],
    )


def test_labels_alone_tell_nothing(skewed: tuple[AuditReport, Asked], task: Task) -> None:
    report, seen = skewed
    job, file = seen[0][0], written(report, "membership-loss")
    owners = divide(load(skewed_scenario()), task)[5]
    blind: list[float] = []
    unmatched: list[float] = []
    for target, entry in zip(job.targets, file["targets"], strict=True):
        member = torch.tensor(entry["member"], dtype=torch.bool)
        inside, outside = (target.candidates.labels[one].bincount(minlength=10) for one in (member, ~member))
        assert inside.tolist() == outside.tolist() and int(inside.sum()) > 0
        counts = task.train.labels(owners[target.clients[0]]).bincount(minlength=10)
        share = counts.double() / counts.sum()
        assert entry["label_control"] == pytest.approx(share[target.candidates.labels].tolist())
        blind.append(detection(share[target.candidates.labels], member).auc or 0.0)
        others = task.test.labels(range(len(task.test)))
        scores = torch.cat([share[target.candidates.labels[member]], share[others]])
        unmatched.append(detection(scores, torch.arange(len(scores)) < int(member.sum())).auc or 0.0)
    assert blind == [0.5] * len(blind)
    assert sum(unmatched) / len(unmatched) > 0.75  # what labels give away where nobody matches them
    one = row(report, "membership-loss")
    assert one["label_control"]["auc"] == 0.5
    assert one["label_control"]["members"] == one["members"] == one["non_members"]


def test_members_without_a_partner_are_dropped_and_told(
    skewed: tuple[AuditReport, Asked], task: Task
) -> None:
    report, _ = skewed
    owners = divide(load(skewed_scenario()), task)[5]
    truth = json.loads((report.directory / "truth" / "none-train-s5.json").read_text())
    whom = {one["client"] for one in truth["victims"]}
    wanted = sum(min(30, len(owners[client])) for client in whom)
    one, file = row(report, "membership-loss"), written(report, "membership-loss")
    assert one["dropped"] == file["dropped"] == wanted - one["members"] > 0
    assert f"{one['dropped']} used left out" in report.html.read_text()


def test_all_threats_ask_about_the_same_records(skewed: tuple[AuditReport, Asked]) -> None:
    report, seen = skewed
    (plain, _), (data, _) = seen
    assert (plain.under, data.under) == ("", "data") and data.victim.proxy is not None
    for one, other in zip(plain.targets, data.targets, strict=True):
        assert one.clients == other.clients
        assert torch.equal(one.candidates.images, other.candidates.images)
        assert torch.equal(one.candidates.labels, other.candidates.labels)
    ours, theirs = (written(report, name)["targets"] for name in ("membership-loss", "membership-loss@data"))
    assert [one["member"] for one in ours] == [one["member"] for one in theirs]


def test_proxy_data_hold_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[MembershipJob] = []
    infer = membership.infer
    monkeypatch.setattr(membership, "infer", lambda job, report: (kept.append(job), infer(job, report))[1])
    report = fedlab.run(
        scenario(
            threat={"proxy_data": True},
            attacks=[{"name": "membership-lira", "shadows": 8}],
            audit={"rounds": [1], "victims": 3, "candidates": 40},
        ),
        out=tmp_path / "proxy",
    )
    (job,) = kept
    assert job.victim.proxy is not None and job.threat.proxy_data
    mine = {image.numpy().tobytes() for image in job.victim.proxy.images}
    assert not any(
        image.numpy().tobytes() in mine for target in job.targets for image in target.candidates.images
    )
    assert row(report, "membership-lira")["auc"] > 0.5


def test_behind_a_sum_its_clients_are_one_target(tmp_path: Path) -> None:
    report = fedlab.run(
        scenario(threat={"sums": True}, attacks=[{"name": "membership-loss"}]), out=tmp_path / "sums"
    )
    targets = written(report, "membership-loss")["targets"]
    assert all(len(target["clients"]) == 5 for target in targets) and 1 <= len(targets) <= 2


class Declining(MembershipAttack):
    """Fails, or declines, as it is told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: object, **__: object) -> Any:
        raise self.error


def test_attacks_that_decline_or_break_down(finished: tuple[AuditReport, Asked]) -> None:
    from dataclasses import replace

    job = next(job for job, _ in finished[1] if job.label == "membership-loss")
    declined = membership.infer(replace(job, attack=Declining(NotApplicable("not here"))), lambda *_: None)
    assert declined.error == "not here" and not declined.failed and set(declined.scores) == {None}
    broken = membership.infer(replace(job, attack=Declining(RuntimeError("oh"))), lambda *_: None)
    assert broken.failed and broken.error == "the attack failed: RuntimeError: oh"
    nobody = membership.infer(replace(job, targets=()), lambda *_: None)
    assert nobody.error is not None and "nobody to ask about" in nobody.error and not nobody.failed
    asked = Questions((), (), (), 3, job.victim, job.threat)
    lost = membership.scored(job, membership.lost("killed"), asked)
    assert lost["failed"] is True and (lost["chosen"], lost["dropped"]) == (0, 3)


def test_what_an_attack_does_to_its_observations_stays_with_it(finished: tuple[AuditReport, Asked]) -> None:
    from dataclasses import replace

    class Vandal(LossMembership):
        def run(self, observations: Any, *rest: Any, **more: Any) -> Any:
            for one in observations:
                one.update.clear()
            raise NotApplicable("done")

    job = next(job for job, _ in finished[1] if job.label == "membership-loss")
    membership.infer(replace(job, attack=Vandal()), lambda *_: None)
    assert all(one.update for target in job.targets for one in target.observations)


def test_too_few_candidates_are_a_mistake_of_the_scenario() -> None:
    with pytest.raises(ScenarioError, match="candidates"):
        load(scenario(audit={"candidates": 1}))
