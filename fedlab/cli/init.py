"""`fedlab init`: a commented scenario, by four questions or from flags."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedlab import plugins
from fedlab.cli.completion import attacks, datasets, defenses, models, trainings
from fedlab.cli.output import plain, stderr
from fedlab.cli.questions import ask, asked, bundled
from fedlab.cli.starter import OWN, TRAINING, Choices, text
from fedlab.errors import BackendError, UnknownName, UsageError
from fedlab.ladder import LADDER


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", show_default=False)] = Path("scenario.toml"),
    dataset: Annotated[str | None, typer.Option(autocompletion=datasets, help="Data set.")] = None,
    model: Annotated[str | None, typer.Option(autocompletion=models, help="Network.")] = None,
    training: Annotated[
        str | None, typer.Option(autocompletion=trainings, help="fedsgd (one step) or fedavg (an epoch).")
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option(autocompletion=defenses, help="Defense; repeatable.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(autocompletion=attacks, help="Attack; repeatable.")
    ] = None,
    threat: Annotated[str | None, typer.Option(help=f"What the attacker knows: {', '.join(LADDER)}.")] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Number of clients.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of training.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Records per step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every draw.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: defaults for what is not given.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented scenario that runs as it stands; asks four questions on a terminal.

    FILE is scenario.toml unless given. What flags say is not asked:

    fedlab init mine.toml --dataset digits --model mlp --defense none --defense dp-sgd --attack cascade --yes
    """
    if file.is_dir():
        raise UsageError(f"{file} is a directory; expected a file, as in {file / 'scenario.toml'}")
    if file.exists() and not force:
        raise UsageError(f"{file} exists; choose another name, or write over it with --force")
    flags = {
        "dataset": dataset,
        "model": model,
        "training": training,
        "defenses": tuple(defense) if defense else None,
        "attacks": tuple(attack) if attack else None,
        "threat": threat,
        "clients": clients,
        "rounds": rounds,
        "batch_size": batch_size,
        "seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    asking = not yes and asks()
    chosen = completed(given, ask if asking else None)
    if not asking and not given and not yes:
        stderr().print(
            "no terminal to ask on: taking the defaults,"
            f" {chosen.dataset} and {chosen.model}, {chosen.training}, defenses"
            f" {', '.join(chosen.defenses)}, attack {', '.join(chosen.attacks)}",
            markup=False,
            soft_wrap=True,
        )
    written = text(chosen)
    try:
        _check(written, file)
    except UsageError:
        if asking:
            console = stderr()
            console.print("these answers do not go together; to change one of them:", markup=False)
            console.print(f"  {_command(file, chosen, force=force)}", markup=False, soft_wrap=True)
        raise
    try:
        file.write_text(written, encoding="utf-8")
    except OSError as error:
        raise BackendError(f"{file} cannot be written: {error.strerror}; choose another place") from error
    name = shlex.quote(str(file))
    plain(f"{file} is written. Next:")
    plain(f"  fedlab run {name} --dry-run    # what it will take")
    plain(f"  fedlab run {name}")


def asks() -> bool:
    """Whether somebody sits there to be asked."""
    return sys.stdin.isatty()


def completed(given: Mapping[str, object], ask: Callable[[str, str], str] | None) -> Choices:
    """All choices: those given, those asked for, and defaults that suit the others.

    Args:
        ask: (question, default) -> answer; None asks nothing.

    Raises:
        UnknownName: a name that nothing has.
        UsageError: choices that do not go together.
    """
    base = Choices()
    chosen = dict(given)
    if ask is not None:
        chosen |= asked(chosen, ask, base)
    for key, kind in (("dataset", "datasets"), ("model", "models")):
        _known(kind, [str(chosen.get(key, getattr(base, key)))])
    if chosen.get("training", base.training) not in TRAINING:
        raise UnknownName("way to train", str(chosen["training"]), TRAINING)
    if chosen.get("threat", base.threat) not in LADDER:
        raise UnknownName("level of knowledge", str(chosen["threat"]), LADDER)
    found = replace(base, **chosen)  # type: ignore[arg-type]
    _known("defenses", found.defenses)
    _known("attacks", found.attacks)
    if "batch_size" not in chosen and found.training == "fedavg":
        found = replace(found, batch_size=8)
    if "threat" not in chosen and any(_needs_data(name) for name in found.attacks):
        found = replace(found, threat="proxy")
    if not _pixels(found.dataset):
        if "attacks" in given:
            raise UsageError(
                f"the records of {found.dataset} are no pixels in [0, 1], and attacks are scored on pixels;"
                " leave out --attack, or take a data set of images"
            )
        if chosen.get("attacks"):
            told = f"no attack: they are scored on pixels, and the records of {found.dataset} are none"
            stderr().print(told, markup=False, soft_wrap=True)
        found = replace(found, attacks=())
    return replace(
        found, defenses=tuple(dict.fromkeys(found.defenses)), attacks=tuple(dict.fromkeys(found.attacks))
    )


def _known(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if name in OWN:
            raise UsageError(
                f"{name} needs more than a name (an object from Python, a file): write it into the scenario"
                f" by hand, as `fedlab info {kind}/{name}` shows"
            )
        if name not in plugins.names(kind):
            raise UnknownName(plugins.singular(kind), name, bundled(kind))


def _needs_data(name: str) -> bool:
    return "proxy_data" in {str(one) for one in getattr(plugins.load("attacks", name), "needs", ())}


def _pixels(dataset: str) -> bool:
    """Whether attacks can be scored on it; taken for granted of what lies in large files."""
    from fedlab.scenario import trial

    train = trial.dataset(dataset, {})[0]
    return train is None or train.pixels


def _check(written: str, file: Path) -> None:
    """What is written runs, or is not written.

    Raises:
        ScenarioError: choices that do not go together.
    """
    from fedlab.scenario import load, source

    load(source.parse(written, str(file)))


def _command(file: Path, chosen: Choices, *, force: bool) -> str:
    """The command that takes these choices without asking."""
    words = ["fedlab", "init", str(file), "--dataset", chosen.dataset, "--model", chosen.model]
    words += ["--training", chosen.training, "--threat", chosen.threat]
    words += [word for name in chosen.defenses for word in ("--defense", name)]
    words += [word for name in chosen.attacks for word in ("--attack", name)]
    return shlex.join([*words, "--yes", *(["--force"] if force else [])])
