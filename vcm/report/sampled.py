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
from vcm.files import fingerprint, refuse_to_replace, versions
from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.imaging.volume import Volume
from vcm.precision import resolve_precision
from vcm.report.synthetic import Halved, file_names, stem_of, write_synthetic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vcm.imaging.placing import PlacedCondition
    from vcm.report.frame import Frame
    from vcm.report.page import Page

#: Volumes in the viewer of a page; of more the first.
MOST_SHOWN = 4


@dataclass
class VCMPipelineOutput(BaseOutput):
    """What a call gives.

    Attributes:
        volumes: (B, 1, X, Y, Z) in 0..1 as tensor or array, or latents (B, C, x, y, z).
        seeds: Of the volumes; None where the noise was given otherwise.
        placed: The condition on the model's grid and the way back; None for tensors.
        record: What repeats the call, as the sidecars say it.
        halved: What gives a volume half the voxel size, where it is to be written so; None: it is
            interpolated.
    """

    volumes: Any
    seeds: list[int] | None = None
    placed: PlacedCondition | None = None
    record: dict[str, Any] | None = None
    halved: Halved | None = None

    def save(
        self, folder: str | Path, model_grid: bool = False, overwrite: bool = False
    ) -> list[Path]:
        """Write each volume on its condition's voxels, sidecars, a picture and `report.html`.

        The files have the names that `vcm synthesize` gives them.

        Args:
            folder: Where the files are to lie.
            model_grid: Write each volume on the model's grid too.
            overwrite: Replace volumes there that another label map made.

        Returns:
            Paths of the volumes.

        Raises:
            VCMError: These are latents, the folder cannot be written to, or holds volumes of these names that were
                made from another label map.
        """
        from vcm.report.folder import write_report
        from vcm.report.picture import on_voxels_of, outlined

        placed, record = self._found()
        images, marks = self._images(), self._marks()
        folder, stem = Path(folder), self._stem()
        made_from = {name: record[name] for name in ("Condition", "ConditionSHA256")}
        for mark in marks:
            names = file_names(stem, mark, model_grid)
            outputs, sidecar = [folder / name for name in names], folder / names[-1]
            refuse_to_replace(outputs, [], sidecar, made_from, overwrite)
        fine = self._fine(images)
        seeds: Sequence[int | None] = self.seeds or [None] * len(images)
        paths = [
            write_synthetic(
                image,
                placed.placement,
                folder,
                stem,
                mark,
                _of_one(record, k) | {"Seed": seed},
                model_grid,
                halved,
            )
            for k, (image, halved, mark, seed) in enumerate(
                zip(images, fine, marks, seeds, strict=True)
            )
        ]
        titles = [f"synthetic, {mark.replace('-', ' ')}" for mark in marks]
        picture = folder / f"{stem}_desc-synthetic_mosaic.png"
        affine = placed.placement.model.affine
        shown = [i if f is None else f for i, f in zip(images, fine, strict=True)]
        outlined(shown, on_voxels_of(shown[0], placed.classes), picture, affine, titles)
        write_report(folder, lambda: self.page(picture))
        return paths

    def page(self, picture: Path | None = None) -> Page:
        """What `report.html` says: the volumes, the label map over them, inputs and record.

        Args:
            picture: A PNG to show beside them.

        Raises:
            VCMError: These are latents.
        """
        from vcm.report.layers import Layer
        from vcm.report.page import Page, Section, Table, picture_of
        from vcm.report.viewer import Viewer

        placed, record = self._found()
        place = placed.placement
        # On the model's own voxels, which lie somewhat askew in the world of the condition.
        affine = np.linalg.inv(place.to_common) @ place.model.affine
        words = [mark.replace("-", " ") for mark in self._marks()]
        shown = list(zip(words, self._images(), strict=True))[:MOST_SHOWN]
        images = [Layer(name, Volume(image, affine)) for name, image in shown]
        overlays = []
        if placed.classes is not None:
            names = dict(enumerate(CLASS_NAMES))
            labels = Volume(placed.classes, affine)
            overlays.append(Layer("label map", labels, "labels", names, shown=True))
        told = [(n, v["value"], v["source"]) for n, v in record["Inputs"].items()]
        sections = (
            [Section("Picture", pictures=picture_of(picture, "Three planes of each volume."))]
            if picture
            else []
        )
        if told:
            table = Table(("input", "value", "source"), told)
            sections.append(Section("What the model was told", tables=[table]))
        return Page(
            f"{self._stem()}: synthetic T1-weighted brain" + ("s" if len(words) > 1 else ""),
            self._stem(),
            f"{len(words)} volume(s) sampled from Python; the first {len(shown)} are shown.",
            record["Warning"],
            {
                "samples": ", ".join(words[:8]) + (" ..." if len(words) > 8 else ""),
                "model": str(record["Model"] or "made in memory"),
                "sampling": f"{record['Scheduler']['class']}, {record['Steps']} steps",
            },
            Viewer(images, overlays),
            sections,
            {**record, "Seeds": self.seeds},
        )

    def show(self, height: int = 780) -> Frame:
        """The page in a frame, as the last value of a notebook's cell.

        Args:
            height: Of the frame [pixels].
        """
        from vcm.report.frame import Frame
        from vcm.report.page import render

        return Frame(render(self.page()), height)

    def _found(self) -> tuple[PlacedCondition, dict[str, Any]]:
        if self.placed is None or self.record is None:
            raise VCMError("These are latents, not volumes: sample with output_type 'pt' or 'np'.")
        return self.placed, self.record

    def _images(self) -> list[NDArray[np.float32]]:
        return [np.asarray(torch.as_tensor(v).cpu(), dtype=np.float32)[0] for v in self.volumes]

    def _fine(self, images: Sequence[NDArray[np.float32]]) -> Sequence[NDArray[np.float32] | None]:
        """The volumes at half the voxel size, where they are to be written so."""
        return [None if self.halved is None else self.halved(image) for image in images]

    def _marks(self) -> list[str]:
        """What tells the files of the volumes apart: their seeds, or where these are unknown or repeated, numbers."""
        seeds: Sequence[int | None] = self.seeds or [None] * len(self.volumes)
        if len(set(seeds)) < len(seeds):
            seeds = [None] * len(seeds)
        return [f"sample-{k}" if s is None else f"seed-{s}" for k, s in enumerate(seeds)]

    def _stem(self) -> str:
        condition = self._found()[1]["Condition"]
        return stem_of(Path(condition) if condition else None)


def _of_one(record: Mapping[str, Any], k: int) -> dict[str, Any]:
    """What a sidecar says of volume k: of numbers that were told for each volume, its own."""
    told = record.get("Covariates")
    return dict(record) | ({} if told is None else {"Covariates": told[k]})


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
    finer: bool,
) -> dict[str, Any]:
    """How volumes were sampled, as their sidecars say it; the arguments are those of the call.

    `steered` is whether a module acted in any step, `finer` whether they were given half the voxel size.
    """
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
        "BackgroundCleared": bool(steered and placed.vocabulary and pipeline.clears_background),
        "SuperResolution": finer,
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
