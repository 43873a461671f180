"""The first layer stays as it was initialised: it has no gradient that could tell what it was given.

What the gradient by the first layer's weights gives away of a record is plain algebra (x = dW_i / db_i: Phong
et al., IEEE TIFS 2018, https://doi.org/10.1109/TIFS.2017.2787987; the patch equations of a transformer: Lu et
al., CVPR 2022, https://arxiv.org/abs/2112.14087). A layer that is not trained has none. What is left is the
same algebra one layer further in, whose input is a public function of the record, and matching the gradients
of the other layers.

"First" is the first linear or convolutional layer in the network's own order; a norm or a table of positions
beside it is still trained. The frozen weights travel with the buffers: they come back as they were sent, the
same from every client.
"""

from __future__ import annotations

import functools

from torch import nn

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.errors import UsageError
from fedlab_defenses.architecture.surgery import first_layer


class FrozenFirstLayer(Defense):
    """Does not train the first layer with weights: no update has its gradient.

    Against the closed forms that read a first layer (Phong et al., IEEE TIFS 2018,
    https://doi.org/10.1109/TIFS.2017.2787987).
    """

    paper = (
        "against Phong et al., Privacy-Preserving Deep Learning via Additively Homomorphic Encryption,"
        " IEEE TIFS 2018, https://doi.org/10.1109/TIFS.2017.2787987"
    )
    adaptive = ("cascade", "inverting-gradients")

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(_frozen, factory)


def _frozen(factory: NetworkFactory) -> nn.Module:
    net = factory()
    name, layer = first_layer(net)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UsageError(
            f"frozen-first-layer: {name} is the only layer with weights, and nothing would be left to train;"
            " choose a deeper network"
        )
    return net
