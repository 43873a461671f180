"""Flower mods that do what a try did to the updates, complete, in NumPy: text to paste into a client's file.

A mod stands around the client: it sees the message with the server's model, and the reply with the client's.
Where flwr has a mod of that kind, it is flwr's. Every block is executed against flwr in the tests, and held
against the defense that it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fedlab.report.tried_code import Step, number, whole

Params = Mapping[str, Any]

_IMPORTS = """\
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
"""

_DRAWS = """\
draw = np.random.default_rng()  # starts anew from the operating system, whatever the app seeds
"""

_MOD = """\
def {name}(msg: Message, context: Context, call_next):
    reply = call_next(msg, context)
    if reply.has_error() or not msg.metadata.message_type.startswith("train"):
        return reply
    (sent,) = msg.content.array_records.values()
    ((key, record),) = reply.content.array_records.items()
    before = {{name: array.numpy() for name, array in sent.items()}}
    after = {{name: array.numpy() for name, array in record.items()}}
    # Statistics of batch norm and counters stay as they are.
    names = [name for name in after if after[name].dtype.kind == "f" and ".running_" not in f".{{name}}"]
    update = {change}(np.concatenate([(after[name] - before[name]).ravel() for name in names]){more})
    for name in names:
        part, update = np.split(update, [after[name].size])
        after[name] = (before[name] + part.reshape(after[name].shape)).astype(after[name].dtype)
    reply.content[key] = ArrayRecord({{name: Array(np.asarray(value)) for name, value in after.items()}})
    return reply
"""

_APP = """\
app = ClientApp(mods=[{name}])  # and what else stands in the brackets, such as client_fn
"""

_KEPT_AT_HOME = """\
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp


def keep_statistics(msg: Message, context: Context, call_next):
    reply = call_next(msg, context)
    if reply.has_error() or not msg.metadata.message_type.startswith("train"):
        return reply
    (sent,) = msg.content.array_records.values()
    ((key, record),) = reply.content.array_records.items()
    own = ("running_mean", "running_var", "num_batches_tracked")
    arrays = {name: sent[name] if name.endswith(own) else array for name, array in record.items()}
    reply.content[key] = ArrayRecord(arrays)
    return reply


app = ClientApp(mods=[keep_statistics])  # and what else stands in the brackets, such as client_fn
"""


def _mod(name: str, does: str, body: str, *, draws: bool = False, remembers: bool = False) -> str:
    """A file's worth of code: what is done to the update, the mod, and the app with it."""
    change = f"{name}_update"
    more = ", context" if remembers else ""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    parts = [
        _IMPORTS + ("\n" + _DRAWS if draws else ""),
        f'def {change}(update{more}):\n    """{does}"""\n{lines}',
        _MOD.format(name=name, change=change, more=more),
        _APP.format(name=name),
    ]
    return "\n\n".join(parts)


def _noise(params: Params) -> str:
    unit = "draw.normal(0.0, {0}, update.size)"
    if params.get("distribution", "gaussian") == "laplace":
        unit = "draw.laplace(0.0, {0} / 2**0.5, update.size)"
    if params.get("deviation") is not None:
        size, does = repr(number(params["deviation"])), "Add noise of this deviation to every coordinate."
        body = f"return update + {unit.format(size)}"
    else:
        share = number(params["relative"])
        does = f"Add noise that is {share:g} times as long as the update."
        body = (
            f"deviation = {share!r} * np.linalg.norm(update) / update.size**0.5\n"
            f"return update + {unit.format('deviation')}"
        )
    return _mod("noise", does, body, draws=True)


def _pruning(params: Params) -> str:
    ratio = number(params.get("ratio", 0.9))
    return _mod(
        "prune",
        f"Send 0 for the {100 * ratio:g} % of coordinates that are smallest.",
        f"size = np.abs(update)\nsmallest_kept = np.sort(size)[int({ratio!r} * size.size)]\n"
        "return np.where(size >= smallest_kept, update, 0.0)",
    )


def _top_k(params: Params) -> str:
    share, feedback = number(params.get("share", 0.01)), params.get("feedback", True) is not False
    does = f"Send the {100 * share:g} % of coordinates that are largest"
    largest = (
        "size = np.abs(update)\n"
        f"smallest_kept = np.sort(size)[-max(1, round({share!r} * size.size))]\n"
        "sent = np.where(size >= smallest_kept, update, 0.0)\n"
    )
    if not feedback:
        return _mod("top_k", f"{does}.", f"{largest}return sent")
    return _mod(
        "top_k",
        f"{does}; the others go with the client's next update.",
        'if "unsent" in context.state:\n    update = update + context.state["unsent"]["update"].numpy()\n'
        f'{largest}context.state["unsent"] = ArrayRecord({{"update": Array(update - sent)}})\nreturn sent',
        remembers=True,
    )


