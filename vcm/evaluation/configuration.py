"""What a user may choose for `vcm evaluate`. Knows names and defaults; loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass
class Evaluation:
    """Configuration of `vcm evaluate`.

    Attributes:
        data: Folders that vcm prepare wrote.
        model: Name of an embedded model, or folder of a model with a module.
        segmenter: Name of an embedded segmenter, or folder that vcm pretrain segmenter wrote.
        out: Folder for the samples, the tables and the summary.
        overwrite: Replace an earlier evaluation in that folder of another model or other subjects.
        split: Split whose label maps are the conditions, test or validation; choose settings on validation.
        limit: Evaluate the first subjects only. Default: all that have a label map.
        steps: Number of denoising steps. Default: the model's recommendation.
        scheduler: Sampler: auto (the model's recommendation), saved (in the model's folder), ddim, ddpm,
            dpm++, dpm++-karras, unipc, euler, flow.
        temperature: Scale of the initial noise. Default: the model's recommendation.
        conditioning_scale: Strength of the module. Default: the model's recommendation.
        seed: Seed of the first sample; the others count up from it.
        covariate_samples: Samples at each of two ages, which show whether the covariates act.
        device: Where to compute: auto, cpu, cuda, cuda:1, mps.
    """

    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "steps": "Sampling",
        "device": "Machine",
    }

    data: list[str] = field(default_factory=list)
    model: str = ""
    segmenter: str = ""
    out: str = "runs/evaluation"
    split: str = "test"
    steps: int | None = None
    scheduler: str = "auto"
    temperature: float | None = None
    conditioning_scale: float | None = None
    seed: int = 0
    limit: int | None = None
    covariate_samples: int = 8
    device: str = "auto"
    overwrite: bool = False
