"""The privacy budget: training stops before the round that would exceed it, and nothing goes past that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fedlab_defenses.privacy.distributed_dp import DistributedDP
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.user_dp import UserDP
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from typer.testing import CliRunner

import fedlab
from fedlab.audit import Defense
from fedlab.audit.stack import Stack
from fedlab.cli.app import app
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.errors import BudgetExhausted, ScenarioError
from fedlab.experiment import budget as budgets
from fedlab.experiment.budget import Budget, Overspent
from fedlab.experiment.charging import Charges
from fedlab.experiment.planned import Plan
from fedlab.privacy import Event, Ledger, epsilon_of
from fedlab.privacy.ledger import Journal
from fedlab.report import AuditReport
from fedlab.runtime import SimulationGrid
from tests.experiment import crashes
from tests.experiment.test_resume import manifest, stop_at
from tests.runtime.apps import adding_app

DP = {"name": "dp-sgd", "noise_multiplier": 4.0, "max_grad_norm": 0.1}
USER = {"name": "user-dp", "noise_multiplier": 4.0}


@pytest.fixture(autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


def scenario(defense: dict[str, Any], budget: float, **strategy: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": 3,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1}},
        "clients": {"count": 4, "batch_size": 0, "local_steps": 1, "partition": "iid"},
        "strategy": {"rounds": 12, "cohort": 4, "aggregator": "mean", **strategy},
        "runtime": {"executor": "inline"},
        "checkpoint": {"every": 2},
        "audit": {"rounds": [1], "victims": 2},
        "attacks": [{"name": "linear-layer"}],
        "defenses": [defense],
        "privacy": {"budget": budget, "check": False},
    }


def stopped(settings: dict[str, Any], out: Path) -> tuple[BudgetExhausted, dict[str, Any], dict[str, Any]]:
    """The error, the cell's metrics, and its guarantee."""
    with pytest.raises(BudgetExhausted) as error:
        fedlab.run(settings, out=out)
    (metrics,) = json.loads((out / "metrics.json").read_text())["cells"].values()
    (file,) = [path for path in (out / "privacy").glob("*-s3.json")]
    return error.value, metrics, json.loads(file.read_text())


@pytest.mark.parametrize(
    ("defense", "strategy"),
    [
        (DP, {}),
        (USER, {}),
        ({"name": "dp-ftrl", "noise_multiplier": 6.0}, {}),
        ({"name": "stack", "of": [DP, USER]}, {}),
        (DP, {"rounds": 30, "cohort": 2, "name": "fedbuff", "options": {"concurrency": 3}}),
        (USER, {"rounds": 30, "cohort": 2, "name": "fedbuff", "options": {"concurrency": 3}}),
    ],
)
def test_nobody_exceeds_the_budget_and_the_run_ends_well(
    tmp_path: Path, defense: dict[str, Any], strategy: dict[str, Any]
) -> None:
    out, limit = tmp_path / "run", 3.6
    error, metrics, guarantee = stopped(scenario(defense, limit, **strategy), out)
    facts = metrics["budget"]
    every = [guarantee, *guarantee["beside"]]
    most = max(spent for one in every for spent in one["per_client"].values())
    assert most <= limit < facts["next"] and facts["spent"] == pytest.approx(most)
    assert error.exit_code == 7 and isinstance(error.report, AuditReport)
    for told in (
        f"client {facts['client']} stands",
        f"round {facts['round']} would",
        "budget is 3.6",
        "resum",
    ):
        assert told in str(error)
    assert manifest(out)["status"] == "finished"
    assert (out / "report.json").exists() and list((out / "attacks").rglob("linear-layer.json"))
    assert fedlab.resume(out).data["run"]["status"] == "finished"
    assert json.loads((out / "metrics.json").read_text())["cells"].popitem()[1]["budget"] == facts


def test_the_round_at_which_it_stops_is_the_first_that_would_exceed_it(tmp_path: Path) -> None:
    """Counted by hand: a full batch of noise 4 in each round costs sqrt(t) / 4 in all."""
    _, metrics, guarantee = stopped(scenario(USER, 3.6), tmp_path / "run")
    fits = max(t for t in range(1, 13) if epsilon_of({(4.0, 1.0): t}, 1e-5).epsilon <= 3.6)
    assert 1 < fits < 12 and guarantee["rounds"] == fits and metrics["budget"]["round"] == fits + 1
    assert guarantee["course"][-1] == [fits, guarantee["epsilon"]]


