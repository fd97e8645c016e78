"""The volumes that an evaluation looks at: which test subjects, which samples, drawn once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from vcm.files import write_json, write_whole
from vcm.imaging import covariates
from vcm.imaging.covariates import COVARIATES, UNITS, Ranges
from vcm.imaging.dataset import Subject
from vcm.pipeline import VCMPipeline


@dataclass(frozen=True)
class Case:
    """A test subject with its covariates in their units, complete and inside the trained range.

    note    what had to be assumed or clamped for that; empty: nothing
    """

    subject: Subject
    covariates: dict[str, float]
    note: str

    @property
    def name(self) -> str:
        return self.subject.subject


@dataclass(frozen=True)
class Request:
    """One sample: covariates in their units, the conditions (C, X, Y, Z) that the module reads, in
    its order, or None for uncontrolled."""

    arm: str
    name: str
    seed: int
    covariates: Mapping[str, float]
    conditions: Sequence[NDArray[np.float32]] | None = None


def as_case(subject: Subject, ranges: Ranges) -> Case:
    """Unknown covariates become the middle of the trained range, others are clamped to it."""
    known = {name: getattr(subject, name) for name in COVARIATES}
    known["sex"] = covariates.sex_number(subject.sex)
    values, notes = {}, []
    for name, value in known.items():
        middle = (ranges[name][0] + ranges[name][1]) / 2
        values[name] = middle if value is None else clamp(value, ranges[name])
        if value is None:
            notes.append(f"{name} unknown, taken as {middle:.4g}")
        elif values[name] != value:
            notes.append(f"{name} {value:.4g} {UNITS[name]} clamped to {values[name]:.4g}")
    return Case(subject, values, "; ".join(notes))


def clamp(value: float, limits: tuple[float, float]) -> float:
    """The nearest value within the limits."""
    return min(max(value, limits[0]), limits[1])


class SampleStore:
    """Volumes of a pipeline in a folder: ARM/NAME_seed-N.npy in float16, with what made them beside.

    A volume is reused only if what it was made by (model, scheduler, steps, temperature), its seed,
    covariates and condition are the same.
    """

    def __init__(self, pipeline: VCMPipeline, folder: Path, made_by: dict[str, Any]) -> None:
        self.pipeline, self.folder, self.made_by = pipeline, folder, made_by

    def volumes(self, requests: list[Request], title: str) -> list[NDArray[np.float32]]:
        """One volume (X, Y, Z) in 0..1 per request, in their order."""
        return [self._volume(request) for request in track(requests, title)]

    def _volume(self, request: Request) -> NDArray[np.float32]:
        path = self.folder / request.arm / f"{request.name}_seed-{request.seed}.npy"
        record = path.with_suffix(".json")
        unit = covariates.to_unit(request.covariates, self.pipeline.ranges)
        fingerprint = self.made_by | {
            "seed": request.seed,
            "covariates": [round(u, 6) for u in unit],
            "condition": _digest(request.conditions),
        }
        if not _holds(record, fingerprint) or not path.is_file():
            record.unlink(missing_ok=True)
            sample = self._sample(request, unit).astype(np.float16)
            write_whole(path, lambda part: np.save(part, sample))
            write_json(record, fingerprint)
        return np.load(path).astype(np.float32)

    @torch.inference_mode()
    def _sample(self, request: Request, unit: list[float]) -> NDArray[np.float32]:
        conditions = request.conditions and [torch.from_numpy(c)[None] for c in request.conditions]
        result = self.pipeline(
            conditions,
            torch.tensor([unit]),
            num_inference_steps=self.made_by["steps"],
            temperature=self.made_by["temperature"],
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
        )
        return np.asarray(result.volumes[0, 0], dtype=np.float32)


def _digest(conditions: Sequence[NDArray[np.float32]] | None) -> str | None:
    if conditions is None:
        return None
    digest = hashlib.sha256()
    for condition in conditions:
        digest.update(np.ascontiguousarray(condition).tobytes())
    return digest.hexdigest()


def _holds(record: Path, fingerprint: dict[str, object]) -> bool:
    return record.is_file() and json.loads(record.read_text(encoding="utf-8")) == fingerprint
