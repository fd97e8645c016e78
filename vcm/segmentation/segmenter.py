"""FewShotSegmenter: learns labels from one or a few labelled brains, and names the voxels of others.

Voices, each a probability per class and voxel, are multiplied:

    features   perceptrons on diffusion features (arXiv 2407.12329; Baranchuk et al., ICLR 2022)
    atlas      the labelled brains warped onto the scan; only for classes where it helps. Where labels are drawn in
               some slices only, the other voices name the voxels between them first
    unet       a 3D U-Net fitted to augmented copies of the labelled brains; likewise

Where each class has its counterpart on the other side, each voice is the mean of a brain and its mirror image.
Knows arrays on the model's grid; files are the affair of vcm.segmentation.saved, fit and apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.atlas import register, warp_labels
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.voxel_classifier import VoxelClassifier, jensen_shannon
from vcm.segmentation.classifier_fit import FitSettings, fit_classifier
from vcm.segmentation.copies import warped_copy
from vcm.segmentation.features import DiffusionFeatures
from vcm.segmentation.labelled import (
    UNKNOWN,
    LabelledBrain,
    refuse_unlabelled,
    warn_of_missing_labels,
)
from vcm.segmentation.likeness import Alike, made_alike
from vcm.segmentation.saved import load_segmenter, save_segmenter
from vcm.segmentation.sides import both_ways, counterparts
from vcm.segmentation.slabs import in_slabs, refuse_too_large
from vcm.segmentation.unet_fit import BoxUNet, fit_unet
from vcm.segmentation.voices import (
    LESSER_ATLAS,
    LESSER_FEATURES,
    VOICES,
    Heard,
    check_voices,
    heard_for,
    multiplied,
    where_plausible,
)
from vcm.segmentation.voxels import choose_voxels

#: Voxels that go through the perceptrons at a time.
CHUNK = 65_536
#: By how much the Dice of the atlas or the U-Net may fall short of that of the features, on copies that none
#: learned from, and that voice still be heard for a class.
HELPS_MARGIN = 0.05


@dataclass(frozen=True)
class Prediction:
    """What the voices say of one brain, on the model's grid.

    Attributes:
        posterior: (C, X, Y, Z) probability of each class, background first; background outside the
            brain.
        uncertainty: (X, Y, Z) disagreement of the perceptrons, Jensen-Shannon divergence in 0..1.
        spread: (C,) standard deviation, over the perceptrons, of the number of voxels of each class.
        unlike: By how much the brain looks unlike the labelled ones, see `Alike`.
        matched: Whether its brightness was matched to theirs.
        voices: Those that were heard.
    """

    posterior: NDArray[np.float16]
    uncertainty: NDArray[np.float32]
    spread: NDArray[np.float64]
    unlike: float | None = None
    matched: bool = False
    voices: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int16]:
        """(X, Y, Z): the most probable class of each voxel."""
        return self.posterior.argmax(0).astype(np.int16)


class FewShotSegmenter:
    """Fit on labelled brains, predict others.

    Args:
        features: Of the voxels.
        names: Of the classes, background first.
        indices: Their labels in files. Default: 0, 1, 2 ...

    Attributes:
        slab: Sagittal slices of a brain whose features are in memory at a time; 0: all of them.
        completed: Whether other voices named voxels of the labelled brains that were not labelled.
        other_side: (C,) the class on the other side of each, see vcm.segmentation.sides; None: brains are asked
            about as they are, not mirrored.
    """

    def __init__(
        self,
        features: DiffusionFeatures,
        names: Sequence[str],
        indices: Sequence[int] | None = None,
    ) -> None:
        self.features, self.names = features, list(names)
        self.indices = list(range(len(names))) if indices is None else list(indices)
        self.voices: tuple[str, ...] = ()
        self.slab, self.completed = 0, False
        self.other_side: NDArray[np.int64] | None = None
        self.brains: list[LabelledBrain] = []
        self.contrasts: set[str] = set()
        self.classifier: VoxelClassifier | None = None
        self.unet: BoxUNet | None = None
        self.atlas_helps = np.zeros(len(names), bool)
        self.trust: dict[str, dict[str, float]] = {}

    def fit(
        self,
        brains: Sequence[LabelledBrain],
        voices: Sequence[str] | None = None,
        settings: FitSettings | None = None,
        copies: int = 12,
        voxels: int = 150_000,
        judged: int = 2,
        report: Callable[[str], None] = lambda stage: None,
        mirror: bool = True,
        start: TissueSegmenter | None = None,
    ) -> FewShotSegmenter:
        """Learn from labelled brains.

        Args:
            brains: One or more, each wholly or partly labelled.
            voices: Some of vcm.segmentation.voices.VOICES; the atlas of labels that are drawn in some slices only
                takes another voice, which completes them. Default: all.
            settings: Of the perceptrons.
            copies: Deformed copies of each brain to learn from beside it.
            voxels: To learn from in all.
            judged: Further copies of each brain that no voice learns from, to estimate how far each
                can be trusted. 0: not estimated, and the atlas is used for every class.
            report: Told what is done, for a progress bar.
            mirror: Ask each voice about the mirror image of a brain too, where each class has its counterpart on the
                other side.
            start: Whose weights the U-Net begins with; None: random ones.

        Returns:
            Itself.

        Raises:
            VCMError: A voice is unknown, or none can be heard; a brain or a class has no labelled voxel.
        """
        refuse_unlabelled(brains, self.names)
        warn_of_missing_labels(brains, self.names)
        settings = settings or FitSettings()
        self.brains = list(brains)
        self.contrasts = {brain.contrast for brain in brains}
        self.other_side = counterparts(brains, len(self.names)) if mirror else None
        whole = all(b.whole for b in brains)
        self.voices = check_voices(VOICES if voices is None else voices, whole)
        each = max(1, voxels // (len(brains) * (copies + 1)))
        found, targets, weights = [], [], []
        for number, brain in enumerate(brains):
            for copy in range(copies + 1):
                report(f"features of copy {copy} of {brain.source}")
                image, labels = self._copy(brain, number, copy, settings.seed)
                random = np.random.default_rng((settings.seed, number, copy))
                mask, weight = choose_voxels(image, labels, each, random)
                found.append(self.features(image, mask))
                targets.append(labels[mask])
                weights.append(weight)
        report("perceptrons")
        self.classifier = fit_classifier(
            np.concatenate(found), np.concatenate(targets), np.concatenate(weights),
            len(self.names), settings, self._device,
        )  # fmt: skip
        if "unet" in self.voices:
            self.unet = fit_unet(
                self.brains,
                len(self.names),
                settings.seed,
                self._device,
                report=report,
                start=start,
            )
        self.completed = "atlas" in self.voices and not whole
        if self.completed:
            report("the slices between")
            self.brains = [self._complete(brain) for brain in brains]
        report("trust")
        self._judge(brains, copies, judged, settings.seed)
        return self

    def _complete(self, brain: LabelledBrain) -> LabelledBrain:
        """With the most probable labels where there were none, by the voices but the atlas."""
        mask = (brain.image > 0) & (brain.labels == UNKNOWN)
        labels = np.where(brain.labels == UNKNOWN, 0, brain.labels)
        if mask.any():
            said = []
            if "features" in self.voices:
                said.append(self.ask_perceptrons(brain.image, mask).mean(0))
            if "unet" in self.voices:
                said.append(self.ask_unet(brain.image, mask))
            labels[mask] = multiplied(said).argmax(1)
        return replace(brain, labels=labels.astype(np.int16))

    def predict(
        self,
        image: NDArray[np.float32],
        voices: Sequence[str] | None = None,
        match: str = "auto",
    ) -> Prediction:
        """Name the voxels of a brain.

        Args:
            image: (X, Y, Z) in 0..1 on the model's grid, 0 outside the brain.
            voices: As `choose_voices` has it.
            match: Give the scan the brightness of the labelled ones: auto (where it looks different),
                always or never.

        Raises:
            VCMError: It is not fitted, a voice or `match` is unknown, or the brain lies on another grid.
        """
        if self.classifier is None:
            raise VCMError("The segmenter is not fitted yet: call fit, or load one.")
        chosen = self.choose_voices(voices)
        wanted = self.brains[0].image.shape
        if image.shape != wanted:
            raise VCMError(
                f"The brain has {image.shape} voxels, but the segmenter learned from brains of {wanted}: bring it "
                "onto the same grid, as align_brain does."
            )
        alike = self.alike(image, match)
        found = self.combined(self.listen(alike.image, chosen), chosen)
        return replace(found, unlike=alike.unlike, matched=alike.matched, voices=chosen)

    def choose_voices(self, voices: Sequence[str] | None = None) -> tuple[str, ...]:
        """The voices that are heard of a brain, in their order.

        Args:
            voices: Some of those that it was fitted with. Default: all of them, but not the features where
                `unet_suffices`; they tell the uncertainty then.

        Raises:
            VCMError: It was not fitted with one of them, or none is given.
        """
        wanted = self.voices if voices is None else voices
        if not wanted or not set(wanted) <= set(self.voices):
            raise VCMError(
                f"voices is {list(wanted)}, but the segmenter was fitted with {', '.join(self.voices)}: choose from "
                "these.",
                argument="voices",
            )
        spared = "features" if voices is None and self.unet_suffices else ""
        return tuple(voice for voice in VOICES if voice in wanted and voice != spared)

    def alike(self, image: NDArray[np.float32], match: str = "auto") -> Alike:
        """A brain as the labelled scans would show it; arguments as `predict` has them."""
        labelled = [brain.image for brain in self.brains]
        return made_alike(image, labelled, self.features.spacing, match)

    def listen(self, image: NDArray[np.float32], voices: Sequence[str]) -> Heard:
        """What each voice says of a brain; the perceptrons are always asked, for the uncertainty.

        Args:
            image: (X, Y, Z) in 0..1 on the model's grid, 0 outside the brain.
            voices: Some of those that it was fitted with.
        """
        mask = image > 0
        return Heard(
            mask,
            self.ask_perceptrons(image, mask)
            if "features" in voices
            else self._ask_perceptrons(image, mask),
            self.ask_atlas(image, mask) if "atlas" in voices else None,
            self.ask_unet(image, mask) if "unet" in voices else None,
        )

    def combined(self, heard: Heard, voices: Sequence[str]) -> Prediction:
        """The product of the voices.

        Args:
            heard: From `listen`.
            voices: Which of them take part.
        """
        mask, members = heard.mask, heard.members
        spread = np.stack([np.bincount(m.argmax(1), minlength=len(self.names)) for m in members])
        mean = members.mean(0)
        parts, weights = [], []
        atlas = heard.atlas if "atlas" in voices else None
        features: NDArray[np.float32] | None = None
        if "features" in voices:
            features = mean if atlas is None else where_plausible(mean, atlas, self.atlas_helps)
            atlas = None if atlas is None else heard_for(self.atlas_helps, atlas, features)
            parts.append(features)
            lesser = "unet" in voices and self.unet_suffices
            weights.append(LESSER_FEATURES if lesser else 1.0)
        if atlas is not None:
            parts.append(atlas)
            lesser = "unet" in voices or (self.completed and features is not None)
            weights.append(LESSER_ATLAS if lesser else 1.0)
        if "unet" in voices:
            unet = heard.unet
            assert unet is not None
            parts.append(unet if features is None else heard_for(self.unet_helps, unet, features))
            weights.append(1.0)
        posterior = np.zeros((len(self.names), *mask.shape), np.float16)
        posterior[0] = 1
        posterior[:, mask] = multiplied(parts, weights).T
        uncertainty = np.zeros(mask.shape, np.float32)
        uncertainty[mask] = jensen_shannon(torch.from_numpy(members)).numpy()
        return Prediction(posterior, uncertainty, spread.std(0))

    @property
    def _device(self) -> torch.device:
        return next(iter(self.features.of_view.values())).device

    def _copy(
        self, brain: LabelledBrain, number: int, copy: int, seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Copy 0 is the brain itself."""
        if copy == 0:
            return brain.image, brain.labels
        chosen = int(np.random.SeedSequence((seed, number, copy)).generate_state(1)[0] >> 1)
        return warped_copy(brain.image, brain.labels, chosen - chosen % 2 + copy % 2, UNKNOWN)

    def ask_perceptrons(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Probabilities (M, N, C) that each perceptron gives the voxels of a mask."""
        return both_ways(self._ask_perceptrons, image, mask, self.other_side)

    def ask_atlas(self, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Mean (N, C) of the labels warped onto the image, at the voxels of a mask."""
        return both_ways(self._ask_atlas, image, mask, self.other_side)

    def ask_unet(self, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Probabilities (N, C) that the U-Net gives the voxels of a mask."""
        assert self.unet is not None
        unet = self.unet
        return both_ways(lambda i, m: unet(i)[:, m].T, image, mask, self.other_side)

    @torch.inference_mode()
    def _ask_perceptrons(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        assert self.classifier is not None
        slabs = list(in_slabs(mask, self.slab))
        largest = max(int(slab.sum()) for slab in slabs)
        refuse_too_large(self.features.bytes_for(largest), self.slab)
        parts = []
        for slab in slabs:
            found = self.features(image, slab)
            for first in range(0, len(found), CHUNK):
                chunk = torch.from_numpy(found[first : first + CHUNK]).to(self._device)
                parts.append(self.classifier(chunk).cpu().numpy())
        return np.concatenate(parts, 1)

    def _ask_atlas(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        warped = [
            warp_labels(b.labels, len(self.names), register(image, b.image))[:, mask].T
            for b in self.brains
        ]
        found: NDArray[np.float32] = np.mean(np.stack(warped), axis=0, dtype=np.float32)
        return found

    def _judge(self, brains: Sequence[LabelledBrain], copies: int, judged: int, seed: int) -> None:
        """Dice of each voice per class on copies that it did not learn from, where they are labelled."""
        found: dict[str, list[NDArray]] = {voice: [] for voice in self.voices}
        for number, brain in enumerate(brains):
            for copy in range(copies + 1, copies + 1 + judged):
                image, labels = self._copy(brain, number, copy, seed)
                if not (image > 0).any():
                    continue
                heard = self.listen(image, self.voices)
                for voice in self.voices:
                    named = self.combined(heard, [voice]).labels
                    found[voice].append(_dice(named, labels, len(self.names)))
        mean = {voice: np.nanmean(rows, 0) for voice, rows in found.items() if rows}
        self.trust = {
            voice: {n: float(v) for n, v in zip(self.names[1:], values[1:], strict=True)}
            for voice, values in mean.items()
        }
        self.atlas_helps = self._heard("atlas")

    @property
    def unet_suffices(self) -> bool:
        """Whether the U-Net saw its whole box at once and does well in each class: the features add nothing then."""
        return self.unet is not None and self.unet.saw_all and bool(self.unet_helps[1:].all())

    @property
    def unet_helps(self) -> NDArray[np.bool_]:
        """(C,): the classes for which the U-Net is heard beside the features."""
        return self._heard("unet")

    def _heard(self, voice: str) -> NDArray[np.bool_]:
        """(C,): the classes for which a voice is heard beside the features; all, where nothing is estimated."""
        if not {"features", voice} <= self.trust.keys():
            return np.ones(len(self.names), bool)
        ahead = (
            self.trust[voice][name] >= self.trust["features"][name] - HELPS_MARGIN
            for name in self.names[1:]
        )
        return np.array([False, *ahead])

    def save_pretrained(self, folder: str | Path) -> None:
        """One folder that holds everything, the slice diffusion model too, with checksums."""
        save_segmenter(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> FewShotSegmenter:
        """Load what `save_pretrained` wrote.

        Raises:
            VCMError: The folder holds no segmenter, or a part of it is missing, was changed or cannot be read.
        """
        return load_segmenter(cls, Path(folder))

    def to(self, device: torch.device | str) -> FewShotSegmenter:
        """Compute on that device."""
        self.features.to(device)
        for net in (self.classifier, self.unet.net if self.unet else None):
            if net is not None:
                net.to(device)
        return self


def _dice(found: NDArray, truth: NDArray, classes: int) -> NDArray[np.float64]:
    """Per class, where the truth is known; NaN for a class that it lacks."""
    known = truth != UNKNOWN
    found, truth = found[known], truth[known]
    values = []
    for k in range(classes):
        a, b = found == k, truth == k
        values.append(2 * (a & b).sum() / (a.sum() + b.sum()) if b.any() else np.nan)
    return np.array(values)