def test_a_budget_that_is_enough_changes_nothing(tmp_path: Path) -> None:
    settings = scenario(DP, 50.0)
    fedlab.run(settings, out=tmp_path / "with")
    del settings["privacy"]["budget"]
    fedlab.run(settings, out=tmp_path / "without")
    assert manifest(tmp_path / "with")["weights_sha256"] == manifest(tmp_path / "without")["weights_sha256"]


def test_a_run_that_is_killed_stops_at_the_same_round_when_it_is_resumed(tmp_path: Path) -> None:
    """At any moment: replayed rounds neither count twice, nor does the budget begin anew."""
    settings = scenario(USER, 2.4) | {"attacks": []}
    whole, out = tmp_path / "whole", tmp_path / "run"
    stopped(settings, whole)

    def run() -> None:
        with pytest.raises(BudgetExhausted):
            fedlab.run(settings, out=out)

    copies = [one for one in crashes.moments(run, out, tmp_path) if (one / "manifest.json").exists()]
    assert len(copies) > 20
    for copy in copies[::7]:
        if manifest(copy)["status"] != "finished":
            with pytest.raises(BudgetExhausted, match="would bring it"):
                fedlab.resume(copy)
        assert crashes.result(copy) == crashes.result(whole)
        shutil.rmtree(copy)


def test_with_noise_from_the_system_the_rounds_that_are_run_again_are_charged_again(tmp_path: Path) -> None:
    """Stopped in round 3, resumed from round 2's checkpoint: round 3 was released twice, so that a round less
    fits into the budget."""
    settings = scenario(USER, 3.6) | {"attacks": []}
    settings["privacy"]["secure_rng"] = True
    _, usual, _ = stopped(settings, tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(fedlab.errors.Interrupted):
        fedlab.run(settings, out=out, progress=stop_at("train user-dp", 3, times=2))
    with pytest.raises(BudgetExhausted):
        fedlab.resume(out)
    (metrics,) = json.loads((out / "metrics.json").read_text())["cells"].values()
    guarantee = json.loads((out / "privacy/user-dp-train-s3.json").read_text())
    assert guarantee["attempts"] == 2 and "operating system" in guarantee["noise"]
    assert metrics["budget"]["round"] == usual["budget"]["round"] - 1
    assert metrics["budget"]["spent"] == usual["budget"]["spent"]


def weighed(path: Path, limit: float, sigma: float = 1.0) -> tuple[Budget, Journal]:
    federation = Federation(records=[100, 10], rounds=50, config=ClientConfig(batch_size=10), cohort=2)
    defense = DPSGD(noise_multiplier=sigma)
    rule = defense.local_rule(LocalRule(), federation)
    journal = Journal(path)
    plan = Plan(rule, ClientConfig(batch_size=10, local_steps=1, sampling="poisson"), federation.records)
    return Budget(limit, defense, journal, plan, federation), journal


def ask(client: int, round: int) -> Message:
    SimulationGrid(adding_app(), 1)  # so that messages can be made
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"server-round": round})})
    return Message(content, dst_node_id=client + 2, message_type="train")


def test_only_those_who_are_asked_are_weighed(tmp_path: Path) -> None:
    """Client 1 has 10 records, all of them in each batch: it costs more, and is not asked at first."""
    budget, journal = weighed(tmp_path / "journal", 6.0)
    for number in range(1, 4):
        budget.asks([ask(0, number)])
        journal.add(Event(0, number, 1.0, 0.1, 1))
    budget.asks([ask(1, 4)])
    journal.add(Event(1, 4, 1.0, 1.0, 1))
    with pytest.raises(Overspent) as refused:
        budget.asks([ask(0, 5), ask(1, 5)])
    why = refused.value.why
    assert (why.client, why.round) == (1, 5)
    assert why.spent == epsilon_of({(1.0, 1.0): 1}, 1e-5).epsilon
    assert why.next == epsilon_of({(1.0, 1.0): 2}, 1e-5).epsilon
    budget.asks([ask(0, 5)])


