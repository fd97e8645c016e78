"""The first convolution of a network of one input, for a network of several. Tensors in, tensors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

#: Share of its weights that a filter gives to the input that it reads most.
OWN = 0.5


def for_inputs(
    weights: Float[Tensor, "filters F k k k"], inputs: int
) -> Float[Tensor, "filters {inputs}*F k k k"]:
    """The first convolution of a network of one input, for several.

    Each filter gives OWN of its weights to one input, in turn, and shares the rest equally, so that activations
    keep their size. Were all inputs read alike, the network would begin with their mean, which hides
    what one of them shows alone.

    Args:
        weights: Of F voxels of one input.
        inputs: Number of them.
    """
    filters = torch.arange(len(weights))
    shares = torch.full((len(weights), inputs), (1 - OWN) / inputs)
    shares[filters, filters % inputs] += OWN
    return (shares[:, :, None, None, None, None] * weights[:, None]).flatten(1, 2)


def of_inputs(
    weights: Float[Tensor, "filters F k k k"], inputs: int, places: list[int]
) -> Float[Tensor, "filters G k k k"]:
    """The first convolution of a network of several inputs, for some of them.

    Args:
        weights: Of F / inputs voxels of each input.
        inputs: Number of them.
        places: Of those that are kept, in their new order.
    """
    return weights.unflatten(1, (inputs, -1))[:, places].flatten(1, 2)
