"""A network that generates the parameters of another one: θ = h(v; φ).

Ha, Dai, Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106. In federated learning the
embedding v stands for a client (Shamsian et al., ICML 2021, https://arxiv.org/abs/2103.04628): hidden
layers, then one linear head for each tensor of θ.

Magnitude Invariant Parametrization: Ortiz, Guttag, Dalca, "Magnitude Invariant Parametrizations Improve
Hypernetwork Learning", ICLR 2024, https://arxiv.org/abs/2304.07645. With piecewise linear activations
‖θ‖ grows with ‖v‖, and so does every gradient: the scale of the input is a hidden learning rate. With it

    γ = sigmoid(v),  E(γ) = [cos(πγ/2), sin(πγ/2)],  θ = θ⁰ + h(E(γ); φ),

where ‖E(γ)‖² is the length of v whatever v is, and θ⁰ (here: the biases of the heads, which is the same
thing) is learned and starts as the generated network would start by itself. Hidden layers are
LeakyReLU; weights start by Kaiming's rule over their outputs, each head by itself; other biases at 0.

Deviation: the paper's inputs are in [0, 1] as they stand. Embeddings are not, so they pass a sigmoid.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlab.errors import UsageError
from fedlab.tasks.functional import State
from fedlab.tasks.layers import Dropout, GaussianSample


class HyperNetwork(nn.Module):
    """Embeddings (..., e) to named tensors, each of shape (..., *its own).

    Args:
        like: what is generated: tensors of these names and shapes, whose values are θ⁰ under MIP.
        embedding: e.
        hidden: units of each hidden layer.
        mip: whether magnitudes are kept from the input and from the output (see the module).

    Raises:
        UsageError: nothing to generate, or a number of units below 1.
    """

    def __init__(
        self, like: Mapping[str, Tensor], embedding: int, hidden: Sequence[int], *, mip: bool = False
    ) -> None:
        super().__init__()
        if not like:
            raise UsageError(
                "the hypernetwork has nothing to generate: no parameters are left beside those that stay"
                " with the clients; choose a network with at least one layer before its classifier"
            )
        check_sizes(embedding, hidden)
        self.mip = mip
        self.shapes = {name: value.shape for name, value in like.items()}
        layers: list[nn.Module] = []
        inputs = 2 * embedding if mip else embedding
        for units in hidden:
            layers += [nn.Linear(inputs, units), nn.LeakyReLU() if mip else nn.ReLU()]
            inputs = units
        self.hidden = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(
            {key_of(name): nn.Linear(inputs, math.prod(shape)) for name, shape in self.shapes.items()}
        )
        if mip:
            self._start(like)

    @torch.no_grad()
    def _start(self, like: Mapping[str, Tensor]) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
                nn.init.zeros_(layer.bias)
        for name, value in like.items():
            self.heads[key_of(name)].get_parameter("bias").copy_(value.reshape(-1))

    def forward(self, embedding: Tensor) -> State:
        features = self.hidden(encoded(embedding) if self.mip else embedding)
        return {
            name: self.heads[key_of(name)](features).reshape(*embedding.shape[:-1], *shape)
            for name, shape in self.shapes.items()
        }


def encoded(embedding: Tensor) -> Tensor:
    """(..., e) to (..., 2e) of squared norm e: cosine and sine of a quarter turn by sigmoid(v)."""
    angle = torch.sigmoid(embedding) * (math.pi / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class GeneratedNetwork(nn.Module):
    """A network all of whose parameters but its classifier's come out of a hypernetwork.

    Its parameters are `hypernetwork.…`, `embedding` (e,) and the classifier's own, `head.…`.

    Args:
        network: what is generated; only its structure is kept, and θ⁰ under MIP.
        embedding, hidden, mip: of the `HyperNetwork`.

    Raises:
        UsageError: the network has layers that cannot be generated, or no linear classifier.
    """

    def __init__(
        self, network: nn.Module, embedding: int, hidden: Sequence[int], *, mip: bool = False
    ) -> None:
        super().__init__()
        _refuse(network)
        parameters = {name: value.detach() for name, value in network.named_parameters()}
        own = classifier(parameters)
        generated = {name: value for name, value in parameters.items() if name not in own}
        self.hypernetwork = HyperNetwork(generated, embedding, hidden, mip=mip)
        self.embedding = nn.Parameter(torch.randn(embedding))
        self.head = nn.ParameterDict({name.rpartition(".")[2]: parameters[name].clone() for name in own})
        self._own = own
        # In a tuple torch does not see it: its tensors are no parameters, and take no memory.
        self._network = (copy.deepcopy(network).to("meta").eval(),)

    def generated(self) -> State:
        """θ for the embedding as it stands."""
        found: State = self.hypernetwork(self.embedding)
        return found

    def forward(self, x: Tensor) -> Tensor:
        head = {name: self.head[name.rpartition(".")[2]] for name in self._own}
        tensors = {**self.generated(), **head}
        outputs: Tensor = torch.func.functional_call(self._network[0], tensors, (x,), tie_weights=False)
        return outputs


PERSONAL = ("embedding", "head.")
"""How the names of a `GeneratedNetwork` begin that belong to one client alone."""


def classifier(parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the last layer's parameters, given a network's in its own order.

    Raises:
        UsageError: the last layer is no linear one, or has no name of its own.
    """
    last = list(parameters)[-1]
    layer, _, _ = last.rpartition(".")
    names = tuple(name for name in parameters if name.rpartition(".")[0] == layer)
    weight = parameters.get(f"{layer}.weight")
    if not layer or weight is None or weight.dim() != 2 or len(names) > 2:
        raise UsageError(
            f"the network's last parameters are {', '.join(names)}; expected the weight and the bias of a"
            " linear layer, its classifier, which each client keeps to itself (mlp, lenet and convnet have"
            " one)"
        )
    return names


def check_sizes(embedding: int, hidden: Sequence[int]) -> None:
    """Refuse a layer without units.

    Raises:
        UsageError: there is one.
    """
    for name, units in (("embedding", embedding), *(("hidden", units) for units in hidden)):
        if units < 1:
            raise UsageError(f"{name} = {units}; expected at least 1 (of the hypernetwork)")


def generated_network(
    factory: Callable[[], nn.Module], embedding: int, hidden: Sequence[int], mip: bool
) -> GeneratedNetwork:
    """What `factory` makes, generated; at top level, so that workers can be sent a partial of it."""
    return GeneratedNetwork(factory(), embedding, hidden, mip=mip)


def key_of(name: str) -> str:
    """A parameter's name as a module's, which must not hold a dot."""
    return name.replace(".", "-")


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, Dropout)


def _refuse(network: nn.Module) -> None:
    for name, layer in network.named_modules():
        problem = None
        if isinstance(layer, _DROPOUTS) and layer.p > 0:
            problem = f"drops units (p = {layer.p})", "dropout = 0"
        elif next(layer.buffers(recurse=False), None) is not None:
            problem = "keeps statistics", 'norm = "group", "layer" or "none"'
        elif isinstance(layer, GaussianSample):
            problem = "draws noise", "no variational bottleneck"
        elif not all(value.requires_grad for value in layer.parameters(recurse=False)):
            problem = "is frozen", "every layer trained"
        if problem:
            raise UsageError(
                f"layer {name} ({type(layer).__name__}) {problem[0]}, which a generated network cannot;"
                f" choose a model without it ({problem[1]})"
            )
