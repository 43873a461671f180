"""Conditions under which an audit fails, as people write them and as programs read them.

    attack.cascade[defense=dp-sgd,mode=train].psnr_median > 20

    gate     = subject [ filter ] "." metric operator number
    subject  = "attack" "." name | "membership" "." name | "utility" | "privacy"
    filter   = "[" key "=" value { "," key "=" value } "]"
    operator = ">" | ">=" | "<" | "<=" | "==" | "!="

A name is an attack's label, or `*` for all of them. Names and values may be quoted; unquoted ones are made of
letters, digits and . _ - as labels are. Space between the parts is free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedlab.errors import BadGate, did_you_mean
from fedlab.gate.figures import ANY, KEYS, METRICS, NAMED, OPERATORS

LONGEST = 500
"""Characters of an expression at most."""

_WORDS = {"membership": "membership attack", "mode": "client mode"}
_WORD = re.compile(r"[A-Za-z0-9_.*-]+")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
_OPERATOR = re.compile(r"[<>=!]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?(?![A-Za-z0-9_.])")
_SPACE = re.compile(r"[ \t]*")

Span = tuple[int, int]


@dataclass(frozen=True)
class Gate:
    """One condition under which the audit fails.

    Attributes:
        subject, name: what is judged; `name` is an attack's label, `*`, or "" where the subject has no names.
        where: (key, value) pairs, in the order given; all must fit.
        metric, operator, bound: the failing condition.
        text: the expression as it was given.
        spans: where in `text` the name and the values of the filter stand, by key.
    """

    subject: str
    name: str
    where: tuple[tuple[str, str], ...]
    metric: str
    operator: str
    bound: float
    text: str = field(default="", compare=False, repr=False)
    spans: Mapping[str, Span] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        name = f".{self.name if self.name == ANY else _quoted(self.name)}" if self.name else ""
        chosen = ",".join(f"{key}={_quoted(value)}" for key, value in self.where)
        filtered = f"[{chosen}]" if chosen else ""
        bound = repr(self.bound).removesuffix(".0")
        return f"{self.subject}{name}{filtered}.{self.metric} {self.operator} {bound}"

    def met(self, value: float) -> bool:
        """Whether a value is one on which to fail."""
        return OPERATORS[self.operator](value, self.bound)

    def check(self, known: Mapping[str, Collection[str]]) -> None:
        """Whether what the gate names is there.

        Args:
            known: what there is, by subject (names) and by key of the filter (values); what is absent is
                not checked.

        Raises:
            BadGate: it is not; says what is.
        """
        wanted = dict(self.where) | ({self.subject: self.name} if self.name not in ("", ANY) else {})
        for key, value in wanted.items():
            if key not in known or value in known[key]:
                continue
            other = next((one for one in NAMED if one != key and value in known.get(one, ())), None)
            if key in NAMED and other is not None:
                hint = f" It is one of {other}: write {other}.{_quoted(value)}"
            else:
                there = ", ".join(one or '""' for one in known[key]) or "none"
                hint = f"{did_you_mean(value, known[key])} There is: {there}"
            span = self.spans.get("name" if key == self.subject else key, (0, len(self.text)))
            raise BadGate(self.text, span, f'there is no {_WORDS.get(key, key)} "{value}".{hint}')


def parse(text: str) -> Gate:
    """Read an expression.

    Raises:
        BadGate: it cannot be read; points at the place.
    """
    if len(text) > LONGEST:
        raise BadGate(
            text[:60], (0, 60), f"an expression of {len(text)} characters; expected at most {LONGEST}"
        )
    return _Reader(text).gate()


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.spans: dict[str, Span] = {}

    def gate(self) -> Gate:
        subject = self._subject()
        name, metric = "", ""
        if subject in NAMED:
            self._expect(".", f'expected a dot and the name of an attack, as in {subject}.cascade, or "*"')
            name, metric = self._name(subject)
        where: tuple[tuple[str, str], ...] = ()
        if not metric:
            where = self._filter(subject)
            self._expect(".", f"expected a dot and what is measured, as in .{next(iter(METRICS[subject]))}")
            metric = self._metric(subject)
        sign, bound = self._condition()
        return Gate(subject, name, where, metric, sign, bound, self.text, self.spans)

    def _subject(self) -> str:
        self._skip()
        start = self.at
        word = self._take(re.compile(r"[A-Za-z_-]+"))
        if word not in METRICS:
            known = ", ".join(METRICS)
            what = (
                f'nothing is called "{word}".{did_you_mean(word, METRICS)}'
                if word
                else "expected what to judge:"
            )
            raise self._error(start, f"{what} {'There is: ' if word else ''}{known}")
        return word

    def _name(self, subject: str) -> tuple[str, str]:
        """The name, and the metric where it follows at once: labels may hold dots, as metrics do."""
        self._skip()
        start = self.at
        if self._ahead() in ("'", '"'):
            name, metric = self._string(), ""
        else:
            word = self._take(_WORD)
            name, metric = word, ""
            if self._ahead() not in ("[", "."):
                known = next((one for one in METRICS[subject] if word.endswith(f".{one}")), None)
                cut = len(word) - len(known) - 1 if known else word.rfind(".")
                if cut <= 0:
                    raise self._error(
                        start, f"expected a name, a dot and what is measured, as in {_example(subject)}"
                    )
                name, metric = word[:cut], word[cut + 1 :]
                self._known_metric(subject, metric, start + cut + 1)
        self.spans["name"] = (start, start + len(name)) if metric else (start, self.at)
        if not name or (ANY in name and name != ANY):
            raise BadGate(
                self.text, self.spans["name"], f'expected the name of an attack, or "{ANY}" for all'
            )
        return name, metric

    def _filter(self, subject: str) -> tuple[tuple[str, str], ...]:
        self._skip()
        if self._ahead() != "[":
            return ()
        opening, found = self.at, {}
        self.at += 1
        while True:
            self._skip()
            start = self.at
            key = self._take(_PLAIN)
            if key not in KEYS[subject]:
                known = ", ".join(KEYS[subject])
                what = (
                    f'{subject} has no "{key}" to choose by.{did_you_mean(key, KEYS[subject])} '
                    if key
                    else ""
                )
                raise self._error(start, f"{what}expected one of {known}")
            if key in found:
                raise self._error(start, f"{key} is given twice; expected each once")
            self._expect("=", f"expected = and a value, as in {key}=...")
            self._skip()
            start = self.at
            found[key] = self._string() if self._ahead() in ("'", '"') else self._take(_PLAIN)
            self.spans[key] = (start, self.at)
            if start == self.at or (key == "seed" and not re.fullmatch("[0-9]+", found[key])):
                raise self._error(
                    start, f"expected a {'whole number' if key == 'seed' else 'value'} for {key}"
                )
            self._skip()
            if self._ahead() == "]":
                self.at += 1
                return tuple(found.items())
            if not self._ahead():
                raise self._error(opening, "this [ is never closed; expected ]", opening + 1)
            self._expect(",", "expected a comma or ]")

    def _metric(self, subject: str) -> str:
        self._skip()
        start = self.at
        metric = self._take(_PLAIN)
        self._known_metric(subject, metric, start)
        return metric

    def _known_metric(self, subject: str, metric: str, start: int) -> None:
        if metric not in METRICS[subject]:
            hint = did_you_mean(metric, METRICS[subject])
            what = f'{subject} has no metric "{metric}".{hint} ' if metric else ""
            span = start, max(start + len(metric), start + 1)
            raise BadGate(self.text, span, f"{what}expected one of {', '.join(METRICS[subject])}")

    def _condition(self) -> tuple[str, float]:
        self._skip()
        start = self.at
        sign = self._take(_OPERATOR)
        if sign not in OPERATORS:
            got = f'"{sign}" is no comparison; ' if sign else ""
            raise self._error(start, f"{got}expected one of {' '.join(OPERATORS)}")
        self._skip()
        start = self.at
        number = _NUMBER.match(self.text, self.at)
        if number is None or not math.isfinite(float(number[0])):
            raise self._error(start, "expected a number, without a unit", len(self.text))
        self.at = number.end()
        self._skip()
        if self.at < len(self.text):
            raise self._error(
                self.at, "expected the end of the expression; a number has no unit", len(self.text)
            )
        return sign, float(number[0])

    def _string(self) -> str:
        start, quote = self.at, self.text[self.at]
        end = self.text.find(quote, start + 1)
        if end < 0:
            raise self._error(start, "this quote is never closed", start + 1)
        self.at = end + 1
        return self.text[start + 1 : end]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def _expect(self, sign: str, otherwise: str) -> None:
        self._skip()
        if self._ahead() != sign:
            raise self._error(self.at, otherwise)
        self.at += 1

    def _skip(self) -> None:
        self._take(_SPACE)

    def _ahead(self) -> str:
        return self.text[self.at : self.at + 1]

    def _error(self, start: int, problem: str, end: int | None = None) -> BadGate:
        return BadGate(self.text, (start, max(end or self.at, start + 1)), problem)


def _quoted(text: str) -> str:
    """As it must stand in an expression."""
    if _PLAIN.fullmatch(text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


def _example(subject: str) -> str:
    return f"{subject}.{'cascade' if subject == 'attack' else 'gradient-sum'}.{next(iter(METRICS[subject]))}"
