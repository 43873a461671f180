"""`fedlab explain`: what an exit code, an error or a word of the report means, and what to do about it.

The texts stand where they are used: in the docstrings of `fedlab.errors` and in `fedlab.glossary`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from fedlab import errors, glossary, plugins
from fedlab.cli.output import as_json, grid, stdout
from fedlab.errors import FedlabError, UsageError, did_you_mean

_GREEK = str.maketrans({"ε": "epsilon", "δ": "delta", "σ": "sigma"})


@dataclass(frozen=True)
class Explanation:
    """One entry.

    Attributes:
        kind: what it is ("exit code", "error", "level", ...).
        also: other names under which it is found.
        meaning: what happened, or what the word means; advice: what to do; example: an instance.
    """

    name: str
    kind: str
    meaning: str
    advice: str = ""
    example: str = ""
    also: tuple[str, ...] = ()


def completions(incomplete: str) -> list[str]:
    """For shell completion."""
    return [one.name for one in explanations() if one.name.lower().startswith(incomplete.lower())]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    code: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CODE]", autocompletion=completions, show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain an exit code, an error or a word of the report; without one, list them all.

    CODE is a number from 0 to 7, the name of an error such as GateFailed, or words such as near-identical,
    unaware, certificate, psnr.
    """
    found = list(explanations()) if not code else look_up(" ".join(code))
    if json:
        as_json([asdict(one) for one in found])
    elif code:
        _show(found)
    else:
        _list(found)


def explanations() -> Iterator[Explanation]:
    """All there are: exit codes, errors, then the words of the report."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FedlabError)]
    kinds.sort(key=lambda kind: (kind.exit_code, len(kind.__mro__), kind.__name__))
    yield Explanation("0", "exit code", "All went well, and every gate holds.", "Nothing is left to do.")
    first = {kind.exit_code: kind for kind in reversed(kinds)}  # the most general of each code
    for code in sorted(first):
        yield _error(str(code), "exit code", first[code], (first[code].__name__,))
    for kind in kinds:
        if first[kind.exit_code] is not kind:
            yield _error(kind.__name__, f"error, exit code {kind.exit_code}", kind)
    for level in glossary.LEVELS.values():
        meaning = f"{level.symbol} {level.meaning[0].upper()}{level.meaning[1:]}."
        yield Explanation(level.word, "level", meaning, level.advice, also=(level.key, level.symbol))
    for kind_of_word, words in (
        ("certificate", glossary.VERDICTS),
        ("threat level", glossary.THREATS),
        ("score", glossary.METRICS),
        ("number", glossary.NUMBERS),
        ("word", glossary.WORDS),
    ):
        for name, meaning in words.items():
            yield Explanation(name, kind_of_word, meaning, also=tuple(re.split(", | and ", name)))


def look_up(asked: str) -> list[Explanation]:
    """What is known under a name, by whatever case and dashes; all of it where several things are called so.

    Raises:
        UsageError: nothing is.
    """
    known: dict[str, list[Explanation]] = {}
    names = []
    for one in explanations():
        names += [one.name, *one.also]
        for name in dict.fromkeys(map(_plain, (one.name, *one.also))):
            known.setdefault(name, []).append(one)
    wanted = re.sub(r"^(exit )?(code )?(?=\d+$)", "", _plain(asked))
    if wanted not in known:  # "gate failed" for GateFailed
        wanted = wanted.replace(" ", "")
    if wanted not in known:
        for kind in plugins.KINDS:
            if asked in plugins.names(kind):
                raise UsageError(
                    f'"{asked}" is the name of a {plugins.singular(kind)}; expected an exit code, an error or'
                    f" a word of the report. `fedlab info {asked}` tells of it"
                )
        raise UsageError(
            f'nothing is known of "{asked}".{did_you_mean(asked, names)} Expected an exit code'
            " (0 to 7), an error or a word of the report; `fedlab explain` lists them"
        )
    return known[wanted]


def _error(name: str, what: str, kind: type[FedlabError], also: tuple[str, ...] = ()) -> Explanation:
    """An error class, by its docstring: what happened; then what to do, and an example."""
    meaning, rest, *_ = [*inspect.cleandoc(kind.__doc__ or "").split("\n\n"), ""]
    advice, _, example = rest.partition("For example, ")
    meaning, advice, example = (" ".join(text.split()) for text in (meaning, advice, example))
    return Explanation(name, what, meaning, advice, example, also)


def _plain(name: str) -> str:
    """Without case and dashes, Greek letters by their names."""
    return " ".join(re.split(r"[\s_-]+", name.strip().casefold())).translate(_GREEK)


def _show(found: list[Explanation]) -> None:
    from rich.text import Text

    console = stdout()
    for position, one in enumerate(found):
        if position:
            console.print()
        named = f" ({one.also[0]})" if one.kind == "exit code" and one.also else ""
        console.print(Text.assemble((one.name, "bold"), f"{named}  {one.kind}"))
        console.print(Text(one.meaning))
        for title, text in (("what to do", one.advice), ("for example", one.example)):
            if text:
                console.print(Text.assemble((f"{title}: ", "bold"), text))


def _list(found: list[Explanation]) -> None:
    from rich.text import Text

    table = grid("name", "kind", "meaning")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for one in found:
        table.add_row(Text(one.name, style="bold"), one.kind, Text(_short(one.meaning)))
    stdout().print(table)


def _short(text: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=\w[.!]) (?=[A-Z])", text)[0]
