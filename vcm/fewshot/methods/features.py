"""Numbers that stand for a case in a closed-form method. Knows prepared scans; nothing of labels.

Every feature is a function of the scans alone and is computed once per case, whatever the shots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool3d

from vcm.errors import VCMError
from vcm.fewshot.cases.preparation import lies_on, prepare
from vcm.fewshot.methods.feature_names import FEATURES, VOLUMES
from vcm.fewshot.methods.views import seen_otherwise
from vcm.imaging.brightness import local_brightness
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Volume

#: voxels: 4 mm, smoothed by a Gaussian of one voxel, within a box of 192 x 224 x 192 mm.
VOXELS_SPACING, VOXELS_SHAPE, VOXELS_SMOOTHING = (4.0,) * 3, (48, 56, 48), 1.0
#: What pretrained networks were trained on.
SEGMENTER_SPACING, SEGMENTER_SHAPE = (2.0,) * 3, (80, 112, 80)
#: What a segmenter tells apart, background included; behind them it may tell lesions.
CLASSES = 9
#: Those within the brain: all but background and extracerebral CSF.
BRAIN_CLASSES = (1, 2, 3, 4, 5, 6, 8)
#: coarse: means of prepared voxels over so many along each axis, smoothed as voxels are.
COARSE = 2
#: Views of each shot that a method with views is fitted to, beside the shot itself.
VIEWS = 4
Scans = Mapping[str, Volume]


def features(
    name: str,
    scans: Scans,
    slots: Sequence[str],
    mask: Volume | None = None,
    network: Any = None,
) -> NDArray[np.float64]:
    """The features of a case.

    Args:
        name: one of FEATURES. voxels, coarse: intensities of all slots. local: the same as deviations from
            their surroundings. volumes, anyvolumes: fractions of the brain that seven tissues of the first
            slot take, and the brain's volume [L]. The others: activations of a network, pooled.
        scans: slot -> scan.
        slots: of the task, in their order.
        mask: brain mask of a scan with its skull.
        network: what those in feature_names.WITH_PARENT need: the tissue segmenter, or what else makes features
            of a scan (see parents.FeatureNetwork).

    Raises:
        VCMError: the features need a network that is not given, or find no brain.
    """
    if name == "voxels":
        made = prepare(scans, slots, VOXELS_SPACING, VOXELS_SHAPE, mask, VOXELS_SMOOTHING)
        return np.asarray(made.image, dtype=np.float64).ravel()
    if name == "local":
        made = prepare(scans, slots, VOXELS_SPACING, VOXELS_SHAPE, mask)
        each = [local_brightness(image, VOXELS_SPACING[0]) for image in made.image]
        return np.concatenate([gaussian_filter(v, VOXELS_SMOOTHING).ravel() for v in each])
    if name == "coarse":
        return np.concatenate([coarse(_image(scans, slot, mask)) for slot in slots])
    if name not in FEATURES:
        raise VCMError(f"The features '{name}' are unknown: choose one of {', '.join(FEATURES)}.")
    if network is None:
        raise VCMError(f"The features '{name}' need a pretrained network, and none is given.")
    inputs = getattr(network, "settings", {}).get("inputs", 1)
    if inputs != 1:
        raise VCMError(
            f"The features '{name}' are of one scan, but the network given reads {inputs} sequences side by side: give "
            "an encoder of vcm pretrain encoder."
        )
    if name in VOLUMES:
        return _volumes(_single(scans, slots[0], mask), network)
    pooled = [
        network.features(_single(scans, slot, mask).to(network.device))[0].float().cpu()
        if slot in scans
        else torch.zeros(network.feature_count)
        for slot in slots
    ]
    return torch.cat(pooled).double().numpy()


def coarse(image: Tensor) -> NDArray[np.float64]:
    """Smoothed voxels of 4 mm, (F,), of an image (X, Y, Z) at 2 mm."""
    means = avg_pool3d(image[None, None], COARSE)[0, 0].double().numpy()
    return np.asarray(gaussian_filter(means, VOXELS_SMOOTHING)).ravel()


def views_of_shot(
    scans: Scans, slots: Sequence[str], mask: Volume | None = None
) -> NDArray[np.float64]:
    """Coarse features of a case and of VIEWS views of it, (1 + VIEWS, F).

    The views depend on the scans alone, so a draw of the shots sees the same.
    """
    images = [_image(scans, slot, mask) for slot in slots]
    content = hashlib.sha256(b"".join(image.numpy().tobytes() for image in images)).digest()
    random = np.random.default_rng(int.from_bytes(content[:8], "big"))
    rows = [images]
    rows += [[seen_otherwise(image, random) for image in images] for _ in range(VIEWS)]
    return np.stack([np.concatenate([coarse(image) for image in row]) for row in rows])


def _image(scans: Scans, slot: str, mask: Volume | None) -> Tensor:
    """One scan at 2 mm, (X, Y, Z); 0 where the case lacks it."""
    if slot not in scans:
        return torch.zeros(SEGMENTER_SHAPE)
    return _single(scans, slot, mask)[0, 0]


def _single(scans: Scans, slot: str, mask: Volume | None) -> Tensor:
    """One scan as a pretrained network reads it, (1, 1, X, Y, Z)."""
    if slot not in scans:
        raise VCMError(f"The features read {slot}, which this case lacks: choose other features.")
    inside = mask_of(scans, slot, mask)
    made = prepare({slot: scans[slot]}, (slot,), SEGMENTER_SPACING, SEGMENTER_SHAPE, inside)
    return torch.from_numpy(made.image)[None]


def mask_of(scans: Scans, slot: str, mask: Volume | None) -> Volume | None:
    """The brain mask of a case, which lies on the voxels of its first scan, on those of the scan of a slot."""
    first = next(iter(scans.values()))
    if mask is None or scans[slot] is first or not lies_on(mask, first):
        return mask
    if lies_on(mask, scans[slot]):
        return mask
    share = resample(mask.with_data((mask.data > 0).astype(np.float32)), scans[slot].grid, order=1)
    return scans[slot].with_data((share > 0.5).astype(np.uint8))


@torch.inference_mode()
def _volumes(image: Tensor, segmenter: Any) -> NDArray[np.float64]:
    logits = segmenter(image.to(segmenter.device))[:, :CLASSES]
    classes = logits.argmax(1).flatten().cpu()
    voxel = float(np.prod(SEGMENTER_SPACING)) / 1e6
    counts = torch.bincount(classes, minlength=CLASSES)[list(BRAIN_CLASSES)].double().numpy()
    brain = float(counts.sum())
    if brain * voxel < 0.2:
        raise VCMError(
            f"The segmenter finds {1000 * brain * voxel:.0f} mL of brain, less than 200 mL: this is no "
            "scan of a whole brain that it knows, so choose other features."
        )
    return np.concatenate([counts / brain, [brain * voxel]])
