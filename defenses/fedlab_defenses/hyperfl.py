"""HyperFL as a defense: clients share a hypernetwork, and the network that it generates stays with them.

Guo, Zeng, Chen, Zhang, Ren, Zhou, Qu, "A New Federated Learning Framework Against Gradient Inversion
Attacks", AAAI 2025, https://arxiv.org/abs/2412.07187. The algorithm is the local rule `hyperfl`
(`fedlab.clients.rules.hyperfl`); here it is put over plain FedAvg, so that one scenario compares it with
other defenses. Attacks that need the whole model do not apply to it; `hypernetwork-pullback` needs only what
is sent.

A round trains the classifier first, so that it takes more than `head_epochs` passes: `local_epochs` counts
them where the scenario counts steps or has too few. Everything else about the protocol (larger uploads,
accuracy as clients report it of their own models) is as with the rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.rules import LocalRule
from fedlab.clients.rules.hyperfl import HyperFL as Rule
from fedlab.errors import UsageError


class HyperFL(Defense):
    """Clients send φ of θ_i = h(v_i; φ), and keep their embedding v_i and their classifier.

    Guo et al., "A New Federated Learning Framework Against Gradient Inversion Attacks", AAAI 2025,
    https://arxiv.org/abs/2412.07187.

    Args:
        embedding: numbers in a client's embedding v.
        hidden: units of the hypernetwork's hidden layer; the upload grows with it.
        mip: whether the hypernetwork is magnitude invariant (Ortiz et al., ICLR 2024).
        head_epochs: passes of a round that train the classifier alone, before the others.
        head_learning_rate: of the classifier.
        momentum: of classifier, hypernetwork and embedding.
        weight_decay: of all three.
        clip: largest norm of the gradient of φ, and of that of v.
        local_epochs: passes of a round in all; those of the scenario unless given.
    """

    paper = (
        "Guo et al., A New Federated Learning Framework Against Gradient Inversion Attacks, AAAI 2025,"
        " https://arxiv.org/abs/2412.07187"
    )
    example: ClassVar[dict[str, Any]] = {"embedding": 16, "hidden": 16, "local_epochs": 2}
    adaptive = ("hypernetwork-pullback",)

    def __init__(
        self,
        *,
        embedding: Annotated[int, Field(ge=1)] = 64,
        hidden: Annotated[int, Field(ge=1)] = 128,
        mip: bool = False,
        head_epochs: Annotated[int, Field(ge=1)] = 1,
        head_learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        weight_decay: Annotated[float, Field(ge=0)] = 5e-4,
        clip: Annotated[float, Field(gt=0)] = 50.0,
        local_epochs: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        self.rule = Rule(
            embedding=embedding,
            hidden=hidden,
            mip=mip,
            head_epochs=head_epochs,
            head_learning_rate=head_learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            clip=clip,
        )
        if local_epochs is not None and local_epochs <= head_epochs:
            raise UsageError(
                f"local_epochs = {local_epochs}; expected more than head_epochs = {head_epochs}, so that the"
                " hypernetwork learns too"
            )
        self.local_epochs = local_epochs

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return self.rule.network(factory)

    def config(self, config: ClientConfig) -> ClientConfig:
        if self.local_epochs is None:
            return config
        return replace(config, local_steps=None, local_epochs=self.local_epochs)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        """The rule `hyperfl`.

        Raises:
            UsageError: clients follow another rule than FedAvg's, or train in a way that it cannot follow.
        """
        if type(rule) is not LocalRule:
            raise UsageError(
                "the defense hyperfl is a local rule of its own, and cannot be put over"
                f' {type(rule).__name__}; set strategy.local_rule = "fedavg", and in a stack name it first'
            )
        self.rule.check(federation.config)
        return self.rule
