"""FedPer: the classifier stays with each client, the layers below are learned together.

Arivazhagan, Aggarwal, Singh, Choudhary, "Federated Learning with Personalization Layers", 2019,
https://arxiv.org/abs/1912.00818, with K_P = 1 personal layer: each client trains all layers by SGD as
in FedAvg, sends the base layers only, and goes on with its own last layer when it is asked again.

All clients begin with the same classifier (in the paper each with its own). Buffers are shared.
"""

from __future__ import annotations

import torch

from fedlab.clients.rules.contract import LocalRule
from fedlab.tasks import State
from fedlab.tasks.hypernetwork import classifier


class PersonalHead(LocalRule):
    """w_i = (base, head_i): FedAvg on the base; each client's last linear layer never leaves it.

    Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, https://arxiv.org/abs/1912.00818.
    """

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        return {name: parameters[name].clone() for name in classifier(parameters)}
