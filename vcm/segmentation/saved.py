"""A fitted segmenter as a folder: written with checksums, and loaded whole or not at all.

Knows names of files and what lies in them; nothing of how a segmenter learns or is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vcm.checksums import record_checksums, verify_checksums
from vcm.errors import VCMError
from vcm.files import write_json
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.voxel_classifier import VoxelClassifier
from vcm.segmentation.features import DiffusionFeatures, load_denoisers
from vcm.segmentation.labelled import LabelledBrain
from vcm.segmentation.unet_fit import BoxUNet

if TYPE_CHECKING:
    from vcm.segmentation.segmenter import FewShotSegmenter

#: File of what is no array: names, voices, trust.
DESCRIPTION = "segmenter.json"
#: File of the labelled brains.
ATLAS = "atlas.safetensors"
#: Folders of the networks.
SLICES, CLASSIFIER, UNET = "slices", "classifier", "unet"
#: What files that were cut or exchanged raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def save_segmenter(segmenter: FewShotSegmenter, folder: Path) -> None:
    """Write everything that a segmenter consists of, the slice diffusion model too, and checksums.

    Args:
        segmenter: Fitted.
        folder: For its files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nets = {id(net): net for net in segmenter.features.of_view.values()}
    if len(nets) == 1:
        next(iter(nets.values())).save_pretrained(folder / SLICES)
    else:
        for view, net in segmenter.features.of_view.items():
            net.save_pretrained(folder / SLICES / view)
    assert segmenter.classifier is not None
    segmenter.classifier.save_pretrained(folder / CLASSIFIER)
    if segmenter.unet is not None:
        segmenter.unet.net.save_pretrained(folder / UNET)
    arrays: dict[str, NDArray] = {}
    for n, brain in enumerate(segmenter.brains):
        # save_file writes the memory as it lies, whatever the order of the axes there.
        arrays[f"image.{n}"] = np.ascontiguousarray(brain.image)
        arrays[f"labels.{n}"] = np.ascontiguousarray(brain.labels)
    save_file(arrays, folder / ATLAS)
    write_json(folder / DESCRIPTION, _description(segmenter))
    record_checksums(folder)


def _description(segmenter: FewShotSegmenter) -> dict[str, object]:
    features, other_side, unet = segmenter.features, segmenter.other_side, segmenter.unet
    return {
        "names": segmenter.names,
        "indices": segmenter.indices,
        "contrasts": sorted(segmenter.contrasts),
        "voices": list(segmenter.voices),
        "completed": segmenter.completed,
        "other_side": None if other_side is None else other_side.tolist(),
        "atlas_helps": segmenter.atlas_helps.tolist(),
        "trust": segmenter.trust,
        "unet_box": unet.box.tolist() if unet and unet.box is not None else None,
        "features": {
            "time": features.time, "noisy": features.noisy, "blocks": features.blocks,
            "surroundings": features.surroundings, "seed": features.seed,
        },
    }  # fmt: skip


def load_segmenter(kind: type[FewShotSegmenter], folder: Path) -> FewShotSegmenter:
    """Load what `save_segmenter` wrote.

    Args:
        kind: Class of the segmenter.
        folder: Of its files. They are compared with its checksums; earlier versions wrote none.

    Returns:
        The segmenter.

    Raises:
        VCMError: The folder holds no segmenter, or a part of it is missing, was changed or cannot be read.
    """
    if not (folder / DESCRIPTION).is_file():
        raise VCMError(
            f"{folder} holds no segmenter ({DESCRIPTION}): give a folder that vcm segment fit wrote."
        )
    verify_checksums(folder)
    try:
        said = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        _refuse_missing_part(folder, said["voices"])
        return _loaded(kind, folder, said)
    except VCMError:  # says itself what is wrong
        raise
    except _DAMAGE as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise VCMError(
            f"The segmenter in {folder} cannot be loaded ({type(error).__name__}: {reason}): copy it again."
        ) from error


def _refuse_missing_part(folder: Path, voices: list[str]) -> None:
    """Raise VCMError where a network is not there, or the labelled brains, which any voice takes."""
    parts = [SLICES, CLASSIFIER, ATLAS, *([UNET] if "unet" in voices else [])]
    for part in parts:
        if not (folder / part).exists():
            raise VCMError(
                f"The segmenter in {folder} cannot be loaded ({part} is missing): copy it again."
            )


def _loaded(
    kind: type[FewShotSegmenter], folder: Path, said: Mapping[str, Any]
) -> FewShotSegmenter:
    features = DiffusionFeatures(load_denoisers(folder / SLICES), **said["features"])
    made = kind(features, said["names"], said["indices"])
    # Earlier versions did not say it, and were made for T1w scans.
    made.contrasts = set(said.get("contrasts", ["T1w"]))
    made.voices = tuple(said["voices"])
    made.atlas_helps = np.asarray(said["atlas_helps"], bool)
    made.trust = said["trust"]
    made.completed = bool(said.get("completed"))  # earlier versions did not complete labels
    other_side = said.get("other_side")  # earlier versions did not ask about mirror images
    made.other_side = None if other_side is None else np.asarray(other_side)
    made.classifier = VoxelClassifier.from_pretrained(folder / CLASSIFIER).eval()
    if "unet" in made.voices:
        net = TissueSegmenter.from_pretrained(folder / UNET).float().eval()
        box = said.get("unet_box")  # earlier versions had none
        made.unet = BoxUNet(net, None if box is None else np.asarray(box))
    arrays = load_file(folder / ATLAS)
    count = sum(name.startswith("image.") for name in arrays)
    made.brains = [LabelledBrain(arrays[f"image.{n}"], arrays[f"labels.{n}"]) for n in range(count)]
    return made
