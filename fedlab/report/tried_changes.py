"""What to change in an app so that it does what was tried on it: places, lines, and what must be true.

A pure function of what app.json says of a try; the lines are those of flwr 1.41 and Opacus 1.6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import tomli_w

from fedlab.privacy.gaussian import gaussian_epsilon, least
from fedlab.report import tried_mods, tried_training
from fedlab.report.tried_code import Step, attribute, known, layer, number
from fedlab.report.tried_entry import Layer, Network, Try

RUN_CONFIG, AROUND = "pyproject.toml", "around clients"

_MOD_NOTES = (
    "The mod is for messages with one ArrayRecord, the model. Mods that stand before it in the list see what"
    " it has changed.",
)
_TRAIN_ONLY = (
    "Given to @app.train alone: in ClientApp(mods=[...]) flwr 1.41 answers other messages, such as those of"
    " @app.evaluate, with an error.",
    "An app with client_fn takes the mod of the same name from flwr.client.mod, as"
    " ClientApp(client_fn, mods=[...]), and the strategy from flwr.server.strategy.",
    "flwr takes all arrays of the message as one update: statistics and counters of batch norm are clipped"
    " with it. A parameter that is a single number it leaves as it is, and an update of zeros is an error.",
)
_NOT_SAMPLED = "ε adds up over rounds: a client that trains in more of them spends more."
_AT_THE_SERVER = (
    "A curious server still sees every single update: this protects clients from whoever sees the models"
    " that the server makes, and not from the server.",
    "The noise is right only if all clients count alike: FedAvg weighs them by num-examples, so that each"
    " must send the same number there.",
    "An app whose server has server_fn takes the class of the same name from flwr.server.strategy.",
    _NOT_SAMPLED,
)

NOTES: Mapping[str, tuple[str, ...]] = {
    "dp-sgd": (
        "For a guarantee, each batch must be a Poisson sample of the client's records: make_private exchanges"
        " the loader for one that draws so, and some batches are larger, smaller or empty.",
        "No batch norm: it mixes the records of a batch. ModuleValidator.fix(model) puts group norm in its"
        " place; do that where the model is made, on the server and in the clients alike.",
        "Nothing else that is made of records may be sent: no training loss, no accuracy, no statistics.",
        "ε adds up over all rounds that a client takes part in. Each round makes a new PrivacyEngine, whose"
        " own count begins at 0: count the steps of all rounds (opacus.accountants).",
        "The noise comes from torch's generator: an app that seeds it (torch.manual_seed) has noise that"
        " others can compute, and no guarantee.",
    ),
    "local-dp": (
        *_TRAIN_ONLY,
        "The ε in these lines only makes the noise as large as it was here; flwr's formula is for a single"
        " round and for ε below 1. " + _NOT_SAMPLED,
        "The noise comes from numpy's global generator: an app that seeds it has noise that others can"
        " compute.",
    ),
    "clipping": (*_TRAIN_ONLY, "Clipping alone proves nothing."),
    "user-dp": _AT_THE_SERVER,
    "flower-dp": _AT_THE_SERVER,
    "frozen-first-layer": ("The layer keeps the weights that the server began with.",),
}
"""What must be known beside the lines, by the name of a defense."""


@dataclass(frozen=True)
class Setting:
    """What the run says of the app beside a try: rounds that it trained, clients of a round."""

    rounds: int
    cohort: int


def changes(one: Try, setting: Setting) -> dict[str, Any]:
    """{steps, notes}: `steps` as `Step.to_dict`, empty where no lines are known.

    Raises:
        KeyError, TypeError, ValueError: a parameter is none that the defense takes.
    """
    steps, notes = _steps(one, setting)
    if not steps:
        steps, notes = _of_a_plugin(one)
    return {"steps": [step.to_dict() for step in steps], "notes": list(dict.fromkeys(notes))}


def _steps(one: Try, setting: Setting) -> tuple[list[Step], list[str]]:
    if one.name == "stack":
        parts = [
            replace(one, name=str(part["name"]), params={**part}, network=None, config={})
            for part in one.params["of"]
        ]
        found = [_steps(part, setting) for part in parts]
        steps = [step for some, _ in found for step in some]
        notes = [note for _, some in found for note in some]
        if len(steps) > 1:
            notes.append("Of several mods, the one nearest to the records stands last in the list.")
    else:
        steps, notes = _by_name(one, setting), list(_notes(one.name))
    if one.network is not None:
        steps += _frozen(one.network) if one.name == "frozen-first-layer" else _layers(one.network)
        notes.append(
            "The server and the clients make the same network: change it where both get it from, and begin"
            " with new weights. A layer that is put into a Sequential moves the numbers of those behind it."
        )
    if one.config:
        steps.append(_run_config(one.config))
    return steps, notes if steps else []


def _notes(name: str) -> tuple[str, ...]:
    return NOTES.get(name, _MOD_NOTES if name in tried_mods.OWN else ())


def _by_name(one: Try, setting: Setting) -> list[Step]:
    params = one.params
    match one.name:
        case "dp-sgd":
            return tried_training.dp_sgd(params, one.client)
        case "mixup":
            return tried_training.mixup(params, one.client)
        case "oasis":
            return tried_training.oasis(params, one.client)
        case "clipping":
            return tried_mods.clipping(params, one.client, one.server, setting.cohort)
        case "local-dp":
            return tried_mods.local_dp(params, _sigma(params, setting), one.client)
        case "user-dp":
            return _at_the_server(params, _sigma(params, setting), setting.cohort, one.server)
        case "flower-dp":
            sigma = number(params.get("noise_multiplier", 1.0))
            return _at_the_server(params, sigma, setting.cohort, one.server)
        case "protocol" if params.get("share_buffers", True) is False:
            return tried_mods.statistics(one.client)
        case name if name in tried_mods.OWN:
            return tried_mods.own(name, params, one.client)
    return []


def _sigma(params: Mapping[str, Any], setting: Setting) -> float:
    """The noise multiplier, or the smallest that keeps all rounds within the ε that was asked for."""
    if params.get("noise_multiplier") is not None:
        sigma = number(params["noise_multiplier"])
        if sigma == 0.0:
            raise ValueError("a noise multiplier of 0 adds nothing")
        return sigma
    epsilon, delta = number(params["epsilon"], low=1e-6), number(params.get("delta", 1e-5))
    if not 0.0 < delta < 1.0:
        raise ValueError(f"{delta} is no δ")
    found = least(lambda sigma: gaussian_epsilon(math.sqrt(setting.rounds) / sigma, delta) <= epsilon, 1e-6)
    return math.ceil(found * 1e4) / 1e4


def _at_the_server(params: Mapping[str, Any], sigma: float, cohort: int, server: str) -> list[Step]:
    clip = repr(number(params.get("clip", 1.0)))
    given = [f"noise_multiplier={sigma!r},"]
    kind = "Fixed"
    if params.get("clipping") == "adaptive":
        kind = "Adaptive"
        given += [
            f"num_sampled_clients={cohort},",
            f"initial_clipping_norm={clip},",
            f"target_clipped_quantile={number(params.get('quantile', 0.5))!r},",
            f"clip_norm_lr={number(params.get('clip_rate', 0.2))!r},",
        ]
        if params.get("count_noise") is not None:
            given.append(f"clipped_count_stddev={number(params['count_noise'])!r},")
    else:
        given += [f"clipping_norm={clip},", f"num_sampled_clients={cohort},"]
    name = f"DifferentialPrivacyServerSide{kind}Clipping"
    lines = "".join(f"    {line}\n" for line in given)
    code = (
        f"from flwr.serverapp.strategy import {name}\n\n"
        f"strategy = {name}(\n    strategy,  # the one that you have\n{lines})\n"
    )
    return [Step("Wrap the strategy before it starts", code, file=server)]


def _layers(network: Network) -> list[Step]:
    """The layers that were exchanged or put in, as a diff; what is no layer of torch, in words."""
    lines, words = [], []
    for one in network.layers:
        told = _exchanged(one)
        if told:
            lines += told
        else:
            words.append(f"{one.name}: {one.before or 'nothing'} becomes {one.after or 'nothing'}")
    steps = []
    if lines:
        where = f"In the layers of {network.name}" if network.name else "In the layers of the network"
        steps.append(Step(where, "\n".join(lines) + "\n", "diff", network.file, network.line))
    steps += [Step(text, "", "words", network.file, network.line) for text in words]
    return steps


def _exchanged(one: Layer) -> list[str]:
    place, after = attribute(one.name), layer(one.after)
    before = layer(one.before) if one.before else ""
    if after is None or before is None:
        return []
    if not one.inserted:
        if place is None:
            return [f"- {before},", f"+ {after},"]
        return [f"- {place} = {before}", f"+ {place} = {after}"]
    if place is None or "[" in place:
        where = one.name if known(one.name) else "the layer that it drops the input of"
        return [f"+ {after},  # in front of {where}"]
    own = f"{place}_dropout"
    return [f"+ {own} = {after}", "  ...", f"- {place}(x)  # in forward", f"+ {place}({own}(x))"]


def _frozen(network: Network) -> list[Step]:
    places = [place for one in network.layers if (place := attribute(one.name))]
    if not places:
        return []
    code = "".join(f"{place}.requires_grad_(False)\n" for place in places)
    where = f"At the end of __init__ of {network.name}" if network.name else "At the end of __init__"
    return [Step(where, code, "python", network.file, network.line)]


def _run_config(config: Mapping[str, tuple[Any, Any]]) -> Step:
    text = tomli_w.dumps({key: after for key, (_, after) in config.items()})
    was = ", ".join(f"{key} was {before}" for key, (before, _) in config.items())
    return Step(f"In the run config ({was})", f"[tool.flwr.app.config]\n{text}", "toml", RUN_CONFIG)


def _of_a_plugin(one: Try) -> tuple[list[Step], list[str]]:
    """A defense that no lines are known of: somebody's own, or one that takes too many."""
    if one.acts != AROUND:
        note = (
            "No lines are known for this defense. What it does stands in its class, which fedlab info names."
        )
        return [], [note]
    code = f"""\
from fedlab import plugins
from flwr.clientapp import ClientApp

defense = plugins.build("defenses", { ({"name": one.name, **one.params})!r})
app = ClientApp(mods=[*defense.mods()])  # and what else stands in the brackets, such as client_fn
"""
    step = Step("Put the mods of the defense around the client", code, file=one.client)
    return [step], ["fedlab, and whatever the defense comes with, must be installed where clients run."]
