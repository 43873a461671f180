"""The client's side of a secure sum: a Flower mod that masks what the client trained.

What it keeps between the stages of a round (its seeds, the keys of its neighbours, the shares that are its
own) stands in the client's context until it has answered the last one. It answers each stage once, never
tells both secrets of the same neighbour, and sends nothing at all where fewer than `threshold` are left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fedlab import seeds
from fedlab.audit.grids import tensors
from fedlab.errors import UsageError
from fedlab_defenses.secure_sum.keys import KeyPair, mask, mask_key, seal, unseal
from fedlab_defenses.secure_sum.plan import (
    EXAMPLES,
    MASKED,
    PUBLIC_FIGURES,
    RECORD,
    SETUP,
    SHARES,
    STAGE,
    UNMASK,
    Plan,
)
from fedlab_defenses.secure_sum.shares import SECRET, SHARE, Draw, split
from fedlab_defenses.secure_sum.vectors import Vectors, encoded

Answers = Callable[[Sequence[Message], Sequence[Context]], list[Message]]


class Masking:
    """A mod that takes one message at a time, as Flower has it, or a whole chunk (`cohort`).

    Args:
        plan: what was agreed on.
        cap: the largest weight; clients count by their records up to it. 1: they count alike.
        seed: of a simulation's seed tree, from which keys then come; None: from the operating system.
    """

    def __init__(self, plan: Plan, cap: int, seed: int | None = None) -> None:
        self.plan, self.cap, self.seed = plan, cap, seed

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self.cohort([message], [context], lambda m, c: [call_next(m[0], c[0])])[0]

    def cohort(
        self, messages: Sequence[Message], contexts: Sequence[Context], call_next: Answers
    ) -> list[Message]:
        """Answers, in order; those that train are trained together.

        Raises:
            UsageError: a stage out of turn, or one that would tell what must not be told.
        """
        replies: dict[int, Message] = {}
        training: list[int] = []
        for row, (message, context) in enumerate(zip(messages, contexts, strict=True)):
            kind = message.metadata.message_type.partition(".")[0]
            if kind == "train":
                self._check_turn(message, context)
                training.append(row)
            elif kind == "query" and RECORD in message.content:
                replies[row] = self._answered(message, context)
        rest = [row for row in range(len(messages)) if row not in replies]
        if rest:
            called = call_next([messages[row] for row in rest], [contexts[row] for row in rest])
            replies |= zip(rest, called, strict=True)
        for row in training:
            if not replies[row].has_error():
                replies[row] = self._masked(messages[row], contexts[row], replies[row])
        return [replies[row] for row in range(len(messages))]

    def _answered(self, message: Message, context: Context) -> Message:
        asked = message.content.config_records[RECORD]
        stages = {SETUP: self._setup, SHARES: self._shares, UNMASK: self._unmask}
        stage = str(asked[STAGE])
        if stage not in stages:
            raise UsageError(f"secagg-plus stage {stage!r}; expected {', '.join(stages)}")
        said = stages[stage](asked, context)
        return Message(RecordDict({RECORD: said}), reply_to=message)

    def _setup(self, asked: ConfigRecord, context: Context) -> ConfigRecord:
        """Fresh keys: one pair for letters, one for masks, and a seed of a mask of its own."""
        mine, round = int(str(asked["you"])), int(str(asked["round"]))
        draw = self._source(round, mine)
        letters, masks, own = draw(SECRET), draw(SECRET), draw(SECRET)
        context.state[RECORD] = ConfigRecord(
            {STAGE: SETUP, "you": mine, "round": round, "letters": letters, "masks": masks, "own": own}
        )
        return ConfigRecord({"letters": KeyPair.of(letters).public, "masks": KeyPair.of(masks).public})

    def _shares(self, asked: ConfigRecord, context: Context) -> ConfigRecord:
        """Sealed shares of its secrets for its neighbours; its own it keeps."""
        kept = self._kept(context, asked, SETUP)
        mine = int(str(kept["you"]))
        nodes = cast(list[int], asked["nodes"])
        letters, masks = cast(list[bytes], asked["letters"]), cast(list[bytes], asked["masks"])
        needed = self.plan.needed(len(nodes))
        if len(set(nodes)) < max(needed, 2) or mine not in nodes:
            raise UsageError(
                f"{len(nodes)} nodes to share masks with; expected at least {max(needed, 2)}, oneself among"
                " them: with fewer, single updates could be opened"
            )
        draw = self._source(int(str(kept["round"])), mine, "shares")
        own = split(cast(bytes, kept["own"]), needed, len(nodes), draw)
        key = split(cast(bytes, kept["masks"]), needed, len(nodes), draw)
        pair, channels, sealed = KeyPair.of(cast(bytes, kept["letters"])), [], []
        for node, other, first, second in zip(nodes, letters, own, key, strict=True):
            channel = pair.agree(other, b"letters") if node != mine else b""
            channels.append(channel)
            sealed.append(seal(channel, mine, first + second) if node != mine else b"")
        kept[STAGE] = SHARES
        kept["nodes"], kept["keys"], kept["channels"] = nodes, masks, channels
        kept["share"] = own[nodes.index(mine)]
        return ConfigRecord({"sealed": sealed})

    def _check_turn(self, message: Message, context: Context) -> None:
        """Refuse to train where the result could not be masked."""
        asked = message.content.config_records.get(RECORD)
        if asked is None or asked.get(STAGE) != MASKED:
            raise UsageError(
                "asked to train without secure aggregation, which would show this client's update;"
                " expected a message of the secagg-plus protocol"
            )
        self._kept(context, asked, SHARES)
        alive = cast(list[int], asked["alive"])
        if len(set(alive)) < self.plan.threshold:
            raise UsageError(
                f"{len(set(alive))} clients are left of the round; threshold = {self.plan.threshold}"
            )

    def _masked(self, message: Message, context: Context, reply: Message) -> Message:
        """The reply with a masked vector in the place of model and figures."""
        asked = message.content.config_records[RECORD]
        kept = self._kept(context, asked, SHARES)
        before = tensors(message.content.array_records["arrays"])
        (record,) = reply.content.array_records.values()
        (metrics,) = reply.content.metric_records.values()
        figures = {name: float(str(value)) for name, value in metrics.items()}
        told = {name: value for name, value in figures.items() if name.startswith(PUBLIC_FIGURES)}
        weight = 1 if self.cap == 1 else min(round(figures.pop(EXAMPLES)), self.cap)
        names = sorted(figures.keys() - told.keys())
        listed = [figures[name] for name in names]
        plain = encoded(self.plan, before, tensors(record), listed, weight, self.cap)
        sent = plain + self._masks(kept, set(cast(list[int], asked["alive"])), plain)
        kept[STAGE] = MASKED
        content = RecordDict(
            {
                RECORD: ConfigRecord({"names": names, "cap": self.cap}),
                "masked": ArrayRecord({"values": Array(sent.values), "figures": Array(sent.figures)}),
                "told": MetricRecord(dict(told)),
            }
        )
        return Message(content, reply_to=message)

    def _masks(self, kept: ConfigRecord, alive: set[int], like: Vectors) -> Vectors:
        """The client's own mask, and those that cancel against its neighbours'."""
        mine, pair = int(str(kept["you"])), KeyPair.of(cast(bytes, kept["masks"]))
        total = grown(mask_key(cast(bytes, kept["own"])), like)
        nodes, keys = cast(list[int], kept["nodes"]), cast(list[bytes], kept["keys"])
        for node, key in zip(nodes, keys, strict=True):
            if node == mine or node not in alive:
                continue
            one = grown(pair.agree(key, b"masks"), like)
            total = total + one if mine < node else total - one
        return total

    def _unmask(self, asked: ConfigRecord, context: Context) -> ConfigRecord:
        """Of each neighbour one share: of its own mask if its vector came, of its key if it did not."""
        kept = self._kept(context, asked, MASKED)
        mine, nodes = int(str(kept["you"])), cast(list[int], kept["nodes"])
        came, dropped = set(cast(list[int], asked["came"])), set(cast(list[int], asked["dropped"]))
        if came & dropped or mine not in came or len(came) < self.plan.threshold:
            raise UsageError(
                f"{len(came)} masked vectors came, {len(came & dropped)} of them are said to be dropped;"
                f" expected none, this client's among those that came, and at least {self.plan.threshold}"
            )
        del context.state[RECORD]  # whatever comes of it, there is no second answer
        channels = dict(zip(nodes, cast(list[bytes], kept["channels"]), strict=True))
        said: dict[int, bytes] = {mine: cast(bytes, kept["share"])}
        senders, letters = cast(list[int], asked["from"]), cast(list[bytes], asked["sealed"])
        for node, sealed in zip(senders, letters, strict=True):
            letter = unseal(channels[node], node, sealed)
            if node in came:
                said[node] = letter[:SHARE]
            elif node in dropped:
                said[node] = letter[SHARE:]
        return ConfigRecord({"of": list(said), "shares": list(said.values())})

    def _kept(self, context: Context, asked: ConfigRecord, stage: str) -> ConfigRecord:
        """What the client remembers of this round, if it stands where it should.

        Raises:
            UsageError: it does not.
        """
        kept = context.state.config_records.get(RECORD, ConfigRecord())
        if kept.get(STAGE) != stage or kept.get("round") != asked.get("round"):
            raise UsageError(
                f"secagg-plus: asked for the stage after {stage!r} of round {asked.get('round')!r}, but this"
                f" client has been through {kept.get(STAGE)!r} of round {kept.get('round')!r};"
                " each stage comes once, in its order"
            )
        return kept

    def _source(self, round: int, node: int, purpose: str = "keys") -> Draw:
        """Random bytes: of the operating system, or of the seed tree."""
        if self.seed is None:
            return os.urandom
        return seeds.numpy_generator(self.seed, "secagg", purpose, round, node).bytes


def grown(key: bytes, like: Vectors) -> Vectors:
    """The mask that grows from a key, as long as `like`."""
    values = mask(key, len(like.values), 8 * like.values.itemsize)
    return Vectors(cast(np.ndarray, values), cast(np.ndarray, mask(key, len(like.figures), 64, stream=1)))
