"""The section on what was tried on an app, from a hand-made run."""

from __future__ import annotations

import csv
import io
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from fedlab.errors import DataError
from fedlab.report import AuditReport, build
from fedlab.report.export import exported
from fedlab.report.tried import _finding
from fedlab.report.tried_words import headline, price, sentence

SAMPLE = json.loads((Path(__file__).parent / "data" / "tried.json").read_text())["tried"]
APP = {
    "schema": 1,
    "name": "quickstart",
    "supernodes": 10,
    "rounds": 3,
    "observed": [1],
    "configuration": {},
    "replies": 10,
    "failed": 0,
    "failure": "",
    "metrics": {},
    "facts": [],
    "obstacles": [],
    "output": [],
}
NASTY = "<script>alert(1)</script>\n```\n# evil()"


def entry(label: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    where = {"client": "app/client_app.py", "server": "app/server_app.py"}
    plain = {
        "label": label,
        "name": name or label,
        "params": {},
        "status": "tried",
        "why": "",
        "where": where,
    }
    return {**plain, **more}


NO_BIAS = deepcopy(next(one for one in SAMPLE if one["label"] == "no-bias")) | {"label": "no-first-bias"}
TRIES = [
    entry("dp-sgd", params={"noise_multiplier": 1.0}, acts="clients' steps", notes=["a clip is left out"]),
    NO_BIAS,
    entry("soteria", status="failed", why="no layer fc9\nexpected: fc1", acts="clients' steps"),
]


def tell(directory: Path, tries: list[dict[str, Any]]) -> AuditReport:
    (directory / "app.json").write_text(json.dumps({**APP, "tried": tries}))
    return build(directory)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return tell(write_run(tmp_path_factory.mktemp("tried") / "run"), TRIES)


def test_nothing_tried_no_section(run_dir: Path) -> None:
    assert build(run_dir).data["tried"] is None
    report = tell(run_dir, [])
    assert report.data["tried"] is None and 'id="tried"' not in report.html.read_text()
    assert "What was tried" not in exported(report, "md")


def test_a_row_per_try_and_one_for_the_app_as_it_is(told: AuditReport) -> None:
    """linear-layer takes 8 of 8 from undefended clients, and declines without the first bias, where
    dropout-inversion still takes all; under dp-sgd nothing is recovered."""
    rows = told.data["tried"]["rows"]
    assert [row["label"] for row in rows] == ["as it is", "dp-sgd", "no-first-bias", "soteria"]
    assert [row["finding"] for row in rows] == ["base", "shows", "same", "failed"]
    base, dp, bias, failed = rows
    leak = base["leak"]
    assert (leak["attack"], leak["recovered"], leak["images"]) == ("linear-layer", 8, 8)
    assert dp["leak"]["recovered"] == 0 and dp["leak"]["psnr_median"] < 20.0
    assert bias["leak"]["attack"] == "dropout-inversion"
    assert dp["accuracy_cost"] == pytest.approx(0.944 - 0.717)
    assert dp["accuracy_cost_ci95"][0] < dp["accuracy_cost"] < dp["accuracy_cost_ci95"][1]
    assert dp["guarantee"].startswith("ε = 7.85 at δ = 0.00001") and not base["guarantee"]
    assert base["labels"]["accuracy"] == 1.0 and dp["labels"]["accuracy"] < 1.0
    assert failed["leak"] is None and failed["why"].startswith("no layer fc9")


def test_the_headline_recommends_what_stops_it_with_its_price(told: AuditReport) -> None:
    text = told.data["tried"]["headline"]
    assert text.startswith("As it is, linear-layer recovers 8 of 8 images (median ")
    assert re.search(
        r"Under dp-sgd no image is recovered, though more shows than in the control; it costs 22\.7"
        r" percentage points of accuracy \(95 %: 1\d\.\d to 2\d\.\d\)\. no-first-bias does not stop it\."
        r" Nothing is known of soteria\.",
        text,
    )
    sentences = told.data["tried"]["sentences"]
    assert sentences[0].endswith(" Note: a clip is left out.")
    assert "0 of 8 images recovered (95 %: at most 37 %)" in sentences[0]  # 1 - 0.025^(1/8) = 0.369
    assert sentences[2] == "soteria could not be tried: no layer fc9\nexpected: fc1"


def test_only_for_what_helps_the_lines_are_shown(told: AuditReport) -> None:
    (change,) = told.data["tried"]["changes"]
    assert change["label"] == "dp-sgd" and "make_private(" in change["steps"][0]["code"]
    page = told.html.read_text()
    assert "PrivacyEngine().make_private(" in page and "fc9" in page and "a clip is left out" in page
    assert page.index('id="tried"') < page.index('id="scope"') and 'href="#tried"' in page


def test_other_documents_tell_it_too(told: AuditReport) -> None:
    text = exported(told, "md")
    assert "## What was tried on the app" in text and "```python\nfrom opacus import PrivacyEngine" in text
    lines = list(csv.DictReader(io.StringIO(exported(told, "csv", "tried"))))
    assert [line["label"] for line in lines] == ["as it is", "dp-sgd", "no-first-bias", "soteria"]
    assert float(lines[1]["leak.recovered"]) == 0.0
    assert json.loads(exported(told, "json"))["tried"]["rounds"] == 3


def test_the_sample_of_an_audit_reads(run_dir: Path) -> None:
    """Labels that the run has no cell for are not measured, and their lines not shown."""
    found = tell(run_dir, SAMPLE).data["tried"]
    assert [row["finding"] for row in found["rows"]][2:] == ["unknown"] * 4 + ["failed"]
    assert [one["label"] for one in found["changes"]] == ["dp-sgd"]


def test_text_of_an_app_is_text(tmp_path: Path) -> None:
    """Names, files and reasons may be anybody's: none becomes markup, nor a line of code."""
    tries = deepcopy(TRIES)
    tries[0]["where"] = {"client": NASTY, "server": NASTY}
    tries[0]["params"]["note"] = tries[2]["why"] = tries[2]["label"] = NASTY
    changed = tries[0]["network"] = deepcopy(NO_BIAS["network"])
    changed |= {"class": NASTY, "file": NASTY}
    changed["changes"] += [{"layer": NASTY, "before": NASTY, "after": NASTY}]
    changed["changes"] += [{"layer": "a", "before": "", "after": "__import__('os').system('ls')"}]
    tries[0]["config"] = {NASTY: [NASTY, NASTY]}
    report = tell(write_run(tmp_path / "run"), tries)
    page = report.html.read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    (change,) = report.data["tried"]["changes"]
    codes = [step["code"] for step in change["steps"] if step["language"] in ("python", "diff")]
    assert codes and not any("evil" in code or "import__" in code for code in codes)
    assert all("\n" not in step["file"] for step in change["steps"])
    fences = [line for line in exported(report, "md").splitlines() if line.startswith("```")]
    assert len(fences) % 2 == 0
    assert "\n# evil" not in re.sub(r"(?ms)^````toml.*?^````$", "", exported(report, "md"))


@pytest.mark.parametrize(
    "broken",
    [
        [{"label": "x"}],
        [entry("dp-sgd", params={"noise_multiplier": "many"})],
        [entry("dp-sgd", network={"changes": [{}]})],
        [entry("dp-sgd", config={"lr": 1})],
        ["dp-sgd"],
    ],
)
def test_a_damaged_list_is_named(run_dir: Path, broken: list[Any]) -> None:
    with pytest.raises(DataError, match=r"app\.json"):
        tell(run_dir, broken)


def row(label: str, finding: str, **more: Any) -> dict[str, Any]:
    leak = {"attack": "cascade", "recovered": 4, "images": 4, "psnr_median": 40.0, "control": 9.0,
            "certified": [], "fraction_ci95": [0.4, 1.0]}  # fmt: skip
    found = {"label": label, "finding": finding, "leak": leak, "unanswered": [], "labels": None, "why": "",
             "notes": [], "accuracy": 0.9, "accuracy_cost": 0.02, "accuracy_cost_ci95": None}  # fmt: skip
    return {**found, **more}


BASE = row("as it is", "base")


def test_what_stops_it_is_recommended_first() -> None:
    silent = row("a", "stops", accuracy_cost_ci95=[0.004, 0.036])
    text = headline([BASE, row("b", "same"), silent], 3, 10)
    assert text.endswith(
        "Of what was tried, a stops it and costs 2.0 percentage points of accuracy (95 %: 0.4 to 3.6)."
        " b does not stop it."
    )


RECOVERED = {
    "0 of 4": [0.0, 0.602],
    "2 of 4": [0.068, 0.932],
    "4 of 4": [0.398, 1.0],
    "8 of 128": [0.027, 0.119],
}
"""Exact binomial intervals."""


@pytest.mark.parametrize(
    ("level", "recovered", "finding"),
    [
        ("control", "0 of 4", "stops"),
        ("above", "0 of 4", "shows"),
        ("some", "8 of 128", "lessens"),
        ("some", "2 of 4", "same"),  # four images cannot tell that from four of four
        ("copy", "4 of 4", "same"),
    ],
)
def test_findings(level: str, recovered: str, finding: str) -> None:
    def measured(level: str, recovered: str) -> dict[str, Any]:
        leak = {"level": level, "fraction_ci95": RECOVERED[recovered]}
        return {"leak": leak, "unanswered": [], "labels": None}

    base = measured("copy", "4 of 4")
    assert _finding(measured(level, recovered), base) == finding
    assert _finding(measured(level, recovered), measured("above", "0 of 4")) == "idle"
    for state, come in (("refused", "declined"), ("failed", "unknown"), ("unattacked", "unknown")):
        assert _finding({"leak": None, "unanswered": [{"level": state}]}, base) == come
    assert _finding({"leak": None, "unanswered": []}, base) == "unknown"


def test_nothing_is_stopped_while_an_attack_broke_down_or_labels_leak() -> None:
    """The attack that broke down may be the one that took the images; labels count as much as images."""
    leak = {"level": "control", "fraction_ci95": [0.0, 0.602]}
    base = {"leak": {"level": "copy", "fraction_ci95": [0.398, 1.0]}, "unanswered": []}
    quiet = {"leak": leak, "unanswered": [], "labels": None}
    assert _finding(quiet, base) == "stops"
    assert _finding(quiet | {"unanswered": [{"level": "failed"}]}, base) == "unknown"
    assert _finding(quiet | {"unanswered": [{"level": "refused"}]}, base) == "stops"
    told = {"accuracy": 0.98, "accuracy_ci95": [0.95, 1.0], "control": 0.4}
    assert _finding(quiet | {"labels": told}, base) == "shows"
    assert _finding(quiet | {"labels": told | {"accuracy_ci95": [0.3, 1.0]}}, base) == "stops"


def test_what_nothing_stops_is_said() -> None:
    text = headline([BASE, row("a", "same"), row("b", "same"), row("c", "lessens")], 3, 10)
    assert "Nothing of what was tried stops it. c leaks less. a and b do not stop it." in text


def test_an_attack_that_declines_proves_nothing() -> None:
    silent = {"attack": "x", "level": "refused", "why": "no bias"}
    declined = row("a", "declined", leak=None, unanswered=[silent])
    text = headline([BASE, declined], 3, 10)
    assert "Under a no attack of this run applies any more, which is no proof against others." in text
    words = "a: no attack that applies answered with an image (x: no bias)."
    assert sentence(declined, BASE).startswith(words)


def test_where_nothing_leaked_there_was_nothing_to_stop() -> None:
    leak = BASE["leak"] | {"recovered": 0, "psnr_median": 10.0}
    text = headline([BASE | {"leak": leak}, row("a", "idle", leak=leak)], 3, 10)
    assert "gave no image away to these attacks" in text and "nothing for a try to stop" in text
    assert headline([BASE | {"leak": None}, row("a", "unknown")], 3, 10).startswith("No attack answered")


@pytest.mark.parametrize(
    ("accuracy", "bounds", "words"),
    [
        (
            0.15,
            None,
            "Prices say little here: after 1 round the app as it is has an accuracy of 15.0 %, near chance",
        ),
        (0.15, [0.0, 0.1], "near chance. Give it more rounds (--rounds)."),
        (0.9, None, "Prices are those of one run, after 1 round, without intervals."),
        (0.9, [0.0, 0.1], "a does not stop it."),
        (None, None, "a does not stop it."),
    ],
)
def test_how_far_prices_are_to_be_trusted(
    accuracy: float | None, bounds: list[float] | None, words: str
) -> None:
    cost = None if accuracy is None else 0.02
    one = row("a", "same", accuracy_cost=cost, accuracy_cost_ci95=bounds)
    text = headline([BASE | {"accuracy": accuracy}, one], 1, 10)
    assert words in text and (words[0] == "P" or text.endswith(words))


def test_why_nothing_is_proved_is_told_where_guarantees_are(run_dir: Path) -> None:
    """And never takes the place of an ε that an accountant gave."""
    why = "no formal guarantee: clients also send <b>"
    tries = [entry("dp-sgd", guarantee=why), entry("no-first-bias", "architecture", guarantee=why)]
    rows = {row["defense"]: row for row in tell(run_dir, tries).data["guarantees"]}
    assert rows["no-first-bias"]["reason"] == "clients also send <b>"
    assert rows["dp-sgd"]["epsilon"] == 7.8412 and rows["dp-sgd"]["reason"] is None
    page = (run_dir / "report.html").read_text()
    assert "clients also send &lt;b&gt;" in page and "send <b>" not in page


def test_facts_and_mechanisms_have_a_meaning_for_everybody(run_dir: Path) -> None:
    facts = [
        {"name": "loss", "value": "v", "source": "s", "sure": "recorded"},
        {"name": "x<y", "value": "v", "source": "s", "sure": "recorded"},
        {"name": "input", "value": "v", "source": "s", "sure": "checked"},
    ]
    (run_dir / "app.json").write_text(json.dumps({**APP, "facts": facts}))
    report = build(run_dir)
    app = report.data["app"]
    assert app["sureness"] == "3 facts: 1 checked and 2 recorded; none assumed."
    assert [bool(one["meaning"]) for one in app["facts"]] == [True, False, True]
    assert "what training makes small" in report.html.read_text()


def test_the_verdict_is_about_the_app_as_it_is(run_dir: Path) -> None:
    """And not about a try that leaks still, be it more."""
    for one in sorted((run_dir / "attacks").glob("none-*/*.json")):
        found = json.loads(one.read_text())
        found["victims"] = found["control"]
        one.write_text(json.dumps(found))
    assert "clients under no-first-bias" in build(run_dir).data["verdict"]["headline"]
    found = tell(run_dir, TRIES).data
    assert "undefended clients" in found["verdict"]["headline"]
    assert found["tried"]["headline"].startswith("As it is, the app gave no image away")


@pytest.mark.parametrize(
    ("cost", "bounds", "words"),
    [
        (0.02, [0.004, 0.036], "costs 2.0 percentage points of accuracy (95 %: 0.4 to 3.6)"),
        (-0.02, [-0.036, -0.004], "gains 2.0 percentage points of accuracy (95 %: 0.4 to 3.6)"),
        (0.02, None, "costs 2.0 percentage points of accuracy"),
        (None, None, "has an unknown price, because accuracy was not measured"),
    ],
)
def test_prices(cost: float | None, bounds: list[float] | None, words: str) -> None:
    assert price(row("a", "stops", accuracy_cost=cost, accuracy_cost_ci95=bounds)) == words


def test_the_terminal_shows_them_side_by_side(told: AuditReport, capsys: pytest.CaptureFixture[str]) -> None:
    from fedlab.cli.output import stdout
    from fedlab.cli.tried import tried

    assert tried({"tried": None}) is None
    stdout().print(tried(told.data))
    text = capsys.readouterr().out
    assert re.search(r"dp-sgd +no image, yet above control +0 of 8", text) and "stand in the report" in text
    assert "soteria could not be tried: no layer fc9\n" in text
