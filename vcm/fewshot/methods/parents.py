"""The pretrained networks that methods look through: where their weights are, and what they saw.

Knows names and folders of weights; nothing of shots. A network is known by the checksum of its weights, so a
feature of one is never taken for that of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from vcm.checksums import verify_checksums
from vcm.embedded import FOR_ANY, FOR_MAE, FOR_SEQUENCES, FOR_T1W, network_folder
from vcm.errors import VCMError
from vcm.fewshot.configuration import Encoders
from vcm.fewshot.methods.catalogue import PRETRAINED, WITH_SEQUENCES, Method
from vcm.fewshot.methods.network import ENCODER, FewShotUNet
from vcm.files import read_table, sha256
from vcm.nets.frozen_checksum import checksum_of
from vcm.nets.rounding import restore

_WEIGHTS = "diffusion_pytorch_model.safetensors"
#: In the folder of an encoder: the scans that it was trained on.
SEEN = "seen.tsv"
#: Networks whose weights travel with the package, by feature.
FROZEN_MODEL = "brain2mm"
#: Feature of an encoder that saw nothing: what pretraining has to be better than.
UNTRAINED = "untrained"
_WITH_SEGMENTER = ("volumes", "network")
_WITH_ANY_SEGMENTER = ("anyvolumes", "anysegmenter")
_OF_FROZEN_MODEL = ("latents", "denoiser")


class FeatureNetwork(Protocol):
    """What makes features of a scan."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def feature_count(self) -> int:
        """How many features a scan has."""

    def features(self, image: Tensor) -> Tensor:
        """(1, 1, X, Y, Z) in 0..1 at 2 mm -> (1, F)."""


@dataclass(frozen=True)
class SeenScan:
    """A scan that a network was trained on: one row of seen.tsv.

    Attributes:
        case: Its name.
        sequence: t1, t2, ...
        sha256: Of its file.
        content: `vcm.imaging.content_checksum`; "" where it was not recorded.
    """

    case: str
    sequence: str
    sha256: str
    content: str = ""


@dataclass(frozen=True)
class Parent:
    """One pretrained network.

    Attributes:
        network: With its weights.
        checksum: SHA-256 of the weights, and of how they read a scan where that is not as it comes.
        seen: Scans that it was trained on, where it says so.
        labelled: Whether it is a segmenter, which learned from label maps.
        sequences: That it reads side by side; none: it reads one scan of whichever sequence.
        spacing: Voxel size of the scans that it was trained on [mm]; 0 where it does not say.
    """

    network: Any
    checksum: str
    seen: tuple[SeenScan, ...] = ()
    labelled: bool = False
    sequences: tuple[str, ...] = ()
    spacing: float = 0.0

    def known(self) -> dict[str, str]:
        """SHA-256 of the file and of the content of each scan that it was trained on -> case."""
        return {key: scan.case for scan in self.seen for key in (scan.sha256, scan.content) if key}


def open_parents(methods: Iterable[Method], encoders: Encoders) -> dict[str, Parent]:
    """Feature -> the network that it needs, for all that the methods need. Raises VCMError."""
    found = {}
    for feature in dict.fromkeys(f for m in methods for f in (*m.features, m.start) if f):
        name = parent_name(feature, encoders)
        if feature in _OF_FROZEN_MODEL:
            found[feature] = _frozen(feature, name)
        elif feature == UNTRAINED:
            given = encoders.mae or encoders.hybrid
            like = load_parent(given).network if given else None
            found[feature] = untrained_encoder(like)
        elif name:
            found[feature] = load_parent(name)
    return found


def parent_name(feature: str, encoders: Encoders) -> str:
    """Name or folder of the weights behind a feature; "" where there are none.

    Raises:
        VCMError: It is an encoder, and the configuration does not say which.
    """
    if feature in _WITH_SEGMENTER:
        return FOR_T1W
    if feature in _WITH_ANY_SEGMENTER:
        return FOR_ANY
    if feature in _OF_FROZEN_MODEL:
        return FROZEN_MODEL
    if feature == WITH_SEQUENCES:
        return FOR_SEQUENCES
    if feature not in ("mae", "hybrid"):
        return ""
    name: str = getattr(encoders, feature)
    if not name:
        raise VCMError(
            f"The method '{feature}' needs an encoder: add {feature}=FOLDER with the folder 'encoder' "
            f"that vcm pretrain encoder wrote{', or mae=' + FOR_MAE if feature == 'mae' else ''}."
        )
    return name


