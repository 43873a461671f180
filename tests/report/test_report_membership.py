"""Membership in the report: rows from scores on disk, sentences that claim no more than the sample holds."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab.audit.detection import detection, standardised
from fedlab.audit.threat import ThreatModel
from fedlab.errors import DataError
from fedlab.report import AuditReport, build

CELLS = ("none-train-s7", "dp-sgd-train-s7", "no-first-bias-train-s7")
Scores = list[tuple[list[float], list[int]]]


def drawn(shift: float, targets: int = 4, count: int = 60, seed: int = 0, scale: float = 1.0) -> Scores:
    """Normal scores, members higher by `shift`; each target on a scale of its own."""
    draws = np.random.default_rng(seed)
    found = []
    for place in range(targets):
        member = draws.permutation([1] * count + [0] * count)
        scores = scale * 10.0**place * (draws.normal(size=2 * count) + shift * member) + 5.0 * place
        found.append((scores.tolist(), member.tolist()))
    return found


def write(directory: Path, cell: str, scores: Scores | None, null: Scores | None = None, **more: Any) -> None:
    """A file as `fedlab.experiment.membership.scored` writes it."""
    targets = [
        {
            "clients": [place],
            "rounds": [1, 2],
            "member": member,
            "scores": values,
            "label_control": values[::-1],
            "control": (null or drawn(0.0, seed=9))[place][0] if len(member) == 120 else values[::-1],
            "refusal": None,
        }
        for place, (values, member) in enumerate(scores or [])
    ]
    defense = cell.removesuffix("-train-s7")
    label = more.pop("attack", "membership-loss")
    file = {
        "kind": "membership",
        "attack": label,
        "plugin": "membership-loss",
        "paper": "Yeom et al., 2018",
        "needs": [],
        "threat": asdict(ThreatModel()),
        "threat_label": "",
        "error": None,
        "failed": False,
        "targets": targets,
        "defense": defense,
        "client_mode": "train",
        "seed": 7,
    }
    under = f"@{more['threat_label']}" if more.get("threat_label") else ""
    (directory / "attacks" / cell / f"{label}{under}.json").write_text(json.dumps(file | more))


@pytest.fixture
def asked(run_dir: Path) -> Path:
    """A run whose undefended clients are told, and whose others are not."""
    for cell, shift in zip(CELLS, (3.0, 0.0, 0.0), strict=True):
        write(run_dir, cell, drawn(shift))
    return run_dir


def rows(report: AuditReport) -> dict[str, dict[str, Any]]:
    return {row["defense"]: row for row in report.data["membership"]}


def test_rows_pool_targets_on_a_common_scale(asked: Path) -> None:
    found = rows(build(asked))
    pooled = [(standardised(values), member) for values, member in drawn(3.0)]
    expected = detection(np.concatenate([one for one, _ in pooled]), np.concatenate([m for _, m in pooled]))
    row = found["none"]
    assert (row["auc"], row["members"], row["non_members"]) == (expected.auc, 240, 240)
    assert row["powers"][0]["rate"] == expected.powers[0].rate
    assert row["powers"][1]["rate"] is None and "1000 non-members, had 240" in row["powers"][1]["reason"]
    assert row["targets"] == 4 and row["rounds"] == [1, 2] and row["auc"] > 0.95
    # Without a common scale the largest target would own every threshold.
    raw = drawn(3.0)
    assert detection([s for one, _ in raw for s in one], [m for _, one in raw for m in one]).auc < 0.9  # type: ignore[operator]


def test_a_cell_of_the_verdict_has_few_words_for_membership(asked: Path) -> None:
    briefly = {one["defense"]: one["membership_brief"] for one in build(asked).data["verdict"]["findings"]}
    rate = 100 * rows(build(asked))["none"]["powers"][0]["rate"]
    assert briefly["none"] == f"membership: {rate:.1f} % picked out by membership-loss"
    assert briefly["dp-sgd"].endswith(" % picked out by membership-loss, as guessing may")
    write(asked, CELLS[0], [([1.0, 2.0], [1, 0])])
    write(asked, CELLS[1], None)
    few = {one["defense"]: one["membership_brief"] for one in build(asked).data["verdict"]["findings"]}
    assert few["none"] == "membership: too few records to say"
    assert few["dp-sgd"] == "membership: not applicable"


def test_seeds_are_pooled(tmp_path: Path) -> None:
    from fake_run import write_run

    directory = write_run(tmp_path / "run", seeds=(7, 8), defenses=("none",))
    for seed in (7, 8):
        write(directory, f"none-train-s{seed}", drawn(1.0, seed=seed), defense="none", seed=seed)
    row = build(directory).data["membership"][0]
    assert row["seeds"] == [7, 8] and row["members"] == 480 and row["targets"] == 8


def test_sentences_claim_what_the_sample_holds(asked: Path) -> None:
    write(asked, CELLS[2], drawn(0.0, count=20))
    found = {defense: row["sentence"] for defense, row in rows(build(asked)).items()}
    assert "picks out" in found["none"] and "guessing picks out 1 %" in found["none"]
    assert "no more than guessing may reach with so many records" in found["dp-sgd"]
    assert found["no-first-bias"].startswith("Too few records") and "had 80" in found["no-first-bias"]
    assert not any(re.search(r"\b(safe|secure|no risk|does not leak)\b", text) for text in found.values())


def test_a_control_that_is_told_too_is_named(asked: Path) -> None:
    write(asked, CELLS[0], drawn(3.0), null=drawn(3.0))
    assert "On random updates the same attack picks out" in rows(build(asked))["none"]["sentence"]


def test_labels_alone_and_records_left_out_stand_beside_the_area(asked: Path) -> None:
    by_label = [([0.7, 0.3] * 60, [1, 1, 0, 0] * 30)]
    write(asked, CELLS[0], by_label, dropped=4)
    path = asked / "attacks" / CELLS[0] / "membership-loss.json"
    file = json.loads(path.read_text())
    file["targets"][0]["label_control"] = by_label[0][0]
    path.write_text(json.dumps(file))
    report = build(asked)
    row = rows(report)["none"]
    assert (row["label_control"]["auc"], row["dropped"]) == (0.5, 4)
    page = report.html.read_text()
    assert "labels alone 0.500" in page and "4 used left out" in page


def test_a_run_from_before_labels_were_matched_has_no_control_of_labels(asked: Path) -> None:
    path = asked / "attacks" / CELLS[0] / "membership-loss.json"
    file = json.loads(path.read_text())
    for target in file["targets"]:
        del target["label_control"]
    path.write_text(json.dumps(file))
    report = build(asked)
    row = rows(report)["none"]
    assert row["auc"] > 0.95 and row["label_control"]["auc"] is None and row["dropped"] == 0
    assert "labels alone –" in report.html.read_text()


def test_attacks_that_declined_or_failed_give_no_number(asked: Path) -> None:
    write(asked, CELLS[0], None, error="needs proxy_data", attack="membership-lira")
    write(asked, CELLS[1], None, error="the attack failed: oh", failed=True, attack="membership-lira")
    report = build(asked)
    lira = [row for row in report.data["membership"] if row["attack"] == "membership-lira"]
    assert [row["level"] for row in lira] == ["refused", "failed"]
    assert all(row["auc"] is None and row["roc"] == {"false": [], "true": []} for row in lira)
    assert "Not applicable: needs proxy_data" in lira[0]["sentence"]
    assert "says nothing about what leaks" in lira[1]["sentence"]
    page = report.html.read_text()
    assert "attack failed" in page and "not applicable" in page


def test_the_page_has_the_section_with_its_curves(asked: Path) -> None:
    page = build(asked).html.read_text()
    section = page[page.index('aria-labelledby="membership"') :]
    section = section[: section.index("</section>")]
    assert "Membership: was this record used?" in section
    assert section.count('class="figure"') == 3
    assert "not stated" in section and "needs at least 1000 non-members" in section
    assert "guessing stays under" in section and "control" in section
    for row in rows(build(asked)).values():
        assert row["sentence"].split(" (95")[0].replace(" %", "\u00a0%") in section


def test_what_is_said_of_several_is_said_once(asked: Path) -> None:
    for cell in CELLS[:2]:
        write(asked, cell, [([1.0, 2.0], [1, 0])])
    page = build(asked).html.read_text()
    section = page[page.index('aria-labelledby="membership"') :].partition("</section>")[0]
    assert section.count("Too few records to say") == 1 and section.count("<b>none, dp-sgd</b>") == 1


def test_a_curve_starts_at_the_first_false_alarm(asked: Path) -> None:
    curve = rows(build(asked))["none"]["roc"]
    assert curve["false"][0] == pytest.approx(1 / 240) and curve["false"][-1] == curve["true"][-1] == 1.0
    assert curve["false"] == sorted(curve["false"]) and curve["true"] == sorted(curve["true"])
    assert len(curve["false"]) <= 160


def test_the_verdict_tells_of_membership(asked: Path) -> None:
    findings = build(asked).data["verdict"]["findings"]
    told = {one["defense"]: one["membership"] for one in findings}
    assert told["none"].startswith("Membership (membership-loss): Wrongly suspecting")
    for path in (asked / "attacks").rglob("*.json"):
        if path.stem != "membership-loss":
            path.unlink()
    scenario = (asked / "scenario.toml").read_text().split("[[attacks]]")[0]
    (asked / "scenario.toml").write_text(scenario + '[[defenses]]\nname = "none"\n')
    headline = build(asked).data["verdict"]["headline"]
    assert headline.startswith("No reconstruction was tried. Wrongly suspecting one record in a hundred")


def test_the_strongest_attack_is_shown_under_the_scenarios_own_threat(asked: Path) -> None:
    write(asked, CELLS[1], drawn(2.0), attack="membership-gradient")
    write(asked, CELLS[1], drawn(9.0), threat_label="oracle")
    report = build(asked)
    told = {one["defense"]: one["membership"] for one in report.data["verdict"]["findings"]}
    assert told["dp-sgd"].startswith("Membership (membership-gradient)")
    assert "membership-loss (oracle)" in report.html.read_text()


def test_membership_is_listed_as_tested_only_where_it_was(asked: Path, report: AuditReport) -> None:
    def named(models: dict[str, list[str]], which: str) -> bool:
        return any("Membership inference" in text for text in models[which])

    assert named(report.data["threat_models"], "not_tested")
    models = build(asked).data["threat_models"]
    assert not named(models, "not_tested")
    assert any("membership-loss" in text for text in models["tested"])
    assert any("attributes of people" in text for text in models["not_tested"])
    assert any("membership-loss" in text for text in build(asked).data["limits"])


def test_rows_of_reconstruction_leave_membership_alone(asked: Path, report: AuditReport) -> None:
    assert build(asked).data["attacks"] == report.data["attacks"]


def test_a_run_without_membership_has_no_section(report: AuditReport) -> None:
    assert report.data["membership"] == []
    assert "was this record used?</h2>" not in report.html.read_text()


def test_what_an_attack_says_is_escaped(asked: Path) -> None:
    write(asked, CELLS[0], None, error="<script>alert(1)</script>")
    page = build(asked).html.read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page


@pytest.mark.parametrize("damage", [{"targets": [{}]}, {"targets": 3}, {"seed": None}])
def test_a_damaged_file_is_named(asked: Path, damage: dict[str, Any]) -> None:
    write(asked, CELLS[0], drawn(1.0), **damage)
    with pytest.raises(DataError, match="membership of membership-loss on none"):
        build(asked)
