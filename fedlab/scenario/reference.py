"""The reference of every key, made of the schema: JSON Schema for editors, Markdown for people.

Write it anew with `fedlab schema --markdown > docs/scenario.md`.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from fedlab import plugins
from fedlab.ladder import LADDER
from fedlab.scenario import plugged
from fedlab.scenario.overrides import alternatives
from fedlab.scenario.places import Path
from fedlab.scenario.schema import Scenario
from fedlab.scenario.threats import START
from fedlab.signature import describe, shown

INTRODUCTION = """\
# The scenario, key by key

A scenario is a TOML file that says what is learned, by whom, where it runs, who attacks it and what
defends it. It is strict: an unknown key is an error, and `fedlab validate SCENARIO` names every mistake
at once. This page is made of the schema (`fedlab schema --markdown > docs/scenario.md`);
`fedlab schema` prints the same as JSON Schema, for editors.

The smallest scenario:

```toml
schema = 1

[task]
dataset = "digits"
model = "mlp"
```

A plugin is given by name, `model = "mlp"`, or as a table of its name and its parameters,
`model = { name = "mlp", width = 64 }`. `fedlab list KIND` shows which there are and `fedlab info NAME`
their parameters. An attack or a defense has its parameters beside its name:

```toml
[[defenses]]
name = "dp-sgd"
label = "dp-sgd-strong"
noise_multiplier = 4.0
```

On the command line, `--set a.b=v` changes one value: `--set strategy.rounds=50`,
`--set task.model.width=64`, `--set defenses.dp-sgd-strong.noise_multiplier=8`.

Several strategies are put side by side in one run and one report with `[[strategies]]`. `[strategy]` then
holds what they share, and each entry what it does otherwise, under a label of its own:

```toml
[strategy]
rounds = 400
evaluate_every = 10

[[strategies]]
label = "patient"
cohort = 10

[[strategies]]
label = "hasty"
cohort = 10
over_selection = 1.3
```

An entry takes a key of `[strategy]` over as a whole or gives its own, and it cannot take a key back: what
only one of them has stands in its entry. `options` are taken over by entries of the same `name` alone.
`--set strategy.rounds=50` changes what they share, `--set strategies.hasty.cohort=5` one of them.

What a piece of knowledge is worth to an attacker is measured with `[[threats]]`: every attack runs under
`[threat]`, and under each entry as well, on the same victims with the same random draws:

```toml
[[threats]]
level = "weights"

[[threats]]
label = "blind"
batch_size = false
```
"""

STRATEGIES = ("Strategy", "Variant")
"""Definitions of the schema that hold the keys of a strategy."""

THREATS = ("Threat", "ThreatVariant")
"""Definitions of the schema that hold the keys of a threat, most of which follow its level."""

BESIDE: dict[Path, tuple[str, ...]] = {
    ("strategy",): STRATEGIES,
    ("task",): ("Task", "NamedTask"),
    ("clients", "partition"): ("Clients", "NamedTask"),
    ("devices",): ("Devices", "DeviceClass"),
}
"""Definitions in which the keys of a table stand, where they are not just the table's own."""

HANGING = (
    *((one, "cohort") for one in STRATEGIES),
    *((one, "label") for one in ("Variant", "Labelled", "Adversary", "ThreatVariant")),
    *((one, key) for one in THREATS for key in LADDER[START]),
)
"""Keys whose default hangs on another key."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a scenario file; it names the plugins that are installed."""
    schema = Scenario.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["required"].remove("task")  # there may be several
    definitions = schema["$defs"]
    for table, key in HANGING:
        del definitions[table]["properties"][key]["default"]
    for table in STRATEGIES:
        definitions[table]["properties"]["name"] |= {"enum": plugins.names("strategies")}
    for path, kind in plugged.KINDS.items():
        known = sorted(plugged.closed(kind)) if kind in plugged.CLOSED else plugins.names(kind)
        listed = len(path) == 1
        shape = {"adversaries": "Adversary"}.get(kind, "Labelled" if listed else "Plugin")
        definitions[kind] = copy.deepcopy(definitions[shape])
        definitions[kind]["properties"]["name"] |= {"enum": known}
        reference = {"$ref": f"#/$defs/{kind}"}
        if listed:
            schema["properties"][path[0]]["items"] = reference
            continue
        for table in BESIDE.get(path[:1], ()) + BESIDE.get(path, ()) or (str(path[0]).capitalize(),):
            node = definitions[table]["properties"][path[1]]
            others = [one for one in node["anyOf"] if one.get("type") in ("null", "number")]
            node["anyOf"] = [{"type": "string", "enum": known}, reference, *others]
    del definitions["Plugin"], definitions["Labelled"], definitions["Adversary"]
    return schema


def markdown() -> str:
    """docs/scenario.md."""
    schema = Scenario.model_json_schema()
    sections = [INTRODUCTION, "## At the top\n\n" + _table(schema, schema, set(schema["required"]))]
    for key, node in schema["properties"].items():
        for leaf in alternatives(node.get("items", node), schema):
            if leaf.get("type") == "object":
                listed = "items" in node
                title = f"`[[{key}]]`" if listed else f"`[{key}]`"
                if "properties" not in leaf:  # its keys are those of other tables
                    sections.append(f"## {title}\n\n{node['description']}\n")
                    continue
                if key in ("strategies", "threats"):
                    leaf = leaf | {"properties": {"label": leaf["properties"]["label"]}}
                sections.append(f"## {title}\n\n{leaf['description']}\n\n{_rows(leaf, schema)}")
    return "\n".join(sections)


def _rows(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """A section's table, and beneath it those of the tables inside it."""
    text = _table(node, schema, set(node.get("required", ())))
    if node.get("additionalProperties") is True:
        text += "\nEvery other key is a parameter of the plugin.\n"
    for key, inner in node["properties"].items():
        leaves = [leaf for leaf in alternatives(inner, schema) if leaf.get("type") != "null"]
        if len(leaves) == 1 and "items" in leaves[0]:
            leaves = alternatives(leaves[0]["items"], schema)
        if len(leaves) == 1 and "properties" in leaves[0]:
            required = set(leaves[0].get("required", ()))
            text += f"\n### `{key}`\n\n{leaves[0]['description']}\n\n{_table(leaves[0], schema, required)}"
    return text


def _table(node: dict[str, Any], schema: dict[str, Any], required: set[str]) -> str:
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, inner in node["properties"].items():
        leaves = alternatives(inner, schema)
        if node is schema and leaves[0].get("type") == "object":
            continue
        meaning = re.sub(r"\s+", " ", inner.get("description", leaves[0].get("description", "")))
        default = "required" if key in required else _default(key, inner)
        rows.append(f"| `{key}` | {_words(inner, schema)} | {default} | {meaning} |".replace("| |", "|  |"))
    return "\n".join(rows) + "\n"


def _words(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """The value in words, without the bounds that nobody meets."""
    words = describe(node, schema).replace(" or a table", ", or a table")
    words = re.sub(r"a name: .*?leading \. or -", "a name", words)
    words = re.sub(r" from (\d) to 1000000000", r" >= \1", words)
    return re.sub(r" and < 9223372036854775808", "", words)


def _default(key: str, node: dict[str, Any]) -> str:
    value = node.get("default")
    if key in {"cohort", "label"}:
        return "see right"
    if value is None:
        return "none"
    if value == {} and node.get("additionalProperties") is True:
        return "none"
    if isinstance(value, dict):
        value = value["name"] if set(value) == {"name"} else value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = [item["name"] for item in value]
    return "see below" if isinstance(value, dict) else f"`{shown(value)}`"
