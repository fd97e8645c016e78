"""An ensemble of perceptrons that names voxels by their features, and says how sure it is.

Baranchuk et al., ICLR 2022, arXiv 2112.03126: an ensemble of multi-layer perceptrons on frozen
diffusion features, trained on few labelled pixels; the uncertainty is the Jensen-Shannon divergence
between its members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float


class VoxelClassifier(ModelMixin):
    """Features (N, F) -> probabilities of the classes (N, C).

    Args:
        features: F.
        classes: C.
        members: Perceptrons.
        hidden: Units of their two hidden layers.
        dropout: Share of the hidden units that is dropped in training.
    """

    @register_to_config
    def __init__(
        self,
        features: int,
        classes: int,
        members: int = 3,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.perceptrons = nn.ModuleList(
            _perceptron(features, tuple(hidden), classes, dropout) for _ in range(members)
        )

    def standardise_by(self, features: Float[Tensor, "N F"]) -> None:
        """Mean and standard deviation per feature from a sample (N, F)."""
        values = features.float()
        self.get_buffer("mean").copy_(values.mean(0))
        self.get_buffer("spread").copy_(values.std(0).clamp_min(1e-4))

    def standardised(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """(N, F) with mean 0 and spread 1 per feature."""
        return (features.float() - self.get_buffer("mean")) / self.get_buffer("spread")

    def forward(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "M N C"]:
        """Probabilities of every member: (M, N, C)."""
        x = self.standardised(features)
        return torch.stack([member(x).softmax(1) for member in self.perceptrons])


def jensen_shannon(probabilities: Float[Tensor, "M N C"]) -> Float[Tensor, " N"]:
    """Disagreement of an ensemble.

    Args:
        probabilities: (M, N, C) of M members.

    Returns:
        (N,) entropy of the mean minus mean of the entropies, as a share of its largest value, in 0..1;
        0 for a single member.
    """
    members, _, classes = probabilities.shape
    largest = math.log(min(members, classes))
    if largest == 0:
        return torch.zeros(probabilities.shape[1], device=probabilities.device)
    divergence = _entropy(probabilities.mean(0)) - _entropy(probabilities).mean(0)
    return (divergence / largest).clamp(0, 1)


def _entropy(probabilities: Float[Tensor, "*N C"]) -> Float[Tensor, "*N"]:
    return torch.special.entr(probabilities).sum(-1)


def _perceptron(features: int, hidden: tuple[int, ...], classes: int, dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in zip((features, *hidden), hidden, strict=False):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear((features, *hidden)[-1], classes))
