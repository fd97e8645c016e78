"""What a user may choose for `vcm upsample`. Knows names and defaults; checks nothing, loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Upsampling:
    """Configuration of `vcm upsample`. Lengths in mm; None: see vcm.imaging.acquisition.

    scans          one or more of one head and contrast; the first gives the frame of the result; the
                   path `example` where there is no such file: see vcm.upsampling.example
    masks          brain masks of the scans, for scans with their skull on; empty: brain-extracted
    samples        brains to draw beside it; 0: none, which is fastest and changes nothing of the mean
    output         the `mean` that the model expects, which errs least, or the first `sample`, which
                   is sharper
    consistency    project each sample onto the measured slices
    noise          error of a slice over that of a sample, see Degradation.project
    detail_noise   the same over that of the detail network's image, which errs little where slices
                   are: less would carry the noise of each slice into stripes
    mirrors        ask the detail network of the eight mirrored brains, see DetailNet.over_mirrors
    """

    scans: list[Path] = field(default_factory=list)
    out: Path = Path("upsampled")
    model: str = "brain1mm"
    spacing: float = 1.0
    slice_axis: str | None = None
    slice_thickness: float | None = None
    profile: str = "gaussian"
    masks: list[Path] = field(default_factory=list)
    samples: int = 4
    steps: int = 10
    seed: int = 0
    output: str = "mean"
    consistency: bool = True
    noise: float = 0.1
    detail_noise: float = 0.5
    mirrors: bool = True
    any_contrast: bool = False
    age: float | None = None
    sex: str | None = None
    device: str = "auto"
    precision: str = "bfloat16"
    ventricular_volume: float | None = None
    brain_volume: float | None = None
    contrast: str | None = None
    allow_extrapolation: bool = True