def test_a_client_is_weighed_again_when_the_rounds_are_over_that_were_weighed_in_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops where weighing every round would: the number of looks is logarithmic."""
    looks = 0
    real = Budget.epsilon

    def counted(self: Budget, *arguments: Any) -> tuple[float, float]:
        nonlocal looks
        looks += 1
        return real(self, *arguments)

    monkeypatch.setattr(Budget, "epsilon", counted)
    budget, journal = weighed(tmp_path / "journal", 2.2)
    fits = next(t for t in range(1, 50) if epsilon_of({(1.0, 0.1): t + 1}, 1e-5).epsilon > 2.2)
    for number in range(1, fits + 1):
        budget.asks([ask(0, number)])
        journal.add(Event(0, number, 1.0, 0.1, 1))
    with pytest.raises(Overspent):
        budget.asks([ask(0, fits + 1)])
    assert looks < 20


def test_a_client_that_spent_more_than_planned_is_weighed_at_once(tmp_path: Path) -> None:
    budget, journal = weighed(tmp_path / "journal", 6.0)
    budget.asks([ask(0, 1)])
    journal.add(Event(0, 1, 0.0, 0.1, 1, amiss="the noise was not as strong as configured"))
    with pytest.raises(Overspent):
        budget.asks([ask(0, 2)])


def test_what_the_journal_holds_costs_nothing_again(tmp_path: Path) -> None:
    budget, journal = weighed(tmp_path / "journal", 1e-3)
    journal.add(Event(0, 1, 1.0, 0.1, 1))
    budget.asks([ask(0, 1)])  # a replay
    with pytest.raises(Overspent):
        budget.asks([ask(0, 2)])


def distributed(path: Path, limit: float) -> tuple[Budget, Journal, DistributedDP, Federation]:
    """A sum of up to 4 updates, opened with 2: with all of them its noise is sqrt(2) times as strong."""
    federation = Federation(records=(10,) * 4, rounds=50, config=ClientConfig(), cohort=4)
    defense = DistributedDP(noise_multiplier=4.0, survivors=2)
    journal = Journal(path)
    plan = Plan(defense.local_rule(LocalRule(), federation), federation.config, federation.records)
    return Budget(limit, defense, journal, plan, federation), journal, defense, federation


def cost(defense: DistributedDP, federation: Federation, *answered: int) -> float:
    """ε of client 0 over rounds in which so many answered."""
    events = [
        event
        for number, count in enumerate(answered, 1)
        for event in defense.charge(range(count), number, federation)
        if event.client == 0
    ]
    return defense.spent(Ledger(events))[0]


def test_a_sum_is_weighed_with_the_noise_of_the_fewest_that_it_may_be_opened_with(tmp_path: Path) -> None:
    _, _, defense, federation = distributed(tmp_path / "none", 1.0)
    limit = (cost(defense, federation, 4, 4) + cost(defense, federation, 4, 2)) / 2
    budget, journal, _, _ = distributed(tmp_path / "journal", limit)
    budget.asks([ask(client, 1) for client in range(4)])
    for event in defense.charge(range(4), 1, federation):
        journal.add(event)
    budget.asks([ask(client, 1) for client in range(4)])  # a replay, which had more noise than the least
    with pytest.raises(Overspent) as refused:  # though it would fit if all answered again
        budget.asks([ask(client, 2) for client in range(4)])
    assert refused.value.why.next == cost(defense, federation, 4, 2)


class Fainter(DistributedDP):
    """Says of a sum of several that it has half of the noise that each was told of."""

    def charge(self, clients: Sequence[int], round: int, federation: Federation) -> list[Event]:
        share = 1.0 if len(clients) == 1 else 0.5
        return [
            replace(one, noise_multiplier=share * one.noise_multiplier)
            for one in super().charge(clients, round, federation)
        ]


@pytest.mark.parametrize("kind", [DistributedDP, Fainter])
def test_what_clients_released_is_noted_before_the_budget_stops_anything(
    tmp_path: Path, kind: type[DistributedDP]
) -> None:
    _, _, plain, federation = distributed(tmp_path / "none", 1.0)
    budget, journal, _, _ = distributed(tmp_path / "journal", cost(plain, federation, 2))
    defense = budget.defense = kind(noise_multiplier=4.0, survivors=2)
    charges = Charges(defense, journal, federation, budget)
    budget.asks([ask(client, 1) for client in range(4)])
    if kind is Fainter:
        with pytest.raises(Overspent, match=r"is overspent: .* less noise than they were asked for") as stop:
            charges.charge([client + 2 for client in range(3)], 1)
        assert stop.value.why.spent > budget.limit
    else:
        charges.charge([client + 2 for client in range(3)], 1)
    assert Journal(journal.path).events == defense.charge(range(3), 1, federation)


def test_noise_at_the_server_that_is_never_added_is_not_noted(tmp_path: Path) -> None:
    _, journal, _, federation = distributed(tmp_path / "journal", 1.0)
    defense = UserDP(noise_multiplier=0.1)
    plan = Plan(LocalRule(), federation.config, federation.records)
    budget = Budget(1.0, defense, journal, plan, federation, cohorts=False)
    charges = Charges(defense, journal, federation, budget)
    with pytest.raises(Overspent, match="would bring it"):
        charges.charge([2, 3], 1)
    assert not journal.events


def test_with_clients_that_drop_out_a_sum_stays_within_the_budget(tmp_path: Path) -> None:
    defense = {"name": "distributed-dp", "noise_multiplier": 4.0, "survivors": 2}
    settings = scenario(defense, 2.0) | {"attacks": []}
    settings["devices"] = {"dropout": 0.3}
    _, metrics, guarantee = stopped(settings, tmp_path / "run")
    spent = max(guarantee["per_client"].values())
    assert spent <= 2.0 < metrics["budget"]["next"] and metrics["budget"]["spent"] == pytest.approx(spent)
    lines = (tmp_path / "run/privacy/distributed-dp-train-s3.journal.jsonl").read_text().splitlines()
    assert len({json.loads(line)["noise_multiplier"] for line in lines}) > 1  # it did matter who answered


def test_a_budget_that_nothing_is_spent_against_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"privacy\.budget: got 4, but no defense adds noise"):
        fedlab.run(scenario({"name": "none"}, 4.0), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("defense", [DP, {"name": "stack", "of": [{"name": "none"}, USER]}])
def test_a_budget_below_the_cost_of_a_round_is_a_mistake(defense: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"privacy\.budget: got 0\.1; the first round with .* may cost"):
        fedlab.run(scenario(defense, 0.1), out=tmp_path / "run")
    text = tmp_path / "one.toml"
    text.write_text(
        'schema = 1\n[task]\ndataset = "digits"\nmodel = "mlp"\n[privacy]\nbudget = 0.1\n[[defenses]]\n'
        'name = "dp-sgd"\nnoise_multiplier = 0.7\n'
    )
    found = CliRunner().invoke(app, ["validate", str(text), "--json"])
    assert found.exit_code == 2 and "privacy.budget" in found.stdout and "may cost" in found.stdout


def test_the_command_shows_the_report_and_exits_with_7(tmp_path: Path) -> None:
    text = tmp_path / "one.toml"
    text.write_text(
        'schema = 1\n[task]\ndataset = "digits"\nmodel = { name = "mlp", width = 8 }\n[clients]\ncount = 4\n'
        '[strategy]\nrounds = 5\naggregator = "mean"\n[runtime]\nexecutor = "inline"\n[privacy]\n'
        'budget = 2.0\ncheck = false\n[[defenses]]\nname = "user-dp"\nnoise_multiplier = 4.0\n'
    )
    arguments = ["run", str(text), "--quiet", "--json", "--out", str(tmp_path / "run")]
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, BudgetExhausted) and found.exception.exit_code == 7
    assert json.loads(found.stdout)["report"]["run"]["status"] == "finished"


def test_a_stack_spends_if_one_of_it_does() -> None:
    assert budgets.spends(Stack(of=[{"name": "none"}, USER]))
    assert not budgets.spends(Stack(of=[{"name": "none"}])) and not budgets.spends(Defense())
