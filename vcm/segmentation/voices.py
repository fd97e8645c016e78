"""The voices of a few-shot segmenter: which there are, what they say of a brain, and their product.

    features   perceptrons on diffusion features
    atlas      the labelled brains warped onto the scan
    unet       a 3D U-Net fitted to the labelled brains

Knows probabilities of voxels; nothing of the networks and registrations that they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError

VOICES = ("features", "atlas", "unet")
#: Probability below which no voice can push a class, so that none has a veto.
LEAST = 1e-3
#: Weight of the atlas in the product with a U-Net, which has 1, and of one that the features completed, in a
#: product with them.
LESSER_ATLAS = 0.5
#: Weight of the features beside a U-Net that saw its whole box.
LESSER_FEATURES = 0.25
#: Where the features find so many times more or fewer voxels of a class than the atlas does, the atlas alone
#: is heard for it: its volumes err less, and features that fail on a scan fail by much.
DOUBTFUL = 1.5


@dataclass(frozen=True)
class Heard:
    """What each voice says of the N voxels of a brain, in C classes.

    Attributes:
        mask: (X, Y, Z) of the voxels.
        members: (M, N, C) probabilities of the perceptrons.
        atlas: (N, C) mean of the warped labels.
        unet: (N, C) probabilities of the U-Net.
    """

    mask: NDArray[np.bool_]
    members: NDArray[np.float32]
    atlas: NDArray[np.float32] | None = None
    unet: NDArray[np.float32] | None = None


def check_voices(voices: Sequence[str], whole: bool) -> tuple[str, ...]:
    """The voices in their order.

    Raises:
        VCMError: A voice is unknown, none is given, or an atlas alone is to be heard of labels that are drawn in some
            slices only.
    """
    unknown = [v for v in voices if v not in VOICES]
    if unknown or not voices:
        raise VCMError(f"voices is {list(voices)}: choose one or more of {', '.join(VOICES)}.")
    if not whole and set(voices) == {"atlas"}:
        raise VCMError(
            "voices is ['atlas'], but the labels are drawn in some slices only, and an atlas needs whole ones: add "
            "features or unet, which name the voxels between the slices."
        )
    return tuple(v for v in VOICES if v in voices)


def multiplied(
    voices: Sequence[NDArray[np.float32]], weights: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Geometric mean of probabilities (N, C), weighted (default: equally); sums to 1 per voxel."""
    each = [np.log(np.maximum(p, LEAST)) for p in voices]
    logs = np.average(each, 0, weights)
    p = np.exp(logs - logs.max(1, keepdims=True))
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def where_plausible(
    features: NDArray[np.float32], atlas: NDArray[np.float32], helps: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(N, C): the features; what the atlas says of classes whose volumes by the two are far apart.

    Args:
        features: (N, C) probabilities.
        atlas: (N, C) likewise.
        helps: (C,) the classes that the atlas is heard for.
    """
    by_features, by_atlas = (
        np.bincount(p.argmax(1), minlength=len(helps)) for p in (features, atlas)
    )
    ratio = by_features / np.maximum(by_atlas, 1)
    doubtful = helps & ((ratio > DOUBTFUL) | (ratio < 1 / DOUBTFUL))
    merged = np.where(doubtful, atlas, features)
    merged[:, 0] = np.maximum(1 - merged[:, 1:].sum(1), 0)
    return _normalised(merged)


def heard_for(
    helps: NDArray[np.bool_], voice: NDArray[np.float32], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N, C): a voice; what the features say of background and of classes where it does not help."""
    return _normalised(np.where(helps, voice, features))


def _normalised(merged: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (N, C) that sum to 1."""
    return merged / np.maximum(merged.sum(1, keepdims=True), 1e-6)