def _random_mask(params: Params) -> str:
    share = number(params.get("share", 0.1))
    times = "" if params.get("scaled", True) is False else "update.size / kept * "
    return _mod(
        "mask",
        f"Send a random {100 * share:g} % of the coordinates.",
        f"kept = max(1, round({share!r} * update.size))\n"
        "sent = np.zeros_like(update)\n"
        "chosen = draw.permutation(update.size)[:kept]\n"
        f"sent[chosen] = {times}update[chosen]\nreturn sent",
        draws=True,
    )


def _sign(params: Params) -> str:
    return _mod(
        "signs", "Send signs, times the mean magnitude.", "return np.abs(update).mean() * np.sign(update)"
    )


def _qsgd(params: Params) -> str:
    levels, bucket = whole(params.get("levels", 16), low=1), whole(params.get("bucket", 512), low=1)
    return _mod(
        "quantise",
        f"Round each coordinate at random to one of {levels} sizes; right on average.",
        f"padded = np.pad(update, (0, -update.size % {bucket})).reshape(-1, {bucket})\n"
        "norms = np.linalg.norm(padded, axis=1, keepdims=True)\n"
        f"heights = {levels} * np.abs(padded) / np.maximum(norms, 1e-30)\n"
        "steps = np.floor(heights) + (draw.random(heights.shape) < heights % 1)\n"
        f"return (norms * np.sign(padded) * steps / {levels}).ravel()[: update.size]",
        draws=True,
    )


OWN: Mapping[str, Callable[[Params], str]] = {
    "noise": _noise,
    "gradient-pruning": _pruning,
    "top-k": _top_k,
    "random-mask": _random_mask,
    "sign": _sign,
    "qsgd": _qsgd,
}
"""Defenses of updates that flwr has no mod for."""


def own(name: str, params: Params, file: str) -> list[Step]:
    """The whole mod, to paste."""
    return [Step("Put this mod around the client", OWN[name](params), file=file)]


def statistics(file: str) -> list[Step]:
    """Send back the statistics of batch norm as they came."""
    return [Step("Put this mod around the client", _KEPT_AT_HOME, file=file)]


def clipping(params: Params, client: str, server: str, cohort: int) -> list[Step]:
    """flwr's mod, and the wrapper that tells it the norm."""
    mod = """\
from flwr.clientapp.mod import fixedclipping_mod

app = ClientApp()


@app.train(mods=[fixedclipping_mod])
def train(msg: Message, context: Context):
    ...  # as it is
"""
    wrapper = f"""\
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping

strategy = DifferentialPrivacyClientSideFixedClipping(
    strategy,  # the one that you have
    noise_multiplier=0.0,
    clipping_norm={number(params.get("clip", 1.0))!r},
    num_sampled_clients={cohort},
)
"""
    return [
        Step("Let the client clip its update", mod, file=client),
        Step("Let the server tell it the norm", wrapper, file=server),
    ]


def local_dp(params: Params, sigma: float, client: str) -> list[Step]:
    """flwr's mod, with the ε at which it draws noise of the deviation that was tried."""
    clip, delta = number(params.get("clip", 1.0)), number(params.get("delta", 1e-5))
    deviation = 2.0 * clip * sigma
    epsilon = _rounded_down(2.0 * clip * math.sqrt(2.0 * math.log(1.25 / delta)) / deviation)
    mod = f"""\
from flwr.clientapp.mod import LocalDpMod

local_dp = LocalDpMod(
    clipping_norm={clip!r},
    sensitivity={2.0 * clip!r},  # two clipped updates lie this far apart at most
    epsilon={epsilon!r},  # noise of deviation {deviation:g}; no ε of your whole training
    delta={delta!r},
)

app = ClientApp()


@app.train(mods=[local_dp])
def train(msg: Message, context: Context):
    ...  # as it is
"""
    return [Step("Let the client clip its update and add noise to it", mod, file=client)]


def _rounded_down(value: float) -> float:
    """To six digits, so that the noise is never less than what was tried."""
    scale = 10.0 ** (5 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
