"""`vcm segment apply` for every T1w scan of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vcm.derivatives import Derivation
from vcm.imaging.participants import Participant
from vcm.segmentation.apply import apply_settings, segment_files
from vcm.segmentation.segmenter import FewShotSegmenter


def segmentation_derivation(
    model: Path,
    segmenter: FewShotSegmenter,
    voices: Sequence[str] | None = None,
    match: str = "auto",
) -> Derivation:
    """What is made of each scan.

    Args:
        model: Folder of the segmenter.
        segmenter: Loaded from it.
        voices: Some of those that it was fitted with. Default: as FewShotSegmenter.choose_voices has it.
        match: Brightness of the labelled scans: auto, always or never.

    Raises:
        VCMError: It was not fitted with one of the voices.
    """

    def run(path: Path, work: Path, person: Participant) -> Mapping[str, object]:
        (row,) = segment_files([path], model, segmenter, work, voices, match=match)
        uncertainty = next(work.glob("*_desc-uncertainty.nii.gz"))  # BIDS wants a suffix
        uncertainty.rename(uncertainty.with_name(uncertainty.name.replace(".nii", "_probseg.nii")))
        return {f"{k} [mL]": v for k, v in row.items() if k not in ("scan", "status")}

    settings = apply_settings(model, segmenter, voices, match)
    labels = list(zip(segmenter.indices, segmenter.names, strict=True))
    return Derivation("Segmented scans", "T1w", run, settings, {"mask": {"Type": "Brain"}}, labels)
