"""The volumes that an evaluation looks at: which test subjects, which samples, drawn once and kept."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.errors import VCMWarning
from vcm.files import read_json, write_json, write_whole
from vcm.imaging.prepared_set import Subject
from vcm.inputs import (
    InputRule,
    ModelInput,
    as_numbers,
    assumptions,
    resolve_inputs,
    scan_request,
    with_complete_covariates,
)
from vcm.pipeline import VCMPipeline
from vcm.progress import track


@dataclass(frozen=True)
class Case:
    """A test subject with what the model is told of it, complete and inside the trained range."""

    subject: Subject
    inputs: dict[str, ModelInput]

    @property
    def name(self) -> str:
        """Of the subject."""
        return self.subject.subject

    @property
    def note(self) -> str:
        """What was clamped, or is the same for all; empty: nothing."""
        return assumptions(self.inputs)


@dataclass(frozen=True)
class Request:
    """One sample.

    Attributes:
        arm: controlled, uncontrolled, or one of two ages.
        name: Of the subject, or of the age.
        seed: Of the noise.
        inputs: What the model is told.
        conditions: (C, X, Y, Z) each, that the module reads, in its order; None: uncontrolled.
    """

    arm: str
    name: str
    seed: int
    inputs: Mapping[str, ModelInput]
    conditions: Sequence[NDArray[np.float32]] | None = None


def as_trained(subjects: Sequence[Subject], rule: InputRule) -> list[Subject]:
    """Subjects of whom all is known that the model is told: training takes no others.

    Of an unknown sex or age training told the model nothing, so there is no right thing to tell it now.
    A VCMWarning names those that are left out.

    Raises:
        VCMError: None is left.
    """
    kept = with_complete_covariates(subjects, rule.needs)
    left = [subject for subject in subjects if subject not in kept]
    if left:
        lacking = "; ".join(
            f"{s.subject} (no {', '.join(n for n in rule.needs if getattr(s, n) is None)})"
            for s in left
        )
        warnings.warn(
            f"{len(left)} of {len(subjects)} subjects are not evaluated, as the model is told what is not "
            f"known of them: {lacking}.",
            VCMWarning,
            stacklevel=2,
        )
    return kept


def as_case(subject: Subject, rule: InputRule) -> Case:
    """A test subject with what the model is told of it: what training told it of such a scan.

    What is out of range is clamped.
    """
    return Case(subject, resolve_inputs(rule, scan_request(rule, subject), outside="clamp"))


def values_of(inputs: Mapping[str, ModelInput]) -> dict[str, float]:
    """The values alone, in their units."""
    return {name: given.value for name, given in inputs.items()}


class SampleStore:
    """Volumes of a pipeline in a folder: ARM/NAME_seed-N.npy in float16, with what made them beside.

    A volume is reused only if what it was made by (model, scheduler, steps, temperature, strength of the
    module), its seed, covariates and condition are the same.
    """

    def __init__(
        self,
        pipeline: VCMPipeline,
        folder: Path,
        model: str,
        scheduler: str,
        steps: int,
        temperature: float | None = None,
        scale: float | None = None,
    ) -> None:
        """Samples of a pipeline in a folder.

        Args:
            pipeline: With the scheduler to sample with.
            folder: Where the volumes are kept; need not exist yet.
            model: Checksum of the pipeline's weights and settings, its saved scheduler among them.
            scheduler: Name of the pipeline's scheduler.
            steps: Of the denoising.
            temperature: Scale of the initial noise; None: the model's own.
            scale: Strength of the module; None: the model's own.
        """
        self.pipeline, self.folder = pipeline, folder
        self.steps, self.temperature = steps, temperature
        self.scale = pipeline.recommended_scale if scale is None else scale
        self.made_by: dict[str, Any] = {
            "model": model, "scheduler": scheduler, "steps": steps,
            "clears_background": pipeline.clears_background,
        }  # fmt: skip

    def volumes(self, requests: list[Request], title: str) -> list[NDArray[np.float32]]:
        """One volume (X, Y, Z) in 0..1 per request, in their order."""
        return [self._volume(request) for request in track(requests, title)]

    def _volume(self, request: Request) -> NDArray[np.float32]:
        path = self.folder / request.arm / f"{request.name}_seed-{request.seed}.npy"
        record = path.with_suffix(".json")
        numbers = as_numbers(self.pipeline.input_rule, request.inputs)
        fingerprint = self.fingerprint(request, numbers)
        sample = _loaded(path) if read_json(record) == fingerprint else None
        if sample is None:
            record.unlink(missing_ok=True)
            made = sample = self._sample(request, numbers).astype(np.float16)
            write_whole(path, lambda part: np.save(part, made))
            write_json(record, fingerprint)
        return sample.astype(np.float32)

    def fingerprint(self, request: Request, numbers: Sequence[float]) -> dict[str, Any]:
        """What a volume is made by; `numbers` are what the network is told."""
        return self.made_by | {
            "temperature": self._temperature(request),
            "scale": self.scale if request.conditions else None,
            "seed": request.seed,
            "covariates": [round(n, 6) for n in numbers],
            "condition": _digest(request.conditions),
        }

    def _temperature(self, request: Request) -> float:
        """Scale of the initial noise."""
        if self.temperature is not None:
            return self.temperature
        acts = request.conditions is not None and self.scale != 0
        return self.pipeline.recommended_temperature(acts)

    @torch.inference_mode()
    def _sample(self, request: Request, numbers: list[float]) -> NDArray[np.float32]:
        given = request.conditions
        conditions = None if given is None else [torch.from_numpy(c)[None] for c in given]
        result = self.pipeline(
            conditions,
            torch.tensor([numbers]),
            num_inference_steps=self.steps,
            temperature=self._temperature(request),
            conditioning_scale=self.scale,
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


def _loaded(path: Path) -> NDArray[np.float16] | None:
    """A sample that is kept; None where it is not there or not whole."""
    try:
        found: NDArray[np.float16] = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return found
