"""What the report says of attackers who know more or less than that of the verdict, and of certificates."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_run import write_run

from fedlab.audit import Certificate, Reconstruction, ThreatModel
from fedlab.audit.difference import difference
from fedlab.audit.scoring import VictimScore, score
from fedlab.audit.truth import Truth
from fedlab.errors import DataError
from fedlab.report import AuditReport, build
from fedlab.report.proofs import merged, proofs

CELL = "none-train-s7"


def victim(client: int, *psnr: float | None, round: int = 1, **more: Any) -> dict[str, Any]:
    matched = tuple(None if value is None else index for index, value in enumerate(psnr))
    blank = tuple(None if value is None else 0.5 for value in psnr)
    return VictimScore(round, client, psnr, blank, blank, matched, None, len(psnr), **more).to_dict()


def scores(*values: float | None) -> dict[int, VictimScore]:
    return {client: VictimScore.from_dict(victim(client, value)) for client, value in enumerate(values)}


def add(
    run: Path,
    label: str,
    threat: ThreatModel,
    psnr: list[float | None],
    attack: str = "inverting-gradients",
    **more: Any,
) -> None:
    """Write what `attack` found under a threat, with the clients and the rounds of its base answers."""
    base = json.loads((run / "attacks" / CELL / f"{attack}.json").read_text())
    places = [(one["round"], one["client"]) for one in base["victims"]]
    found = [victim(client, value, round=at) for (at, client), value in zip(places, psnr, strict=False)]
    data = base | {"threat_label": label, "threat": asdict(threat), "victims": found} | more
    (run / "attacks" / CELL / f"{attack}@{label}.json").write_text(json.dumps(data))


def base_of(run: Path, attack: str = "inverting-gradients") -> list[float]:
    data = json.loads((run / "attacks" / CELL / f"{attack}.json").read_text())
    return [one["psnr"][0] for one in data["victims"]]


def table(report: AuditReport) -> dict[str, dict[str, Any]]:
    (group,) = report.data["knowledge"]
    return {row["threat_label"]: row for row in group["rows"]}


def test_without_other_threats_nothing_is_said_of_them(report: AuditReport) -> None:
    assert report.data["knowledge"] == [] and "What knowledge is worth" not in report.html.read_text()
    assert {row["threat_label"] for row in report.data["attacks"]} == {""}


def test_a_pair_of_victims_counts_once_and_what_one_side_lacks_not_at_all() -> None:
    found = difference(scores(10.0, 20.0, None, 7.0), scores(7.0, 17.0, 5.0, None))
    assert found is not None
    assert (found.mean, found.ci95, found.victims, found.paired) == (3.0, (3.0, 3.0), 2, True)
    assert difference(scores(None), scores(1.0)) is None and difference({}, scores(1.0)) is None
    one = difference(scores(10.0), scores(7.0))
    assert one is not None and one.ci95 is None, "one victim has no interval"


def test_pairs_are_told_apart_where_victims_differ_more_than_attackers() -> None:
    """Victims spread over 40 dB, the attackers by 1 dB: only the paired interval excludes 0."""
    base = scores(*range(0, 40, 4))
    mine = scores(*(value + 1.0 + 0.1 * (-1) ** i for i, value in enumerate(range(0, 40, 4))))
    paired, loose = difference(mine, base), difference(mine, base, paired=False)
    assert paired is not None and paired.ci95 is not None and paired.ci95[0] > 0.9
    assert loose is not None and loose.ci95 is not None and loose.ci95[0] < 0 < loose.ci95[1]
    assert abs(paired.mean - loose.mean) < 1e-9 and not loose.paired


def test_above_the_ceiling_nothing_is_gained() -> None:
    found = difference(scores(150.0, 61.0), scores(120.0, 60.0), ceiling=60.0)
    assert found is not None and (found.mean, found.ci95) == (0.0, (0.0, 0.0))


def test_each_threat_has_a_row_beside_the_runs_own(run_dir: Path) -> None:
    base = base_of(run_dir)
    add(run_dir, "oracle", ThreatModel(labels=True, dropout_masks=True), [x + 12.0 for x in base])
    add(run_dir, "blind", ThreatModel(batch_size=False), [x - 0.5 for x in base])
    add(run_dir, "same", ThreatModel(momentum=False), list(base))
    add(run_dir, "denied", ThreatModel(learning_rate=False), [], error="needs learning_rate", chosen=8)
    add(run_dir, "crash", ThreatModel(local_steps=False), [], error="boom", failed=True, chosen=8)
    report = build(run_dir)
    rows = table(report)
    assert next(iter(rows)) == "" and rows[""]["difference"] is None
    assert rows["oracle"]["what"] == (
        "Also knows the labels of the batch and which units dropout switched off"
    )
    assert abs(rows["oracle"]["difference"] - 12.0) < 1e-9 and rows["oracle"]["paired"]
    assert rows["oracle"]["worth"] == "this attacker gets more"
    assert rows["blind"]["worth"] == "this attacker gets slightly less"
    assert rows["same"]["worth"] == "no difference" and rows["same"]["difference"] == 0.0
    assert rows["denied"]["worth"] == "not tested: needs learning_rate" and rows["denied"]["victims"] == 8
    assert rows["crash"]["worth"] == "not tested: the attack failed" and rows["crash"]["error"] == "boom"
    text = report.html.read_text()
    assert "What knowledge is worth" in text and "+12.0" in text and "the run's own attacker" in text
    assert any("under the threat crash" in limit for limit in report.data["limits"])


def test_the_verdict_is_about_the_runs_own_attacker(report: AuditReport, run_dir: Path) -> None:
    add(run_dir, "oracle", ThreatModel(labels=True), [90.0] * 8)
    found = build(run_dir).data
    assert found["verdict"] == report.data["verdict"]
    (told,) = [text for text in found["limits"] if "got further" in text]
    assert "inverting-gradients on none under oracle (near-identical)" in told
    before = [row for row in found["attacks"] if not row["threat_label"]]
    assert before == report.data["attacks"], "base rows are as they were"


REFUSED = "the client did not answer: refused to train: a.weight looks odd: 100 of 100 rows; b.weight too"


def refuse(run: Path, label: str, threat: ThreatModel) -> None:
    """Clients refuse what a malicious server sends; of eight one breaks down instead."""
    add(run, label, threat, [None] * 8, server="malicious")
    path = run / "attacks" / CELL / f"inverting-gradients@{label}.json"
    data = json.loads(path.read_text())
    for number, one in enumerate(data["victims"]):
        one["refusal"] = REFUSED if number else "the client did not answer: out of memory"
    path.write_text(json.dumps(data))


def test_what_clients_refused_is_told_on_the_card_of_their_defense(run_dir: Path) -> None:
    refuse(run_dir, "trickster", ThreatModel(server="malicious"))
    report = build(run_dir)
    (row,) = [one for one in report.data["attacks"] if one["threat_label"] == "trickster"]
    assert (row["clients_refused"]["updates"], row["reading"], row["images"]) == (7, "clients refused", 0)
    cards = {one["defense"]: one["leakage"] for one in report.data["verdict"]["findings"]}
    told = "Clients refused the altered model of inverting-gradients (threat trickster) in 7 of 8 updates"
    assert f"{told}: a.weight looks odd: 100 of 100 rows." in cards["none"]
    assert all("Clients refused" not in text for defense, text in cards.items() if defense != "none")
    worth = table(report)["trickster"]["worth"]
    assert worth == "nothing: clients refused the altered model: a.weight looks odd: 100 of 100 rows"


def test_an_attack_without_any_answer_is_a_sentence_and_no_table(run_dir: Path) -> None:
    path = run_dir / "attacks" / CELL / "inverting-gradients.json"
    data = json.loads(path.read_text())
    needs = "needs sums; grant them"
    path.write_text(json.dumps(data | {"victims": [], "control": [], "error": needs, "chosen": 8}))
    add(run_dir, "sums", ThreatModel(sums=True), [], error=needs, chosen=8)
    add(run_dir, "blind", ThreatModel(batch_size=False), [], error="needs batch_size", chosen=8)
    report = build(run_dir)
    text = report.html.read_text()
    assert (
        "inverting-gradients on none: not tested: needs sums (as assumed and sums);"
        " not tested: needs batch_size (blind)." in text
    )
    section = text[text.index('id="knowledge"') : text.index("Without an answer")]
    assert "<table" not in section and section.count("Does not know the batch size") == 1


def test_a_threat_in_two_modes_is_one_paragraph(tmp_path: Path) -> None:
    (text,) = build(write_run(tmp_path / "run", modes=("train", "eval"))).data["threat_models"]["tested"]
    assert "Clients in training mode and inference mode." in text


def test_a_row_that_refused_itself_and_one_that_was_refused_count_the_same_images(run_dir: Path) -> None:
    add(run_dir, "itself", ThreatModel(), [None] * 8)
    path = run_dir / "attacks" / CELL / "inverting-gradients@itself.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"victims": [one | {"refusal": "no"} for one in data["victims"]]}))
    add(run_dir, "denied", ThreatModel(learning_rate=False), [], error="needs it", chosen=8)
    rows = [one for one in build(run_dir).data["attacks"] if one["threat_label"]]
    assert [(one["images"], one["victims"], one["refused"]) for one in rows] == [(0, 8, 8), (0, 8, 8)]


def test_the_headline_says_by_what_it_ranks_where_another_median_is_larger(run_dir: Path) -> None:
    for path in (run_dir / "attacks").glob("*/*.json"):
        data = json.loads(path.read_text())
        psnr, base = (7.0, 4.0) if path.stem == "inverting-gradients" else (8.0, 7.5)
        for kind, value in (("victims", psnr), ("control", base)):
            for one in data[kind]:
                one["psnr"] = [value if score is not None else None for score in one["psnr"]]
        path.write_text(json.dumps(data))
    headline = build(run_dir).data["verdict"]["headline"]
    assert "The strongest was inverting-gradients" in headline
    assert "ranked by how far they get beyond their control; the highest median is" in headline
    assert "8.0 dB, control 7.5 dB." in headline


def test_a_sum_is_no_pair_of_one_of_its_clients(run_dir: Path) -> None:
    base = json.loads((run_dir / "attacks" / CELL / "inverting-gradients.json").read_text())["victims"][0]
    summed = [victim(base["client"], 9.0, 8.0, 7.0, round=base["round"])]
    add(run_dir, "sums", ThreatModel(sums=True), [], chosen=1)
    path = run_dir / "attacks" / CELL / "inverting-gradients@sums.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"victims": summed}))
    report = build(run_dir)
    row = table(report)["sums"]
    assert row["what"] == "Sees only the sum of a round's updates" and row["paired"] is False
    assert (row["victims"], row["images"], row["difference_ci95"]) == (1, 3, None)


def test_what_is_tested_is_no_longer_said_to_be_untested(report: AuditReport, run_dir: Path) -> None:
    topics = ("Secure aggregation", "malicious server", "similar data of its own")

    def untested(data: dict[str, Any]) -> list[bool]:
        texts = data["threat_models"]["not_tested"]
        return [any(topic in text for text in texts) for topic in topics]

    assert untested(report.data) == [True, True, True]
    base = list(base_of(run_dir))
    add(run_dir, "a", ThreatModel(sums=True), list(base))
    add(run_dir, "b", ThreatModel(proxy_data=True), list(base))
    add(run_dir, "c", ThreatModel(server="malicious"), list(base))
    assert untested(build(run_dir).data) == [False, True, False], "a curious attack tests no malicious server"
    add(run_dir, "c", ThreatModel(server="malicious"), list(base), server="malicious")
    found = build(run_dir).data
    assert untested(found) == [False, False, False]
    tested = " ".join(found["threat_models"]["tested"])
    for words in ("the sum of each round's updates", "Malicious server", "data of the same kind", "momentum"):
        assert words in tested


def test_a_threat_that_older_runs_did_not_know_of_is_not_said_to_be_unknown(run_dir: Path) -> None:
    for path in (run_dir / "attacks").rglob("*.json"):
        data = json.loads(path.read_text())
        for piece in ("momentum", "dropout_masks", "proxy_data", "server", "sums"):
            del data["threat"][piece]
        path.write_text(json.dumps(data))
    texts = build(run_dir).data["threat_models"]["tested"]
    assert all("momentum" not in text and "same kind" not in text for text in texts)


def test_a_finished_run_must_have_the_answers_under_its_threats(run_dir: Path) -> None:
    scenario = run_dir / "scenario.toml"
    scenario.write_text(scenario.read_text() + '[[threats]]\nlabel = "blind"\nbatch_size = false\n')
    with pytest.raises(DataError, match=r"linear-layer@blind\.json is missing"):
        build(run_dir)


def certificates(*verdicts: Certificate) -> VictimScore:
    return VictimScore.from_dict(victim(0, 50.0, certificates=tuple(one.to_dict() for one in verdicts)))


def test_certificates_are_summed_up_in_words_and_kept_in_figures() -> None:
    unique = Certificate(
        "linear layer", "unique", solved="the record", rank=1, unknowns=1, condition=1.0, residual=1e-7
    )
    open_ = Certificate("linear layer", "not unique", rank=28, unknowns=64, null_space=36)
    none = Certificate.refused("sparse batch", "the layer is no ReLU layer")
    linear, sparse = proofs(
        [certificates(unique, none), certificates(unique, none), certificates(open_, none)]
    )
    assert (
        linear["text"] == "unique in 2 of 3 updates; not unique in 1 of 3 updates: null space of dimension 36"
    )
    assert (linear["unique"], linear["not_unique"], linear["not_applicable"]) == (2, 1, 0)
    assert (linear["rank"], linear["unknowns"], linear["condition"]) == ([1, 28], [1, 64], [1, 1])
    assert sparse["text"] == "not applicable in 3 of 3 updates because the layer is no ReLU layer"
    assert proofs([certificates()]) == []


def test_reasons_that_differ_in_figures_alone_are_told_once() -> None:
    assert merged(
        ["proven: 1 of 8 records, confirmed: 1", "proven: 2 of 8 records, confirmed: 1", "conv.0.weight"]
    ) == ["proven: 1 to 2 of 8 records, confirmed: 1", "conv.0.weight"]
    assert merged(["residual 5.0e-01, rank 9", "residual 4.6e-01, rank 10"]) == [
        "residual 4.6e-01 to 5.0e-01, rank 9 to 10"
    ]
    assert merged(["layer.1", "layer.2"]) == ["layer.1", "layer.2"], "names are no figures"
    assert merged(["{} of 2", "{} of 3"]) == ["{} of 2 to 3"], "braces of a plugin's own"


def test_a_score_keeps_certificates_and_reads_them_again(run_dir: Path, report: AuditReport) -> None:
    truth = Truth(1, 2, (3,), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64))
    proof = Certificate("linear layer", "unique", solved="the record", condition=float("inf"))
    found = score(Reconstruction(images=torch.zeros(1, 1, 4, 4), certificates=(proof,)), truth)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert VictimScore.from_dict(data) == found and data["certificates"][0]["condition"] is None
    path = run_dir / "attacks" / CELL / "linear-layer.json"
    whole = json.loads(path.read_text())
    whole["victims"] = [one | {"certificates": data["certificates"]} for one in whole["victims"]]
    path.write_text(json.dumps(whole))
    text = build(run_dir).html.read_text()
    assert "linear layer: unique in 8 of 8 updates" in text and 'class="proof"' in text
    assert 'class="proof"' not in report.html.read_text()
