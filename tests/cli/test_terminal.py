"""Progress in a log and on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedlab.progress import Quiet
from fedlab.terminal import Live, Plain, duration, one_line, watch


def console(width: int = 100, *, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=30, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_a_log_gets_the_start_tenths_and_the_end() -> None:
    stream = io.StringIO()
    plain = Plain(stream)
    plain.start("train none", 40)
    for done in range(1, 41):
        plain.advance("train none", done, f"loss {40 - done}")
    plain.finish("train none", "accuracy 0.9")
    # Tenths of 40 are 4, 8, ... 36; at 40 the end speaks.
    tenths = [f"train none: {done} of 40, loss {40 - done}" for done in range(4, 40, 4)]
    assert stream.getvalue().splitlines() == [
        "train none: started",
        *tenths,
        "train none: done, accuracy 0.9",
    ]


def test_a_short_job_gets_two_lines_and_a_jump_one() -> None:
    stream = io.StringIO()
    plain = Plain(stream)
    plain.start("a", 19)
    plain.advance("a", 10)
    plain.finish("a")
    plain.start("b", 100)
    plain.advance("b", 55)
    plain.advance("b", 59)
    plain.advance("unknown", 3)
    plain.message("two\nlines")
    assert stream.getvalue().splitlines() == [
        "a: started",
        "a: done",
        "b: started",
        "b: 55 of 100",
        "two lines",
    ]


def test_a_warning_is_never_cut_short_in_a_log() -> None:
    stream = io.StringIO()
    warning = "warning: " + "word " * 60 + "what to do about it"
    Plain(stream).message(warning)
    assert stream.getvalue() == warning + "\n"


def test_a_log_is_never_silent_for_more_than_half_a_minute() -> None:
    """Steps of 7 s: the fifth is the first after 30 s, and the tenth the next; a tenth is 2,000 steps."""
    stream, now = io.StringIO(), [0.0]
    plain = Plain(stream, clock=lambda: now[0])
    plain.start("train", 20_000)
    for done in range(1, 12):
        now[0] += 7.0
        plain.advance("train", done)
    assert stream.getvalue().splitlines() == [
        "train: started",
        "train: 5 of 20000",
        "train: 10 of 20000",
    ]


def test_the_listener_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with (
        watch(console=console()) as live,
        watch(console=console(terminal=False)) as plain,
        watch(quiet=True) as none,
    ):
        assert isinstance(live, Live) and isinstance(plain, Plain) and isinstance(none, Quiet)
    monkeypatch.setenv("TERM", "dumb")
    with watch(console=console()) as dumb:
        assert isinstance(dumb, Plain)


def test_a_terminal_ticks_what_is_finished_and_crosses_what_was_stopped() -> None:
    screen = console()
    with pytest.raises(KeyboardInterrupt), Live(screen) as live:
        live.start("attack [red]a[/red]", 2000)
        live.start("attack b", 10)
        live.start("endless", 0)
        live.advance("attack [red]a[/red]", 500, "residual 0.1")
        live.finish("attack b", "done\nit")
        live.message("[bold]as is[/bold]")
        raise KeyboardInterrupt
    shown = text(screen)
    assert "✓ attack b  done it" in shown
    assert "✗ attack [red]a[/red]  stopped at 500 of 2000" in shown
    assert "✗ endless  stopped" in shown and "[bold]as is[/bold]" in shown


@pytest.mark.parametrize(("width", "bar"), [(100, True), (60, False)])
def test_a_running_job_shows_title_steps_and_note(width: int, bar: bool) -> None:
    screen = console(width)
    with Live(screen) as live:
        live.start("attack linear-layer on dp-sgd", 2000)
        live.advance("attack linear-layer on dp-sgd", 500, "residual 0.1")
        live.bars.refresh()
    shown = text(screen)
    assert "attack linear-layer on dp-sgd" in shown and "500/2000" in shown
    assert ("residual 0.1" in shown) is bar and ("━" in shown) is bar


def test_a_job_that_was_never_started_does_no_harm() -> None:
    screen = console()
    with Live(screen) as live:
        live.advance("ghost", 3)
        live.finish("ghost", "note")
    assert "✓ ghost  note" in text(screen)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (100, "1:40 min"),
        (7500, "2:05 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert one_line("a\x1b[31m\r\nb\t\u202e c") == "a [31m b c"
    assert len(one_line("x" * 999)) == 200
