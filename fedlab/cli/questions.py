"""The four questions of `fedlab init`, on a terminal: what there is, what is taken for granted, and again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import typer

from fedlab import plugins
from fedlab.cli.output import stderr
from fedlab.cli.starter import OWN, TRAINING, Choices
from fedlab.errors import did_you_mean
from fedlab.ladder import LADDER

Ask = Callable[[str, str], str]
"""(question, default) -> answer."""
NONE = "none"
"""No attack."""


def ask(question: str, default: str) -> str:
    """One line from the terminal.

    Raises:
        typer.Abort: Ctrl-C, or Ctrl-D.
    """
    try:
        return str(typer.prompt(question, default=default, err=True))
    except typer.Abort:
        stderr().print("\nnothing was written")
        raise


def bundled(kind: str) -> list[str]:
    """The plugins of a kind that need no more than a name."""
    return [name for name in plugins.names(kind) if name not in OWN]


def asked(given: Mapping[str, object], ask: Ask, base: Choices) -> dict[str, object]:
    """What is not given, by asking; an answer that nothing has is told, and asked again.

    Args:
        base: the defaults.
    """
    found: dict[str, object] = {}
    if "dataset" not in given and "model" not in given:
        sets, nets = bundled("datasets"), bundled("models")
        words = _answer(
            "1/4",
            "Which data set, and which model?",
            {"data sets": sets, "models": nets},
            f"{base.dataset} {base.model}",
            ask,
            one=("data sets", "models"),
        )
        for key, known in (("dataset", sets), ("model", nets)):
            found.update((key, word) for word in words if word in known)
    if "training" not in given:
        (found["training"],) = _answer(
            "2/4",
            "How do clients train?",
            {"training": [*TRAINING]},
            base.training,
            ask,
            one=("training",),
            shown=TRAINING,
        )
    if "defenses" not in given:
        names = {"defenses": bundled("defenses")}
        found["defenses"] = tuple(
            _answer("3/4", "Which defenses? Each is trained.", names, " ".join(base.defenses), ask)
        )
    if "attacks" not in given:
        names = {"attacks": [*bundled("attacks"), NONE], "it knows": [*LADDER]}
        words = _answer(
            "4/4",
            "Which attacks, and what does the attacker know?",
            names,
            f"{' '.join(base.attacks)} {base.threat}",
            ask,
            one=("it knows",),
        )
        levels = [one for one in words if one in LADDER]
        attacks = tuple(one for one in words if one not in LADDER) or base.attacks
        found["attacks"] = tuple(one for one in attacks if one != NONE)
        if levels and "threat" not in given:
            found["threat"] = levels[0]
    return found


def _answer(
    number: str,
    title: str,
    kinds: Mapping[str, Sequence[str]],
    default: str,
    ask: Ask,
    *,
    one: Collection[str] = (),
    shown: Mapping[str, str] | None = None,
) -> list[str]:
    """Words that are all known, each once.

    Args:
        kinds: names by what they are.
        one: the kinds of which an answer has one at most.
        shown: what is said of the names, if it is more than what they are.
    """
    from rich.padding import Padding
    from rich.text import Text

    console = stderr()
    console.print(Text(f"{number} {title}", style="bold"))
    for label, words in (shown or {kind: ", ".join(names) for kind, names in kinds.items()}).items():
        console.print(Padding(Text.assemble((f"{label}: ", "bold"), words), (0, 0, 0, 4)))
    known = [name for names in kinds.values() for name in names]
    while True:
        given = list(dict.fromkeys(ask(number, default).replace(",", " ").split()))
        wrong = [f'there is no "{word}".{did_you_mean(word, known)}' for word in given if word not in known]
        for kind in one:
            if len(several := [word for word in given if word in kinds[kind]]) > 1:
                wrong.append(f"got {' and '.join(several)}; expected one of them")
        if given and not wrong:
            return given
        for told in wrong or ["expected a name"]:
            console.print(told, markup=False, soft_wrap=True)
