"""The journal: what was spent is on the disk before it is released, and counts once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedlab.errors import BackendError, DataError
from fedlab.privacy import Event, Ledger
from fedlab.privacy.ledger import Journal


def event(client: int, round: int, sigma: float = 1.0) -> Event:
    return Event(client, round, sigma, 0.1, 2)


def test_what_is_flushed_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "privacy" / "cell.journal.jsonl"
    journal = Journal(path)
    journal.flush()
    assert not path.exists()  # a cell without noise has no journal
    for client in (3, 1):
        journal.add(event(client, 1, 0.1 + 0.2))
    assert not path.exists()
    journal.flush()
    assert Journal(path).events == [event(3, 1, 0.1 + 0.2), event(1, 1, 0.1 + 0.2)]
    assert Journal(path).steps()[3] == {(0.1 + 0.2, 0.1): 2}


def test_a_replayed_event_counts_once_and_a_different_one_counts_as_well(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.add(event(1, 1))
    first.add(event(1, 2))
    first.flush()
    before = path.read_bytes()
    again = Journal(path)
    again.add(event(1, 1))
    again.add(event(1, 2))
    again.flush()
    assert path.read_bytes() == before and again.steps()[1] == {(1.0, 0.1): 4}
    again.add(event(1, 2, sigma=2.0))  # noise that did not repeat was spent twice
    again.flush()
    assert Journal(path).steps()[1] == {(1.0, 0.1): 4, (2.0, 0.1): 2}


def test_half_a_line_is_ignored_and_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.add(event(1, 1))
    journal.add(event(2, 1))
    journal.flush()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = Journal(path)
    assert again.events == [event(1, 1)]
    again.add(event(1, 1))
    again.add(event(2, 1))
    again.flush()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"client": 1}'])
def test_a_damaged_line_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match="what this run has spent cannot be told"):
        Journal(path)


def test_what_cannot_be_written_down_must_not_be_released(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "journal")
    journal.add(event(1, 1))
    with pytest.raises(BackendError, match="cannot write"):
        journal.flush()


def test_a_journal_from_before_there_were_repeats_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"client": 1, "round": 2, "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 2}\n')
    journal = Journal(path)
    assert journal.events == [Event(1, 2, 1.0, 0.1, 2)] and journal.events[0].repeat == 0
    journal.add(Event(1, 2, 1.0, 0.1, 2))
    journal.add(Event(1, 2, 1.0, 0.1, 2, repeat=1))
    assert journal.participations() == {1: 1} and journal.steps()[1].total() == 4


def test_noise_that_does_not_repeat_is_another_attempt_each_time(tmp_path: Path) -> None:
    """Three starts: what was run again counts again, also after a start that spent nothing."""
    path = tmp_path / "journal"
    for attempt in range(2):
        journal = Journal(path, secure=True)
        for round in (1, 2, 2):  # the same event twice in one process is one
            journal.add(event(1, round))
        assert journal.holds(event(1, 2)) and not journal.holds(event(1, 3))
        journal.flush()
        assert journal.steps()[1] == {(1.0, 0.1): 4 * (attempt + 1)} and journal.secure
    Journal(path, secure=True).flush()
    assert Journal(path, secure=True).attempt == 2
    assert Journal(path).attempts() == {0: (1, 2), 1: (1, 2)}
    assert Journal(path).participations() == {1: 2}


def test_whose_update_was_turned_away_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for client in (4, 4, 2):
        journal.turn_away(client)
    journal.add(event(1, 1))
    journal.flush()
    assert len(path.read_text().splitlines()) == 3
    assert Journal(path).turned_away == {2, 4} and Journal(path).events == [event(1, 1)]


def test_parts_of_a_ledger_know_how_long_the_run_was() -> None:
    ledger = Ledger([event(1, 2), event(2, 5), replace(event(1, 4), attempt=1, place="server")])
    assert ledger.attempts() == {0: (1, 5), 1: (4, 4)} == ledger.of(1).attempts()
    assert ledger.only("client").attempts() == {0: (1, 5)}
    assert ledger.until(3).attempts() == {0: (1, 3)} and ledger.until(3).clients() == [1]
    assert ledger.until(4).clients() == [1, 2]  # round 5 was before the second attempt


def test_what_was_amiss_is_told_with_clients() -> None:
    wrong = [replace(event(client, 1), amiss="shuffled") for client in (3, 2, 3)]
    assert Ledger([event(1, 1), *wrong]).amiss() == {"shuffled": [2, 3]}
