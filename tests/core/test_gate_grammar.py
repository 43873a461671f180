"""Gate expressions: what is read, what is refused and where, and that nothing else can happen."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BadGate
from fedlab.gate import KEYS, METRICS, NAMED, OPERATORS, Gate, parse


def test_every_part_of_an_expression_is_read() -> None:
    gate = parse("attack.cascade[defense=dp-sgd, mode=train].psnr_median > 20")
    where = (("defense", "dp-sgd"), ("mode", "train"))
    assert gate == Gate("attack", "cascade", where, "psnr_median", ">", 20.0)
    assert str(gate) == "attack.cascade[defense=dp-sgd,mode=train].psnr_median > 20"


@pytest.mark.parametrize(
    ("text", "name", "metric", "bound"),
    [
        ("membership.lira.tpr_at_fpr_0.01>=.1", "lira", "tpr_at_fpr_0.01", 0.1),
        ("attack.dlg.2.psnr_max == -1e1", "dlg.2", "psnr_max", -10.0),
        ("attack.*.recovered != 0", "*", "recovered", 0.0),
        ("  attack . 'a [b]' [threat=\"\"] . ssim_median < +0.5 ", "a [b]", "ssim_median", 0.5),
        ("privacy.epsilon > 8", "", "epsilon", 8.0),
    ],
)
def test_labels_may_hold_dots_and_quotes_hold_the_rest(
    text: str, name: str, metric: str, bound: float
) -> None:
    gate = parse(text)
    assert (gate.name, gate.metric, gate.bound) == (name, metric, bound)


BAD = [
    ("", "expected what to judge", 0),
    ("atack.x.psnr_max > 1", 'Did you mean "attack"?', 0),
    ("attack", "expected a dot and the name", 6),
    ("attack.cascade", "expected a name, a dot and what is measured", 7),
    ("attack.cascade > 3", "expected a name, a dot and what is measured", 7),
    ("attack.cascade.psnr_medain > 3", 'Did you mean "psnr_median"?', 15),
    ("attack.cascade[defence=x].psnr_max > 1", 'Did you mean "defense"?', 15),
    ("attack.cascade[defense].psnr_max > 1", "expected = and a value", 22),
    ("attack.cascade[defense=].psnr_max > 1", "expected a value for defense", 23),
    ("attack.cascade[].psnr_max > 1", "expected one of defense", 15),
    ("attack.cascade[defense=x,].psnr_max > 1", "expected one of defense", 25),
    ("attack.cascade[defense=x mode=train].psnr_max > 1", "expected a comma or ]", 25),
    ("attack.cascade[defense=x", "never closed", 14),
    ("attack.cascade[defense='x].psnr_max > 1", "this quote is never closed", 23),
    ("attack.cascade[defense=a,defense=b].psnr_max > 1", "given twice", 25),
    ("attack.cascade[seed=one].psnr_max > 1", "expected a whole number for seed", 20),
    ("attack.cascade[seed=1] > 1", "expected a dot and what is measured", 23),
    ("attack.cas*.psnr_max > 1", 'or "*" for all', 7),
    ("attack.''.psnr_max > 1", "expected the name of an attack", 7),
    ("privacy[threat=oracle].epsilon > 1", 'privacy has no "threat"', 8),
    ("privacy.psnr_max > 1", "expected one of epsilon", 8),
    ("privacy.epsilon 8", "expected one of > >= < <= == !=", 16),
    ("privacy.epsilon => 8", '"=>" is no comparison', 16),
    ("privacy.epsilon > ", "expected a number", 18),
    ("privacy.epsilon > nan", "expected a number", 18),
    ("privacy.epsilon > 1e999", "expected a number", 18),
    ("privacy.epsilon > 8 dB", "a number has no unit", 20),
    ("privacy.epsilon > 8%", "a number has no unit", 19),
    ("privacy.epsilon > 8\n", "a number has no unit", 19),
]


@pytest.mark.parametrize(("text", "told", "place"), BAD, ids=[text for text, _, _ in BAD])
def test_a_mistake_is_told_with_its_place(text: str, told: str, place: int) -> None:
    with pytest.raises(BadGate) as error:
        parse(text)
    assert told in str(error.value)
    assert error.value.span[0] == place
    # The mark stands beneath the place, in lines of their own.
    shown, marks = str(error.value).split("\n")[-2:]
    assert marks.index("^") == place + 2 and len(shown) == len(text) + 2


def test_a_very_long_expression_is_not_printed_whole() -> None:
    with pytest.raises(BadGate, match="at most 500") as error:
        parse("attack." + "x" * 10_000)
    assert len(str(error.value)) < 400


def test_what_is_named_must_be_there() -> None:
    known = {"attack": ["cascade"], "membership": ["lira"], "defense": ["none", "dp-sgd"], "strategy": []}
    parse("attack.*[defense=dp-sgd,seed=99].psnr_max > 1").check(known)  # of seeds nothing is known
    for text, told in [
        ("attack.cascde.psnr_max > 1", 'Did you mean "cascade"? There is: cascade'),
        ("attack.lira.psnr_max > 1", "It is one of membership: write membership.lira"),
        ("privacy[defense=dpsgd].epsilon > 1", 'Did you mean "dp-sgd"? There is: none, dp-sgd'),
        ("privacy[strategy=fedavg].epsilon > 1", "There is: none"),
    ]:
        with pytest.raises(BadGate) as error:
            parse(text).check(known)
        assert told in str(error.value)


def test_an_error_survives_a_process_boundary() -> None:
    with pytest.raises(BadGate) as error:
        parse("privacy.epsilon >")
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value) and again.span == error.value.span


@given(st.text(max_size=80) | st.text("atckpriv.ley[]=,'\"*><! 0123456789-_", max_size=80))
def test_reading_ends_in_a_gate_or_in_its_own_error(text: str) -> None:
    try:
        gate = parse(text)
    except BadGate as error:
        start, end = error.span
        assert 0 <= start < end and start <= len(text)
    else:
        assert parse(str(gate)) == gate


TEXT = st.text(min_size=1, max_size=20).filter(lambda text: not ("'" in text and '"' in text))


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    subject = draw(st.sampled_from(sorted(METRICS)))
    name = draw(st.just("*") | TEXT.filter(lambda text: "*" not in text)) if subject in NAMED else ""
    chosen = draw(st.lists(st.sampled_from(KEYS[subject]), unique=True))
    where = tuple((key, "7" if key == "seed" else draw(TEXT)) for key in chosen)
    metric = draw(st.sampled_from(sorted(METRICS[subject])))
    bound = draw(st.floats(allow_nan=False, allow_infinity=False))
    return Gate(subject, name, where, metric, draw(st.sampled_from(sorted(OPERATORS))), bound)


@given(gates())
def test_a_gate_that_is_written_down_is_read_as_the_same_gate(gate: Gate) -> None:
    assert parse(str(gate)) == gate
