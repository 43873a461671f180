"""What a sweep says of itself: its two ends only where it has two."""

from __future__ import annotations

from typing import Any

from fedlab.report.sweep_words import headline

AXES = [{"key": "clients.batch_size", "name": "batch_size"}]


def row(recovered: int, psnr: float | None, accuracy: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    """Of four images; no attack answered if there is no `psnr`."""
    level = "refused" if psnr is None else "copy" if recovered == 4 else "some" if recovered else "above"
    base = {
        "strategy": "",
        "defense": "none",
        "client_mode": "train",
        "level": level,
        "recovered": recovered,
        "images": 4,
        "fraction_recovered": None if psnr is None else recovered / 4,
        "psnr_median": psnr,
        "accuracy": accuracy,
    }
    return base | changes


def said(*cells: Any, status: str = "finished") -> str:
    """The headline of cells of batch size 1, 2, ..., each a row or a list of them."""
    rows = [one if isinstance(one, list) else [one] for one in cells]
    return headline(
        AXES,
        [
            {"status": status, "settings": {"clients.batch_size": size}, "rows": found}
            for size, found in enumerate(rows, start=1)
        ],
    )


def test_two_ends() -> None:
    assert said(row(4, 90.0), row(1, 15.0, 0.25)) == (
        "2 of 2 cells finished. Most leaked with batch_size 1: 4 of 4 attacked images recovered, median"
        " 90.0 dB, accuracy 50.0 %; least with batch_size 2: 1 of 4 attacked images recovered, median 15.0"
        " dB, accuracy 25.0 %."
    )


def test_where_all_was_taken_no_cell_leaked_least() -> None:
    assert said(row(4, 90.0), row(4, 40.0, 0.75), row(4, 60.0)) == (
        "3 of 3 cells finished. Every attacked image was recovered in every cell, whatever was turned: median"
        " 40.0 dB (batch_size 2) to 90.0 dB (batch_size 1), accuracy 50.0 % to 75.0 %."
    )
    assert said(row(4, 90.0), row(4, 90.0)).endswith("whatever was turned: median 90.0 dB, accuracy 50.0 %.")


def test_where_nothing_was_taken_no_cell_leaked_most() -> None:
    told = said(row(0, 9.0, None), row(0, 12.0, None))
    assert told.endswith(
        "No attacked image was recovered in any cell: median 9.0 dB (batch_size 1) to 12.0 dB (batch_size 2)."
    )


def test_how_many_are_at_the_same_end() -> None:
    told = said(row(4, 90.0), row(4, 50.0), row(0, 9.0), row(2, 20.0), row(0, 8.0), row(0, 7.0))
    assert "Most leaked with batch_size 1: " in told and "50.0 % (every image in 1 more cell);" in told
    assert "least with batch_size 6: " in told and told.endswith("(no image in 2 more cells).")


def test_a_cell_for_which_no_attack_answered_is_at_neither_end() -> None:
    told = said(row(4, 90.0), row(0, None), row(1, 15.0), row(0, None, level="unattacked"))
    assert "least with batch_size 3" in told
    assert told.endswith(
        "In 1 cell no attack answered with an image. In 1 cell no attack was tried, or all failed: nothing is"
        " known of them."
    )
    assert said(row(0, None)).endswith("nothing was measured about reconstruction.")


def test_what_was_not_measured_is_not_said_to_be_like_the_rest() -> None:
    all_of, none_of = [row(4, 90.0), row(4, 50.0)], [row(0, 9.0), row(0, 8.0)]
    assert "in every measured cell, whatever was turned" in said(*all_of, row(0, None))
    assert "in any measured cell: median" in said(*none_of, row(0, None))
    assert headline(
        AXES,
        [
            {"status": "finished", "settings": {"clients.batch_size": 1}, "rows": all_of},
            {"status": "failed", "settings": {"clients.batch_size": 2}, "rows": []},
        ],
    ).startswith("1 of 2 cells finished. Every attacked image was recovered in every measured row")


def test_one_answer_is_neither_most_nor_least() -> None:
    assert said(row(4, 90.0)).startswith("1 of 1 cell finished. With batch_size 1: 4 of 4 attacked images")


def test_rows_are_called_by_what_they_differ_in() -> None:
    told = said([row(4, 90.0), row(0, 9.0, defense="dp-sgd")], [row(4, 80.0), row(0, 8.0, defense="dp-sgd")])
    assert "Most leaked with batch_size 1, none: " in told and "(every image in 1 more row)" in told
    assert "least with batch_size 2, dp-sgd: " in told


def test_nothing_is_said_of_what_has_not_ended() -> None:
    assert said([], [], status="interrupted") == "0 of 2 cells finished: nothing is known yet."
