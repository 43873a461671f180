"""`fedlab inspect-model`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlab.cli.output import as_json, grid, stderr, stdout
from fedlab.cli.scenarios import SET

if TYPE_CHECKING:
    from fedlab.experiment.inspecting import Inspection


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect-model")(inspect_model)


def inspect_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    overrides: SET = None,
    batches: Annotated[str, typer.Option("--batches", help="Batch sizes to look at.")] = "1,2,4,8",
    knobs: Annotated[bool, typer.Option(help="Turn each knob of the model and look again.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Say which layers of a network can be solved for their input, before any training.

    MODEL is a scenario (a file or a shipped one), whose network and data are taken, or the name of a model,
    which is then looked at on digits: fedlab inspect-model vit --set task.model.positions=fixed
    """
    sizes = _sizes(batches)
    stderr().print(f"inspecting {model}", markup=False, soft_wrap=True)
    from fedlab import plugins
    from fedlab.errors import UnknownName
    from fedlab.experiment.inspecting import inspect_model as inspect
    from fedlab.scenario import shipped

    source: Any = model
    models = plugins.names("models")
    if model in models:
        source = {"schema": 1, "task": {"dataset": "digits", "model": {"name": model}}}
    elif not model.endswith(".toml") and model not in shipped() and not Path(model).exists():
        raise UnknownName("model or scenario", model, [*models, *shipped()])
    with contextlib.redirect_stdout(sys.stderr):
        found = inspect(source, overrides=overrides or [], batches=sizes, knobs=knobs)
    if json:
        as_json(found.to_dict())
    else:
        _show(found)


def _sizes(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}; expected numbers such as 1,2,4,8", param_hint="--batches"
        ) from None


def _show(found: Inspection) -> None:
    console = stdout()
    mode = "training" if found.mode == "train" else "inference"
    console.print(f"{found.model}, {found.parameters:,} parameters, clients in {mode} mode\n")
    layers = grid("layer", "kind", "weight", "bias", *_rank_titles(found), "what follows")
    for one in found.layers:
        ranks = [str(rank) for rank in one.gradient.values()]
        shape = "×".join(map(str, one.shape))
        layers.add_row(one.name, one.kind, shape, "yes" if one.bias else "no", *ranks, one.reading)
    console.print(layers)
    console.print(
        "\nExact attacks on one step of clients made for this (the least PSNR of all their records):\n"
    )
    trials = grid("attack", "batch", "recovered", "PSNR dB", "certificate")
    answered = {trial.attack for trial in found.trials if trial.psnr is not None}
    silent: dict[str, str] = {}
    for trial in found.trials:
        said = _alike(trial.verdicts)
        if trial.attack not in answered:
            silent.setdefault(trial.attack, re.sub(r"^[^:]*: not applicable because ", "", said))
            continue
        psnr = "—" if trial.psnr is None else f"{trial.psnr:.1f}"
        trials.add_row(trial.attack, str(trial.batch), f"{trial.recovered:.0%}", psnr, said)
    if trials.rows:
        console.print(trials)
    for attack, said in silent.items():
        console.print(f"no answer from {attack}: {said}", markup=False, soft_wrap=True)
    if found.turns:
        console.print("\nThe knobs, one at a time, and the attacks tried again:\n")
        turns = grid("knob", "value", "parameters", "then", "by")
        closed = "closed" if found.leaks else "none recovers"
        for turn in found.turns:
            then = turn.problem or (closed if turn.closes else f"{turn.recovered:.0%} at batch {turn.batch}")
            size = f"{turn.parameters:,}" if turn.parameters else "—"
            turns.add_row(turn.knob, str(turn.value), size, then, turn.attack)
        console.print(turns)
    console.print(f"\n{verdict(found)}", soft_wrap=True)


def _alike(verdicts: Iterable[str]) -> str:
    """Verdicts that differ in their figures only are told once, with those of the first."""
    groups: dict[str, list[str]] = {}
    for said in verdicts:
        groups.setdefault(re.sub(r"\d[\d.e+-]*", "#", said), []).append(said)
    return "; ".join(
        same[0] + (" (other clients: other figures)" if len(same) > 1 else "") for same in groups.values()
    )


def _rank_titles(found: Inspection) -> list[str]:
    sizes = next((list(one.gradient) for one in found.layers if one.gradient), [])
    return [f"rank B={size}" for size in sizes]


def verdict(found: Inspection) -> str:
    """What to make of it, in two sentences."""
    if not found.leaks:
        said = "No exact attack recovered a record from this network."
    else:
        most = found.leaks[0]
        largest = max(one.batch for one in found.leaks)
        said = f"{most.attack} recovers {most.recovered:.0%} of the records at batch {most.batch}"
        said += (
            f"; some exact attack recovers records up to batch {largest}." if largest > most.batch else "."
        )
        closing = [f"{one.knob} = {one.value}" for one in found.turns if one.closes]
        if closing:
            said += f" Closed by: {', '.join(closing)}."
        elif found.turns:
            said += " No single knob closes it."
    return said + " Attacks that optimise are not tried here: fedlab run audits with them."
