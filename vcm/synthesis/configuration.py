"""What a user may choose for `vcm synthesize`. Knows names and defaults; checks nothing, loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Synthesis:
    """Configuration of `vcm synthesize`. Ages in years, volumes in mL; None: see
    vcm.inputs. scheduler "auto" and no steps: what the model recommends; "saved": the
    scheduler in its folder, for imported models the one of their authors."""

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
    conditioning_scale: float = 1.0
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    uncontrolled: bool = False
    model_grid: bool = False
    allow_extrapolation: bool = False
    device: str = "auto"
    precision: str = "float32"