def load_parent(name: str) -> Parent:
    """A segmenter or encoder, embedded under that name or in that folder.

    Raises:
        VCMError: There is none, or its files are not those that were saved.
    """
    folder = network_folder(name)
    if not (folder / "config.json").is_file() or not (folder / _WEIGHTS).is_file():
        raise VCMError(
            f"{name} holds no pretrained network (config.json and weights): give the folder 'encoder' "
            "that vcm pretrain encoder wrote."
        )
    verify_checksums(folder)
    card = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if card.get("_class_name") not in ("TissueSegmenter", "ScanEncoder"):
        raise VCMError(
            f"{name} holds a {card.get('_class_name')}, but a method starts from an encoder of "
            "vcm pretrain encoder or a segmenter of vcm pretrain segmenter: give the folder of one."
        )
    weights = load_file(folder / _WEIGHTS)
    restore(weights)
    if card["_class_name"] == "ScanEncoder":
        start = "unet."
        weights = {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
    patch = card.get("patch", 1)
    outputs = len(weights["out.conv.conv.bias"]) // patch**3
    local = card.get("local_brightness", False)
    sequences = tuple(card.get("_sequences", ()))
    inputs = card.get("inputs", 1)
    if inputs != max(len(sequences), 1):
        raise VCMError(
            f"{name} reads {inputs} images side by side, but does not say of which sequences: train it with vcm "
            "pretrain sequence-segmenter."
        )
    network = FewShotUNet(inputs, outputs, tuple(card["channels"]), card["groups"], patch, local)
    network.load_state_dict(weights)
    seen: tuple[SeenScan, ...] = ()
    if (folder / SEEN).is_file():
        seen = tuple(
            SeenScan(row["case"], row.get("sequence", "n/a"), row["sha256"], row.get("content", ""))
            for row in read_table(folder / SEEN)
        )
    labelled = card["_class_name"] == "TissueSegmenter"
    checksum = _checksum(sha256(folder / _WEIGHTS), local)
    spacing = float(card.get("_spacing", 0))
    return Parent(network.eval(), checksum, seen, labelled, sequences, spacing)


def untrained_encoder(like: FewShotUNet | None = None) -> Parent:
    """A network with random weights, the same every time.

    Args:
        like: The pretrained network that it is compared with. None: that of `vcm pretrain encoder` as its
            configurations have it.
    """
    settings: dict[str, Any] = ENCODER
    if like is not None:
        settings = {"channels": like.channels, "groups": like.settings["groups"]}
        settings |= {"patch": like.patch, "local": like.local}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FewShotUNet(1, 1, **settings)
    weights = checksum_of(network.state_dict().items(), 1.0)
    return Parent(network.eval(), _checksum(weights, network.local))


def _checksum(weights: str, local: bool) -> str:
    """Of a network with those weights: by them alone two that read a scan otherwise are not told apart."""
    return hashlib.sha256(f"{weights}|local".encode()).hexdigest() if local else weights


def describe_parents(method: Method, encoders: Encoders) -> str:
    """What the parents of a method saw, for tables."""
    own = [parent_name(f, encoders) for f in method.features if f in ("mae", "hybrid")]
    if not own:
        return method.parents
    parents = [load_parent(name) for name in own]
    saw = method.parents
    if any(p.labelled for p in parents):
        saw = saw.replace(PRETRAINED, "network pretrained on scans, some or all with label maps")
    return f"{saw}: " + ", ".join(
        f"{f'{len(p.seen)} scans' if p.seen else 'scans that it does not record'}, weights {p.checksum[:12]}"
        for p in parents
    )


def _frozen(feature: str, model: str) -> Parent:
    # By name, so that a container, which follows imports, does not take diffusers and MONAI along.
    module = import_module("vcm.fewshot.methods.frozen_features")
    network, checksum = module.load_frozen(feature, model)
    return Parent(network, checksum)
