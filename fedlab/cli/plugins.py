"""`fedlab list` and `fedlab info`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedlab import plugins as lookup
from fedlab.cli import catalogue, completion
from fedlab.cli.output import as_json, grid, stdout
from fedlab.errors import UnknownName
from fedlab.signature import REQUIRED, Parameter, fit, shown


def kinds(incomplete: str) -> list[str]:
    """For shell completion."""
    return [kind for kind in catalogue.KINDS if kind.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_)
    app.command()(info)


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", autocompletion=kinds, show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the plugins of a kind; without one, the names of all.

    KIND is strategies, staleness, local-rules, samplers, preaggregators, aggregators, server-optimizers,
    adversaries, attacks, defenses, datasets, models, partitions, times or scenarios.
    """
    from rich.text import Text

    console = stdout()
    if kind is None:
        found = {one: catalogue.names(one) for one in catalogue.KINDS}
        if json:
            as_json(found)
            return
        table = grid("kind", "names")
        for one, names in found.items():
            table.add_row(Text(one.replace("_", "-"), style="bold"), Text(", ".join(names) or "none"))
        console.print(table)
        return
    kind = catalogue.kind_of(kind)
    entries = [catalogue.entry(kind, name) for name in catalogue.names(kind)]
    if json:
        as_json([entry.to_dict() for entry in entries])
        return
    defenses = kind == "defenses"
    table = grid("name", "what it is", *(["attacks that know it"] if defenses else []))
    foreign = any(entry.provider != lookup.HOME for entry in entries)
    if foreign:
        table.add_column("from")
    for entry in entries:
        text = Text(f"broken: {entry.broken}", style="red") if entry.broken else Text(entry.summary)
        row = [Text(entry.name, style="bold"), text]
        row += [Text(", ".join(entry.adaptive) or _unpaired(entry.name))] if defenses else []
        table.add_row(*row, *([Text(entry.provider)] if foreign else []))
    console.print(table)
    for entry in entries:
        ignored = lookup.shadowed(kind, entry.name) if kind in lookup.KINDS else []
        if ignored:
            console.print(Text(f"ignored: {entry.name} from {', '.join(ignored)}; the name is fedlab's own"))


def info(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", autocompletion=completion.everything, show_default=False),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a plugin does: its parameters, its paper, what it needs to know.

    NAME is one that `fedlab list` shows, or KIND/NAME where two kinds have it.
    """
    kind, slash, rest = name.rpartition("/")
    searched = [catalogue.kind_of(kind)] if slash else list(catalogue.KINDS)
    name = rest
    known = {one: catalogue.names(one) for one in searched}
    entries = [catalogue.entry(one, name) for one in searched if name in known[one]]
    if not entries:
        raise UnknownName(
            lookup.singular(searched[0]) if slash else "plugin",
            name,
            {one for many in known.values() for one in many},
        )
    if json:
        as_json([entry.to_dict() for entry in entries])
        return
    for position, entry in enumerate(entries):
        if position:
            stdout().print()
        _show(entry)


def _unpaired(name: str) -> str:
    """What stands in the place of a defense's attacks where it names none."""
    return "those of its parts" if name == "stack" else "the scenario's own"


def _show(entry: catalogue.Entry) -> None:
    from rich.text import Text

    console = stdout()
    console.print(
        Text.assemble((entry.name, "bold"), f"  {lookup.singular(entry.kind)}, from {entry.provider}")
    )
    if entry.broken:
        console.print(Text(f"broken: {entry.broken}", style="red"))
        return
    console.print()
    console.print(Text(entry.text or "No description."))
    console.print()
    facts = grid("", "")
    facts.show_header = False
    for title, text in (("paper", entry.paper), ("needs to know", ", ".join(entry.needs))):
        if text:
            facts.add_row(Text(title, style="bold"), Text(text))
    if entry.kind == "defenses":
        told = ", ".join(entry.adaptive) or _unpaired(entry.name)
        facts.add_row(Text("attacks that know it", style="bold"), Text(told))
    if entry.kind == "attacks" and not entry.needs:
        facts.add_row(Text("needs to know", style="bold"), Text("nothing but the model and its update"))
    if entry.server == "malicious":
        facts.add_row(Text("server", style="bold"), Text('malicious: set threat.server = "malicious"'))
    if facts.rows:
        console.print(facts)
        console.print()
    if entry.parameters:
        table = grid("parameter", "type", "default", "meaning")
        for item in entry.parameters:
            kind = " ".join(filter(None, [item.type_name, item.range]))
            table.add_row(item.name, Text(kind), Text(catalogue.default(item)), Text(item.doc))
        console.print(table)
        console.print()
    console.print(Text("In a scenario:" if entry.kind != "scenarios" else "To run it:", style="bold"))
    console.print(Text(usage(entry)), soft_wrap=True)  # an inline table must stay on its line


def usage(entry: catalogue.Entry) -> str:
    """How a scenario uses it: every parameter with a plain default, the required ones with what may fit.

    A plugin's `example` fills in what it cannot do without.
    """
    if entry.kind == "scenarios":
        return f"  fedlab run {entry.name}"
    values = [f'name = "{entry.name}"']
    values += [f"{key} = {shown(value)}" for key, value in entry.example.items()]
    for item in entry.parameters:
        if item.name in entry.example:
            continue
        if item.default is REQUIRED:
            values.append(f"{item.name} = {_stand_in(item)}")
        elif isinstance(item.default, bool | int | float | str):
            values.append(f"{item.name} = {catalogue.default(item)}")
    if entry.kind == "adversaries":
        values.append("fraction = 0.2")
    if entry.kind in ("attacks", "defenses", "adversaries"):
        return "\n".join(f"  {line}" for line in (f"[[{entry.kind}]]", *values))
    value = f'"{entry.name}"' if len(values) == 1 else f"{{ {', '.join(values)} }}"
    if entry.kind == "strategies":
        options = f"\n  options = {{ {', '.join(values[1:])} }}" if values[1:] else ""
        return f"  [strategy]\n  {values[0]}{options}"
    if entry.kind == "staleness":
        return f'  [strategy]\n  name = "fedbuff"\n  options = {{ concurrency = 10, staleness = {value} }}'
    section, key = {
        "datasets": ("task", "dataset"),
        "models": ("task", "model"),
        "partitions": ("clients", "partition"),
        "times": ("devices", "time"),
        "local_rules": ("strategy", "local_rule"),
        "samplers": ("strategy", "sampling"),
        "preaggregators": ("strategy", "pre_aggregation"),
        "aggregators": ("strategy", "aggregator"),
        "server_optimizers": ("strategy", "server_optimizer"),
    }[entry.kind]
    return f"  [{section}]\n  {key} = {value}"


def _stand_in(item: Parameter) -> str:
    """For a value that must be given: a number where one fits, or else dots."""
    fitting = (
        value for value in (1, 0.5) if item.annotation is not Any and not fit([item], {item.name: value})[1]
    )
    return next(map(shown, fitting), '"..."')
