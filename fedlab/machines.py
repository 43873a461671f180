"""On which machines a scenario's workers would run, and how many share a GPU: part of `fedlab doctor`.

Nothing is started or joined for it. Ray's numbers are what counts: it may be told of more or fewer GPUs than
torch can use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from fedlab.doctor import Finding
from fedlab.errors import FedlabError
from fedlab.runtime.ray.outlook import Node, Outlook, outlook
from fedlab.runtime.ray.room import expect_room, fits, own_resources
from fedlab.scenario import Scenario
from fedlab.scenario.schema import Runtime

SHARES = (1.0, 0.5, 0.25, 0.1)
"""Of a GPU, as `runtime.num_gpus` gives them."""
NODES = 16
"""Nodes of a cluster that have a line of their own."""


def machines(scenario: Scenario | None = None) -> Iterator[Finding]:
    """What there is, how many workers fit, and what the scenario would get."""
    asked = None if scenario is None else _address(scenario.runtime)
    address = asked or ("auto" if scenario is None and os.environ.get("RAY_ADDRESS") else None)
    if address is None:
        nodes = [_this_machine()]
        yield Finding("Ray, this machine", _amount(nodes))
    else:
        try:
            there = outlook(address)
            there.expect_same_versions()
        except FedlabError as error:
            yield Finding("Ray cluster", str(error), "fail" if asked else "note")
            return
        yield from _cluster(there, asked)
        nodes = list(there.nodes)
    yield from _shares(nodes)
    if address is None:
        yield from _usable(nodes)
    if scenario is not None:
        yield from _scenario(scenario, nodes)


def _address(runtime: Runtime) -> str | None:
    """The cluster that a run would join."""
    return runtime.address if runtime.executor == "ray" else None


def _this_machine() -> Node:
    own = own_resources()
    return Node("this machine", own, own)


def _cluster(there: Outlook, asked: str | None) -> Iterator[Finding]:
    """The cluster and its nodes."""
    count = f"{len(there.nodes)} node{'s' if len(there.nodes) != 1 else ''}"
    text = f"{count} at {there.address}: {_amount(there.nodes)}; Ray {there.ray}, Python {there.python}"
    unused = 'a run joins it only with runtime.address = "auto", or its address'
    yield Finding("Ray cluster", text, advice="" if asked else unused)
    if not there.joinable:
        yield Finding(
            "Ray cluster",
            "this machine is none of its nodes",
            "note",
            f"run fedlab on one of them, or `ray start --address={there.address} --num-cpus=0` here",
        )
    for node in there.nodes[:NODES]:
        yield Finding(f"node {node.address}", f"{_amount([node])}; {_amount([node], free=True)} free")
    if len(there.nodes) > NODES:
        yield Finding("nodes", f"{len(there.nodes) - NODES} more")


def _shares(nodes: Sequence[Node]) -> Iterator[Finding]:
    """How many workers of 1 CPU there are for some shares of a GPU."""
    if not any(node.has.get("GPU", 0.0) >= 1.0 for node in nodes):
        yield Finding("shares of a GPU", "no GPU; runtime.num_gpus must be 0")
        return
    told = [
        f"{share:g}: {int(1 / share)} on one GPU, {sum(fits(node.has, 1.0, share) for node in nodes)} in all"
        for share in SHARES
    ]
    yield Finding("shares of a GPU", f"workers of 1 CPU with runtime.num_gpus = {'; '.join(told)}")


def _usable(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether torch can use what Ray counts on this machine."""
    counted = sum(node.has.get("GPU", 0.0) for node in nodes)
    usable = _torch_gpus()
    if counted > usable:
        yield Finding(
            "GPUs of Ray",
            f"Ray counts {counted:g}, torch can use {usable}",
            "note",
            "a worker that is given one without torch seeing it stops the run; see the line GPUs",
        )


def _scenario(scenario: Scenario, nodes: Sequence[Node]) -> Iterator[Finding]:
    """What the scenario would get, or why nothing would start."""
    runtime, topic = scenario.runtime, f"scenario {scenario.name}"
    device = "a GPU" if runtime.num_gpus > 0 else "the CPU"
    here = _address(runtime) is None
    if here and runtime.num_gpus > 0 and not _torch_gpus():
        yield Finding(
            topic,
            f"nothing would start: runtime.num_gpus = {runtime.num_gpus:g}, but torch can use no GPU here",
            "fail",
            "--set runtime.num_gpus=0, or install a CUDA build of torch",
        )
        return
    if runtime.executor == "inline":
        yield Finding(topic, f'clients train in one process on {device} (runtime.executor = "inline")')
        return
    try:
        expect_room([node.has for node in nodes], runtime.num_cpus, runtime.num_gpus, runtime.workers)
    except FedlabError as error:
        yield Finding(topic, f"nothing would start: {error}", "fail")
        return
    yield Finding(topic, _workers(runtime, nodes))
    if not any(_has_room(node, runtime) for node in nodes):
        yield Finding(
            topic,
            "others hold the cluster: there is no room for a worker now",
            "note",
            f"a run would wait {runtime.wait:g} seconds for it (runtime.wait)",
        )
    if not runtime.num_gpus and any(node.has.get("GPU", 0.0) for node in nodes):
        yield Finding(topic, "no worker uses a GPU (runtime.num_gpus = 0)", "note")


def _workers(runtime: Runtime, nodes: Sequence[Node]) -> str:
    """How many workers, and where there is room for them."""
    room = [(fits(node.has, runtime.num_cpus, runtime.num_gpus), node.address) for node in nodes]
    most = sum(fit for fit, _ in room)
    count = most if runtime.workers == "auto" else runtime.workers
    size = f"{runtime.num_cpus:g} CPU" + (f" and {runtime.num_gpus:g} GPU" if runtime.num_gpus else "")
    text = f"{count} worker{'s' if count != 1 else ''} of {size}"
    if len(nodes) == 1:
        return f"{text}; there is room for {most}"
    shown = ", ".join(f"{fit} on {address}" for fit, address in room[:NODES] if fit)
    order = "on as few nodes as Ray can" if runtime.placement == "pack" else "on as many nodes as Ray can"
    return f'{text}, {order} (runtime.placement = "{runtime.placement}"); there is room for {shown}'


def _has_room(node: Node, runtime: Runtime) -> bool:
    free = node.free
    return free.get("CPU", 0.0) >= runtime.num_cpus and free.get("GPU", 0.0) >= runtime.num_gpus


def _amount(nodes: Sequence[Node], *, free: bool = False) -> str:
    """ "8 CPU, 2 GPU" """
    held = [node.free if free else node.has for node in nodes]
    return ", ".join(f"{sum(one.get(kind, 0.0) for one in held):g} {kind}" for kind in ("CPU", "GPU"))


def _torch_gpus() -> int:
    """GPUs that torch can use here; 0 if it cannot be asked, which has a line of its own."""
    try:
        import torch

        return torch.cuda.device_count()
    except Exception:
        return 0
