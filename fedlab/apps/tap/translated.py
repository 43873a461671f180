"""A recorded update in the words of the network that takes pixels."""

from __future__ import annotations

from fedlab.apps.architecture import PREFIX
from fedlab.apps.facts import View
from fedlab.audit import KnownConfig, Observation
from fedlab.tasks import FunctionalModel, State


def translated(one: Observation, told: KnownConfig, view: View, model: FunctionalModel) -> Observation:
    """The update by names of the network's parameters; its statistics of batch norm before and after."""
    held = model.state()
    before, update, after = (
        _named(values, view, held)
        for values in (one.before | one.buffers_before, one.update, one.buffers_after)
    )
    # Statistics of batch norm were recorded as what moved; what no message carries stays as it is here.
    after |= {name: before[name] + update[name] for name in model.buffer_names if name in update}
    learned = [name for name in model.parameter_names if name in update]
    return Observation(
        round=one.round,
        client=one.client,
        before={name: before[name] for name in learned},
        update={name: update[name] for name in learned},
        buffers_before={name: before.get(name, held[name]) for name in model.buffer_names},
        buffers_after={name: after.get(name, held[name]) for name in model.buffer_names},
        config=told,
        examples=one.examples,
    )


def _named(values: State, view: View, held: State) -> State:
    found = {}
    for key, value in values.items():
        name = PREFIX + view.names[key] if key in view.names else ""
        if name in held:
            found[name] = value.to(held[name].dtype).reshape(held[name].shape)
    return found
