"""What a user may choose for `vcm synthesize`. Names, defaults and texts; loads nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from vcm.config import LARGEST
from vcm.errors import VCMError

#: Most seeds of one run: each is a volume.
MOST_SEEDS = 100_000


def parse_seeds(text: str) -> list[int]:
    """'0-3' or '1,5,9' -> whole numbers, each once. Raises VCMError."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < LARGEST or last - first >= MOST_SEEDS:
            raise VCMError(
                f"seeds is '{text}': write whole numbers below 2^63 such as 0-3 or 1,5,9, at most "
                f"{MOST_SEEDS}."
            )
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


@dataclass
class Synthesis:
    """Configuration of `vcm synthesize`.

    Attributes:
        condition: Label map (NIfTI) that the volumes are to obey, or 'example', which travels with
            the package. The result lies on its voxels.
        partial: Scan of a head or a brain (NIfTI), for modules trained on a part of one; goes with
            known.
        known: Mask (NIfTI) that is 1 where the partial image is to be kept.
        labels: Vocabulary of the label map: auto, freesurfer, synthseg, dlmuse, vcm8, bids, fast, 5tt,
            or a YAML table.
        out: Folder for the volumes, their sidecars and the picture.
        overwrite: Replace earlier results in that folder that were made from another condition.
        super_resolution: Where the label map has finer voxels than the model, give the volumes the
            detail of scans of half the model's voxel size; else they are interpolated.
        model_grid: Write each volume on the model's own grid too.
        model: Name of an embedded model, or folder of a model.
        uncontrolled: Sample the frozen model alone, without its module.
        age: Age of the subject [years]. Default: typical of the training subjects.
        sex: Sex of the subject: F or M. Default: F, recorded as not given.
        ventricular_volume: Volume of the ventricles [mL]. Default: measured in the label map, else
            expected at that age and sex.
        brain_volume: Volume of the brain without ventricles and extracerebral CSF [mL]. Default: as
            for ventricular_volume.
        contrast: Contrast by name, for models that generate several. Default: the model's.
        allow_extrapolation: Accept ages and volumes outside the range of the training subjects.
        seeds: Seeds, one volume each: 0-3 or 1,5,9.
        steps: Number of denoising steps. Default: the model's recommendation.
        scheduler: Sampler: auto (the model's recommendation), saved (in the model's folder; for
            imported models that of their authors), ddim, ddpm, dpm++, dpm++-karras, unipc,
            euler, flow.
        temperature: Scale of the initial noise, 0 to 2; below 1 the volumes vary less. Default: the
            model's recommendation.
        conditioning_scale: Strength of the module: 1 as trained, 0 none, above 1 more than it learned.
            Default: the model's recommendation.
        control_guidance_start: Fraction of denoising steps before the module becomes active.
        control_guidance_end: Fraction of denoising steps after which the module is inactive.
        device: Where to compute: auto, cpu, cuda, cuda:1, mps.
        precision: Number format of the denoising: float32, or bfloat16, which is faster on most
            machines.
    """

    headings: ClassVar[dict[str, str]] = {
        "condition": "Condition and result",
        "model": "Model",
        "age": "Subject",
        "seeds": "Sampling",
        "device": "Machine",
    }
    readers: ClassVar[dict[str, Callable[[str], list[int]]]] = {"seeds": parse_seeds}

    condition: Path | None = None
    partial: Path | None = None
    known: Path | None = None
    out: Path = Path("synthetic")
    model: str = "brain2mm"
    labels: str = "auto"
    age: float | None = None
    sex: str | None = None
    ventricular_volume: float | None = None
    brain_volume: float | None = None
    contrast: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int | None = None
    scheduler: str = "auto"
    temperature: float | None = None
    conditioning_scale: float | None = None
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    uncontrolled: bool = False
    super_resolution: bool = True
    model_grid: bool = False
    allow_extrapolation: bool = False
    device: str = "auto"
    precision: str = "float32"
    overwrite: bool = False
