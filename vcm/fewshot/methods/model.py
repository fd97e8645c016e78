"""A fitted few-shot method: what it answers for a case, and the folder that it is kept in.

Knows arrays and scans; nothing of shots or fitting. A folder holds model.json and
model.safetensors; the same code answers here and in a container.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vcm.errors import VCMError
from vcm.fewshot.cases.preparation import prepare, to_reference
from vcm.fewshot.cases.tasks import Task, task_from
from vcm.fewshot.methods.feature_names import FROZEN, parts_of
from vcm.fewshot.methods.features import Scans, features
from vcm.fewshot.methods.network import FewShotUNet
from vcm.imaging.volume import Volume
from vcm.nets.memory_format import channels_last_on_cpu
from vcm.nets.windows import HALF, by_windows, starts

#: A network of an earlier version, which does not tell the patches that it learned from, reads a volume whole up to
#: this many voxels, else in windows of this edge [voxel].
WHOLE, WINDOW = 16_000_000, 96
#: Where more windows of half overlap would be needed, a whole head of 1 mm, they overlap by a quarter: a challenge gives two
#: minutes for a case.
MANY, QUARTER = 150, 0.25


@dataclass(frozen=True)
class Answer:
    """What a model says of a case: one of a value, class probabilities, a label map, an embedding.

    labels lie on the voxels of the case's reference, the first slot that is there.
    """

    value: float | None = None
    probabilities: NDArray[np.float64] | None = None
    labels: NDArray[np.uint8] | None = None
    embedding: NDArray[np.float32] | None = None


@dataclass
class FittedModel:
    """A method fitted to shots.

    method   its name
    task     what it answers
    how      constant, linear, network or embedding
    feature  of linear and embedding: one of FEATURES, or several of them, joined by +
    arrays   all numbers
    record   what it was fitted on, and what its parents saw; for people
    """

    method: str
    task: Task
    how: str
    arrays: dict[str, Tensor]
    feature: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    _networks: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, folder: Path) -> None:
        """Write model.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: value.contiguous() for name, value in self.arrays.items()}
        save_file(arrays, folder / "model.safetensors")
        card = {
            "method": self.method,
            "task": self.task.as_dict(),
            "how": self.how,
            "feature": self.feature,
            "settings": self.settings,
            "record": self.record,
        }
        (folder / "model.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """Read what `save` wrote. Raises VCMError for a folder that is none, or is damaged."""
        if not (folder / "model.json").is_file() or not (folder / "model.safetensors").is_file():
            raise VCMError(
                f"{folder} holds no fitted model (model.json and model.safetensors): give the folder that "
                "vcm fewshot finetune wrote."
            )
        try:
            card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "model.safetensors")
            return cls(
                card["method"], task_from(card["task"]), card["how"], arrays, card["feature"],
                card["settings"], card["record"],
            )  # fmt: skip
        except (KeyError, ValueError, OSError, SafetensorError) as error:
            raise VCMError(
                f"The model in {folder} cannot be read ({error}): fit it again."
            ) from error

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the scans that a case has."""
        return self.task.slots

    def answer(self, scans: Scans, mask: Volume | None = None) -> Answer:
        """The answer for one case.

        Args:
            scans: slot -> scan.
            mask: brain mask on the voxels of the reference, for scans with their skull.
        """
        if self.how == "constant":
            return self.prior(scans)
        if self.how == "network":
            return self._segment(scans, mask)
        return self.answer_features(self._features(scans, mask))

    def answer_features(self, x: NDArray[np.float64]) -> Answer:
        """The answer of a closed-form method, from the features of the case."""
        mean, scale = (self.arrays[n].double().numpy() for n in ("mean", "scale"))
        if len(x) != len(mean):
            raise VCMError(
                f"The case has {len(x)} features and the model {len(mean)}: fit the model again."
            )
        standardised = (x - mean) / scale
        if self.how == "embedding":
            return Answer(embedding=standardised.astype(np.float32))
        weights, bias = (self.arrays[n].double().numpy() for n in ("weights", "bias"))
        scores = standardised @ weights + bias
        if self.task.kind == "regression":
            return Answer(value=float(scores[0]))
        shifted = np.exp(scores - scores.max())
        return Answer(probabilities=shifted / shifted.sum())

    def prior(self, scans: Scans | None = None) -> Answer:
        """What is answered without looking: mean, class frequencies, no structure, a zero vector."""
        if self.task.kind == "segmentation":
            shape = next(iter(scans.values())).data.shape if scans else (1, 1, 1)
            return Answer(labels=np.zeros(shape, dtype=np.uint8))
        if self.task.kind == "embedding":
            return Answer(embedding=np.zeros(len(self.arrays["mean"]), dtype=np.float32))
        prior = self.arrays["prior"].double().numpy()
        if self.task.kind == "regression":
            return Answer(value=float(prior[0]))
        return Answer(probabilities=prior)

    def _features(self, scans: Scans, mask: Volume | None) -> NDArray[np.float64]:
        with torch.inference_mode():
            parts = [
                features(name, scans, self.slots, mask, self._parent(name))
                for name in parts_of(self.feature)
            ]
        return np.concatenate(parts)

    def _parent(self, name: str) -> Any:
        """The network behind the features of that name; None where they need none."""
        if "parent" in self.settings:
            return self._network("parent", self.settings["parent"])
        if name in self.settings.get("parents", {}):
            return self._network(name, self.settings["parents"][name])
        if name in FROZEN:
            return self._frozen(name)
        return None

    @torch.inference_mode()
    def _segment(self, scans: Scans, mask: Volume | None) -> Answer:
        made = prepare(scans, self.slots, self.settings["spacing"], None, mask)
        image = torch.from_numpy(made.image)[None]
        members = int(self.settings["members"])
        # Earlier versions said neither.
        mirror, window = bool(self.settings.get("mirror")), int(self.settings.get("window", 0))
        total = torch.zeros((len(self.task.classes) + 1, *made.grid.shape))
        for member in range(members):
            network = self._network(f"net{member}", self.settings["network"])
            total += probabilities(network, image, mirror, window)[0]
        return Answer(labels=to_reference((total / members).numpy(), made))

    def _frozen(self, name: str) -> Any:
        """The frozen diffusion model behind the features, by name: a container does not hold it."""
        if name not in self._networks:
            module = import_module("vcm.fewshot.methods.frozen_features")
            recorded = self.settings["frozen"]
            network, checksum = module.load_frozen(name, recorded["model"])
            if checksum != recorded["checksum"]:
                raise VCMError(
                    f"The method '{self.method}' was fitted with other weights of {recorded['model']} than "
                    "those here: fit it again."
                )
            self._networks[name] = network
        return self._networks[name]

    def _network(self, prefix: str, settings: Mapping[str, Any]) -> FewShotUNet:
        if prefix not in self._networks:
            chosen = dict(settings)
            if "channels" in chosen:
                chosen["channels"] = tuple(chosen["channels"])
            network = FewShotUNet(**chosen)
            start = f"{prefix}."
            network.load_state_dict(
                {n.removeprefix(start): v for n, v in self.arrays.items() if n.startswith(start)}
            )
            device = "cuda" if torch.cuda.is_available() else "cpu"
            channels_last_on_cpu(network, device)
            self._networks[prefix] = network.float().eval().to(device)
        found: FewShotUNet = self._networks[prefix]
        return found


def probabilities(
    network: FewShotUNet, image: Tensor, mirror: bool = False, window: int = 0
) -> Tensor:
    """Class probabilities of an image, window by window where it is larger than one.

    The network computes where it is; the image and the answer are on the CPU.

    Args:
        network: In evaluation mode.
        image: (1, C, X, Y, Z), from left to right along X.
        mirror: Average with the answer for the mirror image, left for right; not of an image of more than WHOLE voxels.
        window: Edge of a window [voxel], that of the patches that the network learned from; 0: the image is one
            window, unless it is so large that windows of WINDOW voxels are read.

    Returns:
        (1, classes, X, Y, Z).
    """
    size = image.shape[2:]
    large = size.numel() > WHOLE
    edge = window or (WINDOW if large else max(size))
    many = window and math.prod(len(starts(n, edge)) for n in size) > MANY

    def answer(part: Tensor) -> Tensor:
        part = part.to(network.device)
        found = network(part).softmax(1)
        return (
            (found + network(part.flip(2)).softmax(1).flip(2)) / 2
            if mirror and not large
            else found
        )

    return by_windows(answer, image, edge, QUARTER if many else HALF)
