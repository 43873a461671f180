"""Gates against the rows of a report: the worst row decides, and what was not measured never passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedlab.errors import BadGate
from fedlab.gate import KEYS, METRICS
from fedlab.report import AuditReport, build
from fedlab.report.document import undefended_labels
from fedlab.report.export import TABLES
from fedlab.report.gates import gate_results
from fedlab.report.rundir import read_run


def judged(run: Path, *gates: str) -> list[dict[str, Any]]:
    read = read_run(run)
    return gate_results(read, undefended_labels(read), gates)


def alter(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def row(report: AuditReport, attack: str, defense: str) -> dict[str, Any]:
    return next(one for one in report.data["attacks"] if (one["attack"], one["defense"]) == (attack, defense))


def test_the_worst_of_all_rows_that_fit_decides(run_dir: Path, report: AuditReport) -> None:
    medians = {name: row(report, "dropout-inversion", name)["psnr_median"] for name in ("none", "dp-sgd")}
    assert medians["none"] > 30 > medians["dp-sgd"]
    wide, narrow, lowest = judged(
        run_dir,
        "attack.dropout-inversion.psnr_median > 30",
        "attack.dropout-inversion[defense=dp-sgd,mode=train].psnr_median > 30",
        "attack.dropout-inversion.psnr_median < 30",
    )
    assert (wide["verdict"], wide["measured"], wide["matched"]) == ("failed", medians["none"], 3)
    assert wide["worst"] == "dropout-inversion on none in training mode"
    assert (narrow["verdict"], narrow["measured"], narrow["matched"]) == ("passed", medians["dp-sgd"], 1)
    # For "less than" the smallest is the worst.
    assert (lowest["verdict"], lowest["measured"]) == ("failed", medians["dp-sgd"])


@pytest.mark.parametrize(
    ("operator", "at_the_bound"),
    [(">", True), (">=", False), ("<", True), ("<=", False), ("==", False), ("!=", True)],
)
def test_the_bound_itself(run_dir: Path, operator: str, at_the_bound: bool) -> None:
    (gate,) = judged(run_dir, f"privacy[defense=dp-sgd].epsilon {operator} 7.8412")
    assert gate["passed"] is at_the_bound


def test_every_metric_is_the_figure_of_its_row(run_dir: Path, report: AuditReport) -> None:
    attack = row(report, "dropout-inversion", "none")
    utility = next(one for one in report.data["utility"] if one["defense"] == "dp-sgd")
    expected = {
        "attack.dropout-inversion[defense=none].psnr_upper": attack["psnr_ci95"][1],
        "attack.dropout-inversion[defense=none].psnr_above_control": attack["psnr_median"]
        - attack["control"]["psnr_median"],
        "attack.dropout-inversion[defense=none].fraction_upper": 1.0,
        "attack.dropout-inversion[defense=none].recovered": 8,
        "attack.label-recovery[defense=none].label_accuracy": 1.0,
        "utility[defense=dp-sgd].accuracy": 0.717,
        "utility[defense=dp-sgd].accuracy_cost": pytest.approx(0.944 - 0.717),
        "utility[defense=dp-sgd].worst_client": utility["per_client"]["worst"],
        "privacy[defense=dp-sgd].delta": 1e-5,
    }
    found = judged(run_dir, *(f"{text} > 1000" for text in expected))
    assert [one["measured"] for one in found] == list(expected.values())
    assert all(one["passed"] for one in found)


def test_no_guarantee_is_worse_than_any_epsilon(run_dir: Path) -> None:
    for text in ("privacy.epsilon > 1e9", "privacy.epsilon < 0", "privacy.delta > 0.5"):
        (gate,) = judged(run_dir, text)
        assert (gate["verdict"], gate["measured"]) == ("failed", None)
        assert "no formal guarantee" in gate["text"]


def test_what_an_attack_did_not_answer_is_not_decided(run_dir: Path) -> None:
    refused, labels, named = judged(
        run_dir,
        "attack.linear-layer.psnr_median > 1000",
        "attack.label-recovery[defense=none].psnr_max > 1000",
        "attack.linear-layer[defense=no-first-bias].recovered > 0",
    )
    assert refused["verdict"] == labels["verdict"] == named["verdict"] == "undecided"
    assert "has no bias" in refused["text"] and "with labels, not with images" in labels["text"]
    # A row that is known to be worse outdoes one that is not known.
    (gate,) = judged(run_dir, "attack.linear-layer.psnr_median > 20")
    assert (gate["verdict"], gate["worst"]) == ("failed", "linear-layer on none in training mode")


def test_of_all_attacks_those_count_that_can_answer_and_those_that_failed(run_dir: Path) -> None:
    (gate,) = judged(run_dir, "attack.*.psnr_median > 1000")
    # Three label attacks and one refusal are left out, and said to be.
    assert (gate["verdict"], gate["matched"]) == ("passed", 8) and "4 without such a figure" in gate["text"]
    alter(
        run_dir / "attacks" / "dp-sgd-train-s7" / "dropout-inversion.json",
        failed=True,
        error="the attack failed: out of memory",
        victims=[],
        control=[],
    )
    (gate,) = judged(run_dir, "attack.*.psnr_median > 1000")
    assert gate["verdict"] == "undecided" and "out of memory" in gate["text"]


def test_what_clients_refused_to_train_gave_nothing_away(run_dir: Path) -> None:
    path = run_dir / "attacks" / "none-train-s7" / "linear-layer.json"
    data = json.loads(path.read_text())
    for one in data["victims"]:
        one |= {"psnr": [None], "ssim": [None], "mse": [None], "matched": [None], "labels_correct": None}
        one["refusal"] = "the client did not answer: refused to train: an altered model"
    path.write_text(json.dumps(data))
    (gate,) = judged(run_dir, "attack.linear-layer[defense=none].psnr_median > 20")
    assert (gate["verdict"], gate["measured"]) == ("passed", 0.0)


def test_a_seed_is_judged_alone(tmp_path: Path) -> None:
    from fake_run import write_run

    run = write_run(tmp_path / "run", seeds=(7, 8))
    both, first, second = judged(
        run, *(f"utility[defense=none{one}].accuracy < 0.1" for one in ("", ",seed=7", ",seed=8"))
    )
    assert [one["measured"] for one in (both, first, second)] == pytest.approx([0.949, 0.944, 0.954])
    assert second["worst"] == "none in training mode, seed 8"
    (gate,) = judged(run, "attack.linear-layer[defense=none,seed=8].recovered > 8")
    assert gate["measured"] == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("attack.liner-layer.psnr_median > 20", 'Did you mean "linear-layer"?'),
        ("attack.linear-layer[defense=dpsgd].psnr_median > 20", 'Did you mean "dp-sgd"?'),
        ("attack.linear-layer[mode=eval].psnr_median > 20", "There is: train"),
        ("attack.linear-layer[threat=oracle].psnr_median > 20", 'There is: ""'),
        ("utility[seed=9].accuracy < 1", "There is: 7"),
        ("utility[strategy=fedbuff].accuracy < 1", "There is: none"),
        ("membership.lira.auc > 0.6", "There is: none"),
        ("membership.*.auc > 0.6", "nothing fits all of it. There is: nothing"),
        ("privacy.epsilon > eight", "expected a number"),
    ],
)
def test_a_gate_that_names_nothing_is_an_error_and_leaves_the_report(
    run_dir: Path, text: str, told: str
) -> None:
    before = (run_dir / "report.json").read_bytes()
    with pytest.raises(BadGate) as error:
        build(run_dir, fail_on=[text])
    assert told in str(error.value)
    assert (run_dir / "report.json").read_bytes() == before


def test_names_that_never_met_are_told_with_what_did(tmp_path: Path) -> None:
    from fake_run import write_run

    run = write_run(tmp_path / "run")
    (run / "attacks" / "dp-sgd-train-s7" / "linear-layer.json").unlink()
    alter(run / "manifest.json", status="interrupted")
    with pytest.raises(BadGate, match=r"nothing fits all of it\. There is: linear-layer on none"):
        judged(run, "attack.linear-layer[defense=dp-sgd].psnr_median > 20")


def test_a_run_that_did_not_end_passes_no_gate(run_dir: Path) -> None:
    alter(run_dir / "manifest.json", status="interrupted")
    passed, failed = judged(
        run_dir, "utility.accuracy < 0.1", "attack.linear-layer[defense=none].psnr_max > 20"
    )
    assert passed["verdict"] == "undecided" and "marked interrupted" in passed["text"]
    assert failed["verdict"] == "failed"


def test_the_scenario_s_own_gates_are_in_every_report_and_are_never_lost(run_dir: Path) -> None:
    path = run_dir / "scenario.toml"
    own = 'fail_on = ["utility.accuracy < 0.9", "attack.gone.psnr_max > 1", "broken"]'
    path.write_text(path.read_text().replace("[audit]", f"[audit]\n{own}"))
    found = judged(run_dir, "utility.accuracy < 0.9", "privacy[defense=dp-sgd].epsilon > 8")
    assert [one["source"] for one in found] == ["scenario"] * 3 + ["command"]
    # What is gone, or cannot be read any more, is not decided; it stops no report.
    assert [one["verdict"] for one in found] == ["failed", "undecided", "undecided", "passed"]
    assert 'there is no attack "gone"' in found[1]["text"]


def test_a_figure_is_never_rounded_to_the_other_side(run_dir: Path) -> None:
    path = run_dir / "privacy" / "dp-sgd-train-s7.json"
    alter(path, epsilon=8.0000001, per_client={"0": 8.0000001})
    (gate,) = judged(run_dir, "privacy[defense=dp-sgd].epsilon > 8")
    assert gate["verdict"] == "failed" and "8.0000001" in gate["text"]


def test_the_same_gates_give_the_same_bytes(run_dir: Path) -> None:
    texts = []
    for _ in range(2):
        build(run_dir, fail_on=["attack.*.psnr_max > 30"])
        texts.append((run_dir / "report.json").read_bytes())
    assert texts[0] == texts[1]


def test_the_guide_names_every_metric_and_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    guide = page.partition("## Gates\n")[2].partition("\n## ")[0]
    for subject, metrics in METRICS.items():
        (line,) = [line for line in guide.splitlines() if line.startswith(f"| `{subject}")]
        assert all(f"`{metric}`: {meaning}" in line for metric, meaning in metrics.items())
        assert all(f"`{key}" in guide for key in KEYS[subject])
    formats = page.partition("## Other formats\n")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in formats for name in TABLES)
