"""FLTrust: the server has a few records of its own, and believes who agrees with them.

Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021,
https://arxiv.org/abs/2012.13995, Algorithm 2. With g₀ the update of the server's records, client i's trust
is TS_i = max(0, cos(g_i, g₀)), and its update is made as long as g₀. Clients count by their trust alone.

Where the paper says nothing: without any trust (or where g₀ is 0) the aggregate is 0, and an update of
length 0 has no trust. The paper's global learning rate α is the server optimizer's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.errors import UsageError
from fedlab.strategies.aggregators.contract import AggregatorState, Updates
from fedlab.strategies.aggregators.geometry import norms
from fedlab.strategies.aggregators.ranges import Positive, whole


class FLTrust:
    """Σ TS_i g_i ‖g₀‖ / ‖g_i‖ / Σ TS_i with TS_i = max(0, cos(g_i, g₀)), g₀ the server's own update.

    Cao et al., "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021,
    https://arxiv.org/abs/2012.13995.

    Args:
        root_records: records of the server, drawn from the training data.
    """

    needs_root = True

    def __init__(self, *, root_records: Positive = 100) -> None:
        self.root_records = whole("root_records", root_records, 1)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        if updates.root is None:
            raise UsageError("FLTrust needs Updates.root, the update of the server's own records; got none")
        tiny = torch.finfo(updates.deltas.dtype).tiny
        lengths, length = norms(updates.deltas), updates.root.norm()
        towards = updates.deltas @ updates.root / (lengths * length).clamp(min=tiny)
        trust = towards.clamp(min=0.0)
        share = trust / trust.sum().clamp(min=tiny) * length / lengths.clamp(min=tiny)
        return share @ updates.deltas, state
