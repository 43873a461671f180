"""What must be known of an app to attack what it sends: each fact with its source, and how surely.

Whatever could be recorded is. What cannot be attacked honestly (an optimizer whose update is no gradient, a
loss that is no cross entropy, records that are no images) is an obstacle with a reason, and no score. What
only the app's author can say is asked for, with the lines to write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedlab.apps.architecture import FromPixels, as_sent, own_to_each, unsent
from fedlab.apps.contract import Ran, Recording, Sight
from fedlab.apps.given import Adapter
from fedlab.apps.looking import (
    agreed,
    check_labels,
    compare_updates,
    find_network,
    find_outputs,
    find_pixels,
    find_shape,
    noted,
    set_aside,
    unfit,
)
from fedlab.apps.meaning import WEIGHTS, as_weights, meaning_of
from fedlab.apps.messages import paired
from fedlab.apps.notes import Fact, Notes
from fedlab.apps.pixels import PixelRange
from fedlab.apps.schedule import known, mode_of
from fedlab.apps.spoken import of_batches, of_loss, of_optimizer, of_sizes
from fedlab.apps.stepping import disclosed
from fedlab.apps.unseen import of_messages, why
from fedlab.audit import Disclosure, KnownConfig
from fedlab.audit.disclosure import NOTHING
from fedlab.clients.config import Mode
from fedlab.errors import MissingFacts

Key = tuple[int, int]


@dataclass(frozen=True, eq=False)
class View:
    """What attackers of an app hold beside its messages; nothing of it is a client's secret.

    Attributes:
        network: takes pixels in [0, 1] (B, C, H, W).
        names: its tensors by names of the messages' arrays.
        personal: parameters that no message carries.
        shape: (C, H, W); pixels: from what clients fed their networks.
        disclosure: what of an update carries a value, by the optimizer that stepped.
        meaning: of the arrays of an answer, a key of `fedlab.apps.meaning.MEANINGS`.
    """

    network: FromPixels
    names: Mapping[str, str]
    personal: frozenset[str]
    shape: tuple[int, int, int]
    pixels: PixelRange
    classes: int
    disclosure: Disclosure = NOTHING
    meaning: str = WEIGHTS


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of an app.

    Attributes:
        listed: for people, in an order that reads well.
        mode: how most clients ran their network.
        told: how each client trained, by (round, client).
        view: None where there are obstacles.
        obstacles: why nothing is attacked, in sentences; empty as a rule.
        doubts: why scores may show too little, in sentences.
    """

    listed: Sequence[Fact]
    mode: Mode
    told: Mapping[Key, KnownConfig]
    view: View | None = None
    obstacles: Sequence[str] = ()
    doubts: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "facts": [asdict(one) for one in self.listed],
            "obstacles": list(self.obstacles),
            "doubts": list(self.doubts),
        }


def infer(ran: Ran, adapter: Adapter, seed: int = 0, meaning: str = "") -> Facts:
    """Read an app from what it did.

    Args:
        seed: of what is drawn anew because no message carries it.
        meaning: of the arrays of an answer, where it is known already; the replay tells unless given.

    Raises:
        MissingFacts: the author has to say something; shows the lines.
    """
    seen = watched(ran)
    notes = Notes()
    recordings = [recording for _, recording in seen]
    modes = Counter(mode_of(one, adapter) for one in recordings)
    mode: Mode = modes.most_common(1)[0][0] if modes else "train"
    told = {(sight.round, sight.client): known(one, sight, adapter) for sight, one in seen}
    if not seen:
        of_messages(notes, ran)
        noted(notes, ran)
        notes.obstacles.append(why(ran))
        return Facts(notes.facts, mode, told, None, notes.obstacles, notes.doubts)
    set_aside(notes, ran, seen)
    noted(notes, ran)
    sight, recording = seen[0]
    try:
        network, naming = find_network(notes, seen, adapter)
        outputs = find_outputs(recording, network)
    except MissingFacts:
        of_loss(notes, recordings, adapter)
        of_optimizer(notes, recordings, adapter, ran.configuration)
        if not notes.obstacles:
            raise
        return Facts(notes.facts, mode, told, None, notes.obstacles, notes.doubts)  # asked for nothing
    told_by = "what the recorded steps give" + (" of the app as it is" if meaning else "")
    meaning = meaning or meaning_of(sight, recording, naming.names)
    if meaning != WEIGHTS:
        notes.add("answers hold", meaning, told_by, "checked")
        seen = [(as_weights(one, meaning), done) for one, done in seen]
    personal = unsent(network, list(naming.names.values()))
    if personal:
        notes.add(
            "stays with the clients",
            ", ".join(sorted(personal)),
            "parameters of the network that no message carries; attackers get them drawn anew",
            "checked" if naming.equal else "recorded",
        )
    of_loss(notes, recordings, adapter)
    shape = find_shape(notes, recordings, adapter)
    pixels = find_pixels(notes, recordings, adapter, shape)
    classes = outputs[0] if len(outputs) == 1 else 0
    check_labels(notes, recordings, outputs)
    words = "training" if mode == "train" else "evaluation"
    notes.add("client mode", f"{words} mode", *agreed(modes, adapter.mode is not None, len(seen)))
    of_sizes(notes, recordings)
    of_batches(notes, [told[sight.round, sight.client] for sight, _ in seen], ran.configuration)
    of_optimizer(notes, recordings, adapter, ran.configuration)
    compare_updates(notes, seen, naming.names)
    if notes.obstacles or shape is None or pixels is None:
        return Facts(notes.facts, mode, told, None, notes.obstacles, notes.doubts)
    public = as_sent(network, sight.before, naming.names, seed, own_to_each(recordings))
    view = View(
        FromPixels(public, pixels, recording.steps[0].inputs.shape[1:]),
        naming.names,
        personal,
        shape,
        pixels,
        classes,
        disclosed(recordings),
        meaning,
    )
    if unable := unfit(view.network, shape, mode):
        notes.obstacles.append(unable)
    return Facts(notes.facts, mode, told, None if notes.obstacles else view, notes.obstacles, notes.doubts)


def watched(ran: Ran) -> list[tuple[Sight, Recording]]:
    """Updates whose training was recorded as a whole, of one and the same network."""
    found: list[tuple[Sight, Recording]] = []
    for sight in ran.sights:
        recording = ran.recordings.get((sight.round, sight.client))
        if recording is None or recording.network is None or not recording.steps or recording.dropped:
            continue
        both = paired(sight)
        if not both.before:
            continue
        first = found[0][1].network if found else None
        if first is None or first.state_dict().keys() == recording.network.state_dict().keys():
            found.append((both, recording))
    return found
