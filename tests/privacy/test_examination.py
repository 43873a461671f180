"""What is added to a guarantee when the training is over, and what takes its ε away."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fedlab_defenses.privacy.dp_ftrl import DPFTRL
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.user_dp import UserDP

from fedlab.audit import Defense
from fedlab.audit.stack import Stack
from fedlab.privacy import Event, Guarantee, Ledger, epsilon_of
from fedlab.privacy.examination import AGREEMENT, examined, told
from fedlab.privacy.gaussian import gaussian_epsilon

CLIENT, SERVER = {"name": "dp-sgd", "noise_multiplier": 1.0}, {"name": "user-dp", "noise_multiplier": 4.0}


def client_events(rounds: int = 5, **changes: object) -> list[Event]:
    """Client 3 in every round, client 1 in every second."""
    every = [Event(client, r, 1.0, 0.1, 2) for r in range(1, rounds + 1) for client in (1, 3)]
    return [event for event in every if event.client == 3 or event.round % 2]


def server_events(rounds: int = 5) -> list[Event]:
    return [Event(client, r, 4.0, 1.0, 1, place="server") for r in range(1, rounds + 1) for client in (1, 3)]


def of(defense: Defense, events: list[Event]) -> Guarantee:
    found = examined(defense.guarantee, Ledger(events), defense.spends)
    assert found is not None
    return found


def broken(found: Guarantee) -> list[str]:
    return [one.text for one in found.assumptions if not one.holds]


@pytest.mark.parametrize(
    ("defense", "events"),
    [
        (DPSGD(noise_multiplier=1.0), client_events()),
        (UserDP(noise_multiplier=4.0), server_events()),
        (DPFTRL(noise_multiplier=4.0), server_events()),
    ],
)
def test_a_guarantee_is_held_against_another_library(defense: Defense, events: list[Event]) -> None:
    found = of(defense, events)
    assert found.epsilon is not None and not broken(found) and AGREEMENT in str(found.assumptions)
    said = {one.accountant[:3]: one.epsilon for one in found.cross_check}
    assert set(said) == {"RDP", "PRV", "PLD"} and said["PLD"] == pytest.approx(found.epsilon, abs=0.02)
    assert dict(found.curve)[1e-5] == said["PLD"]
    assert found.rounds == 5 and [round for round, _ in found.course] == [1, 2, 3, 4, 5]
    spent = [epsilon for _, epsilon in found.course]
    assert spent == sorted(spent) and spent[-1] == found.epsilon == found.per_client[found.most_exposed or 1]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["course"][-1] == [5, found.epsilon]


def test_the_course_is_that_of_the_most_exposed_client() -> None:
    found = of(DPSGD(noise_multiplier=1.0), client_events())
    assert found.most_exposed == 3
    assert dict(found.course)[2] == epsilon_of({(1.0, 0.1): 4}, 1e-5).epsilon


def test_an_epsilon_on_which_the_libraries_differ_is_none() -> None:
    """A planted slip: half the steps are forgotten."""

    class Forgetful(DPSGD):
        def guarantee(self, ledger: Ledger) -> Guarantee | None:
            found = super().guarantee(ledger)
            half = epsilon_of({(1.0, 0.1): 5}, self.delta).epsilon
            return None if found is None else replace(found, epsilon=half, per_client={3: half})

    found = of(Forgetful(noise_multiplier=1.0), client_events())
    assert found.epsilon is None and broken(found) == [AGREEMENT]
    assert found.reason is not None and "two independent accountants" in found.reason


def test_what_was_amiss_ends_the_guarantee_and_is_named() -> None:
    events = client_events()
    events[2] = replace(events[2], amiss="the noise was not as strong as configured")
    found = of(DPSGD(noise_multiplier=1.0), events)
    assert found.epsilon is None and found.per_client[3] > 0.0
    assert any("not as strong as configured" in text for text in broken(found))
    assert "not as strong as configured" in str(found.reason)


def test_in_a_stack_what_clients_did_is_no_concern_of_the_server() -> None:
    events = client_events() + server_events()
    events[0] = replace(events[0], amiss="batches were not drawn at the configured rate")
    found = of(Stack(of=[CLIENT, SERVER]), events)
    (client,) = found.beside
    assert (found.place, client.place) == ("server", "client")  # what is proved comes first
    assert found.epsilon is not None and client.epsilon is None
    assert found.course[-1][1] == found.epsilon and found.cross_check and client.cross_check


def test_a_guarantee_with_a_broken_assumption_has_no_epsilon_whatever_was_given() -> None:
    ledger = Ledger(server_events(), turned_away={2})
    found = UserDP(noise_multiplier=4.0).guarantee(ledger)
    assert found is not None and found.epsilon is None and "turned away" in str(found.reason)


def test_rounds_that_were_run_again_with_other_noise_count_twice() -> None:
    """Stopped after round 5, begun again from round 4's checkpoint: rounds 4 and 5 were released twice."""
    again = [replace(event, attempt=1) for event in client_events() if event.round >= 4]
    found = of(DPSGD(noise_multiplier=1.0), client_events() + again)
    assert found.attempts == 2 and found.per_client[3] == epsilon_of({(1.0, 0.1): 14}, 1e-5).epsilon
    assert dict(found.course)[3] == epsilon_of({(1.0, 0.1): 6}, 1e-5).epsilon
    assert dict(found.course)[4] == epsilon_of({(1.0, 0.1): 12}, 1e-5).epsilon  # both 4s, and the lost 5


def test_under_poisson_sampling_the_rounds_of_all_attempts_count() -> None:
    """Rounds 1 to 5, and 4 to 9 again: 11 in all, for whoever could have been drawn."""
    events = [Event(1, r, 1.0, 0.2, 1, place="server") for r in (1, 5)]
    events += [Event(2, r, 1.0, 0.2, 1, place="server", attempt=1) for r in (4, 9)]
    found = UserDP(noise_multiplier=1.0).guarantee(Ledger(events))
    assert found is not None and set(found.per_client.values()) == {
        epsilon_of({(1.0, 0.2): 11}, 1e-5).epsilon
    }


def test_nodes_of_a_tree_that_are_drawn_again_count_again() -> None:
    """Rounds 1 to 4, then 3 to 4 again: nodes ending at 1, 2, 3, 4 cover 1, 2, 1, 4 rounds, and 3 and 4 come
    twice: 1 + 4 + 1 + 16 + 1 + 16 = 39."""
    events = [Event(0, r, 4.0, 1.0, 1, place="server") for r in (1, 2, 3, 4)]
    events += [Event(0, r, 4.0, 1.0, 1, place="server", attempt=1) for r in (3, 4)]
    found = DPFTRL(noise_multiplier=4.0).guarantee(Ledger(events))
    assert found is not None and found.per_client[0] == pytest.approx(gaussian_epsilon(39**0.5 / 4.0, 1e-5))


def test_about_twenty_rounds_are_told() -> None:
    assert told(0) == [] and told(3) == [1, 2, 3] and told(20)[0] == 1
    for rounds in (21, 100, 1234):
        assert 10 <= len(told(rounds)) <= 20 and told(rounds)[-1] == rounds
