"""A network as a pure function of its state, its mode and its dropout masks."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedlab.tasks.layers import BatchNorm, Dropout, GaussianSample, make_explicit

State = dict[str, Tensor]
"""Named tensors: parameters, buffers, an update, or dropout masks."""


def initialise(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call a model factory with torch's global generator seeded, and put the generator back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


class FunctionalModel:
    """`model(state, x, training=..., masks=...) -> (outputs, new buffers)`, free of side effects.

    Built from any `nn.Module` (a copy; the original is untouched) whose randomness lives in dropout
    layers. It can be mapped with `torch.func.vmap` over clients, and differentiated twice.

    Attributes:
        parameter_names: what is learned, in the module's order.
        buffer_names: the rest of a state: buffers, and parameters that were frozen.
        outputs: shape of one example's output.
        dropout_rates: rate of each dropout layer with a rate above zero, by name.
        mask_shapes: shape of one example's mask, by dropout layer, without the batch axis.
        noise_shapes: shape of one example's noise, by `GaussianSample` layer, without the batch axis.
    """

    def __init__(self, net: nn.Module, input_shape: Sequence[int]) -> None:
        self.net = make_explicit(copy.deepcopy(net))
        self.input_shape = torch.Size(input_shape)
        _refuse_shared(self.net)
        self.parameter_names = tuple(n for n, value in self.net.named_parameters() if value.requires_grad)
        self.net.requires_grad_(False)
        self.buffer_names = tuple(
            name for name in self.net.state_dict() if name not in set(self.parameter_names)
        )
        self._norms = tuple(n for n, m in self.net.named_modules() if isinstance(m, BatchNorm))
        self._penalties = tuple(
            n for n, m in self.net.named_modules() if m._buffers.get("penalty", 0) is None
        )
        self.dropout_rates: dict[str, float] = {}
        self.mask_shapes: dict[str, torch.Size] = {}
        self.noise_shapes: dict[str, torch.Size] = {}
        self._probe()

    def _zeros(self, examples: int) -> Tensor:
        """Input of the type that the first parameter has."""
        kind = next((value.dtype for value in self.net.parameters()), torch.float32)
        return torch.zeros(examples, *self.input_shape, dtype=kind)

    def _probe(self) -> None:
        """Run once on zeros, to learn the shape of every mask and every noise, and to fail early."""
        hooks = []
        for name, module in self.net.named_modules():
            if isinstance(module, GaussianSample):

                def measure(layer: GaussianSample, args: tuple[Tensor, Tensor], name: str = name) -> None:
                    if name in self.noise_shapes:
                        raise ValueError(
                            f"stochastic layer {name} is used twice in one pass, and draws the same noise"
                            " twice; give each place a layer of its own"
                        )
                    self.noise_shapes[name] = args[0].shape[1:]

                hooks.append(module.register_forward_pre_hook(measure))
            if isinstance(module, Dropout) and module.p > 0:
                self.dropout_rates[name] = module.p

                def note(layer: Dropout, args: tuple[Tensor], name: str = name) -> None:
                    if name in self.mask_shapes:
                        raise ValueError(
                            f"dropout layer {name} is used twice in one pass, and drops the same units twice;"
                            " give each place a layer of its own"
                        )
                    self.mask_shapes[name] = layer.mask_shape(args[0])

                hooks.append(module.register_forward_pre_hook(note))
        self.net.eval()
        try:
            self.outputs = self.net(self._zeros(2)).shape[1:]
        finally:
            for hook in hooks:
                hook.remove()
        for name in set(self.dropout_rates) - set(self.mask_shapes):
            del self.dropout_rates[name]  # a layer that the forward pass never reaches

    @property
    def has_batch_norm(self) -> bool:
        """Whether examples of a batch see each other."""
        return bool(self._norms)

    @property
    def parameter_count(self) -> int:
        """How many numbers are learned."""
        state = self.net.state_dict()
        return sum(state[name].numel() for name in self.parameter_names)

    @functools.cached_property
    def flops(self) -> int:
        """Floating-point operations of one example's forward pass in linear and convolutional layers.

        (torch's own FlopCounterMode counts more kinds, and costs seconds at its first use.)
        """
        total = 0

        def count(layer: nn.Module, arguments: object, output: Tensor) -> None:
            nonlocal total
            weight: Tensor = layer.get_parameter("weight")
            outputs = output.numel() if isinstance(layer, nn.Linear) else output[0, 0].numel() * len(weight)
            total += 2 * outputs * weight[0].numel()

        counted = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        hooks = [m.register_forward_hook(count) for m in self.net.modules() if isinstance(m, counted)]
        self.net.eval()
        try:
            self.net(self._zeros(1))
        finally:
            for hook in hooks:
                hook.remove()
        return total

    def state(self) -> State:
        """A copy of the parameters and buffers that the module was built with."""
        return {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def parameters_of(self, state: State) -> State:
        """The parameters in `state`, in the module's order."""
        return {name: state[name] for name in self.parameter_names}

    def buffers_of(self, state: State) -> State:
        """The buffers in `state`, in the module's order."""
        return {name: state[name] for name in self.buffer_names}

    def draw_masks(self, batch: int, generator: torch.Generator) -> State:
        """Keep-masks for `batch` examples: (batch, ...) of 0 and 1, by dropout layer.

        Compared by hand: `bernoulli_` draws doubles, which takes twice as long.
        """
        return {
            name: torch.rand(batch, *shape, generator=generator).lt_(1.0 - self.dropout_rates[name])
            for name, shape in self.mask_shapes.items()
        }

    def draw_noise(self, batch: int, generator: torch.Generator) -> State:
        """Standard normal noise for `batch` examples: (batch, ...), by `GaussianSample` layer."""
        return {
            name: torch.randn(batch, *shape, generator=generator) for name, shape in self.noise_shapes.items()
        }

    def __call__(
        self,
        state: State,
        x: Tensor,
        *,
        training: bool,
        masks: State | None = None,
        noise: State | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Outputs for `x` (B, ...) and the buffers after the pass.

        Args:
            state: parameters and buffers by name.
            training: batch statistics (True) or running statistics (False) in batch norm.
            masks: keep-masks by dropout layer, (B, ...) each; applied in either mode, so that an
                attacker can hold batch norm in evaluation mode and still model dropout. Needed in
                training mode when the network has dropout.
            noise: standard normal draws by `GaussianSample` layer, (B, ...) each; without any, such a layer
                gives its mean. Needed in training mode when the network has one.
            rows: (B,) weights of the examples in batch statistics; 0 marks padding.

        Raises:
            ValueError: training mode without masks for a network that has dropout, or without noise for one
                that has stochastic layers.
        """
        outputs, after, _ = self.penalised(state, x, training=training, masks=masks, noise=noise, rows=rows)
        return outputs, after

    def penalised(
        self,
        state: State,
        x: Tensor,
        *,
        training: bool,
        masks: State | None = None,
        noise: State | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, State, Tensor | None]:
        """The same, and what the network itself adds to each example's loss (B,) in training.

        None where nothing is added: by layers with a buffer `penalty`, which they set in each pass (the
        divergence of a variational bottleneck).
        """
        tensors = dict(state)
        if masks:
            tensors |= {f"{name}.mask" if name else "mask": mask for name, mask in masks.items()}
        elif training and self.dropout_rates:
            raise ValueError(
                "training mode needs the masks of dropout layers "
                f"{', '.join(self.dropout_rates)}; draw them with draw_masks()"
            )
        if noise:
            tensors |= {f"{name}.noise" if name else "noise": value for name, value in noise.items()}
        elif training and self.noise_shapes:
            raise ValueError(
                "training mode needs the noise of the stochastic layers "
                f"{', '.join(self.noise_shapes)}; draw it with draw_noise()"
            )
        if rows is not None and training:
            tensors |= {f"{name}.rows": rows for name in self._norms}
        penalties = [f"{name}.penalty" if name else "penalty" for name in self._penalties if training]
        tensors |= {name: x.new_zeros(len(x)) for name in penalties}
        self.net.train(training)
        kind = next((state[name].dtype for name in self.parameter_names), x.dtype)
        outputs = torch.func.functional_call(self.net, tensors, (x.to(kind),), tie_weights=False)
        added = sum(tensors[name] for name in penalties) if penalties else None
        return outputs, {name: tensors[name] for name in self.buffer_names}, added  # type: ignore[return-value]


def _refuse_shared(net: nn.Module) -> None:
    """Refuse tensors and modules under two names: stacked clients would let the copies drift apart."""
    for kind, named in (
        ("parameter", net.named_parameters(remove_duplicate=False)),
        ("module", net.named_modules(remove_duplicate=False)),
    ):
        first: dict[int, str] = {}
        for name, value in named:
            if id(value) in first:
                raise ValueError(
                    f"{kind} {name} is also {first[id(value)]}: tied weights and shared layers are not"
                    " supported; give each place its own"
                )
            first[id(value)] = name
