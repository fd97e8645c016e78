"""What a call of a pipeline gives: volumes, where they lie, and what repeats them.

Knows seeds, placements and records; nothing of how a volume is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils.outputs import BaseOutput

from vcm.embedded import find_model
from vcm.errors import VCMError
from vcm.files import fingerprint, versions

if TYPE_CHECKING:
    from vcm.imaging.placing import PlacedCondition
from vcm.precision import resolve_precision
from vcm.report.synthetic import stem_of, write_synthetic


@dataclass
class VCMPipelineOutput(BaseOutput):
    """What a call gives.

    Attributes:
        volumes: (B, 1, X, Y, Z) in 0..1 as tensor or array, or latents (B, C, x, y, z).
        seeds: Of the volumes; None where the noise was given otherwise.
        placed: The condition on the model's grid and the way back; None for tensors.
        record: What repeats the call, as the sidecars say it.
    """

    volumes: Any
    seeds: list[int] | None = None
    placed: PlacedCondition | None = None
    record: dict[str, Any] | None = None

    def save(self, folder: str | Path, model_grid: bool = False) -> list[Path]:
        """Write what `vcm synthesize` writes: each volume on its condition's voxels, sidecars, a picture.

        Args:
            folder: Where the files are to lie.
            model_grid: Write each volume on the model's grid too.

        Returns:
            Paths of the volumes.

        Raises:
            VCMError: These are latents, or the folder cannot be written to.
        """
        from vcm.report.picture import outlined

        if self.placed is None or self.record is None:
            raise VCMError("These are latents, not volumes: sample with output_type 'pt' or 'np'.")
        images = [np.asarray(torch.as_tensor(v).cpu(), dtype=np.float32)[0] for v in self.volumes]
        seeds: Sequence[int | None] = self.seeds or [None] * len(images)
        marks = [f"sample-{k}" if s is None else f"seed-{s}" for k, s in enumerate(seeds)]
        folder, condition = Path(folder), self.record["Condition"]
        stem = stem_of(Path(condition) if condition else None)
        paths = [
            write_synthetic(
                image,
                self.placed.placement,
                folder,
                stem,
                mark,
                self.record | {"Seed": seed},
                model_grid,
            )
            for image, mark, seed in zip(images, marks, seeds, strict=True)
        ]
        titles = [f"synthetic, {mark.replace('-', ' ')}" for mark in marks]
        picture = folder / f"{stem}_desc-synthetic_mosaic.png"
        outlined(images, self.placed.classes, picture, titles)
        return paths


def sampling_record(
    pipeline: Any,
    placed: PlacedCondition,
    inputs: Mapping[str, Any],
    steered: bool,
    steps: int,
    precision: str,
    temperature: float,
    conditioning_scale: float,
    window: tuple[float, float],
) -> dict[str, Any]:
    """How volumes were sampled, as their sidecars say it; the arguments are those of the call."""
    return {
        "Labels": placed.vocabulary or None,
        **(placed.brain.describe() if placed.brain else {}),
        "Inputs": {name: asdict(given) for name, given in inputs.items()},
        "Steered": steered,
        "Steps": steps,
        "Precision": resolve_precision(precision, pipeline._execution_device),
        "Scheduler": {"class": type(pipeline.scheduler).__name__} | dict(pipeline.scheduler.config),
        "Temperature": temperature,
        "ConditioningScale": conditioning_scale,
        "ControlGuidance": list(window),
        "ToCommonSpace": placed.placement.to_common.tolist(),
        "Model": pipeline.source,
        "ModelSHA256": _tensor_checksums(pipeline),
        "Device": str(pipeline._execution_device),
        "Versions": versions(),
    }


def _tensor_checksums(pipeline: Any) -> dict[str, str]:
    """SHA-256 of the tensor files that it was loaded from; of one made in memory, none."""
    if pipeline.file_checksums:
        recorded = pipeline.file_checksums.items()
        return {path: checksum for path, checksum in recorded if path.endswith(".safetensors")}
    folder = find_model(pipeline.source) if pipeline.source else None
    return fingerprint(folder) if folder else {}
