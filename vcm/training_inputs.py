"""What the frozen model is told of each training scan, by the family that the model is of.

The same rules as in vcm.inputs, which settles what it is told when sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vcm.errors import VCMError
from vcm.imaging import covariates
from vcm.imaging.covariates import COVARIATES, Ranges
from vcm.imaging.dataset import Subject
from vcm.pipeline import VCMPipeline


class TrainingInputs(Protocol):
    """A scan -> what the denoiser is told of it, `volume_factor` the growth of a moved copy."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be known of a scan."""

    def __call__(self, subject: Subject, volume_factor: float = 1.0) -> list[float]: ...


@dataclass(frozen=True)
class FourCovariates:
    """Sex, age and both volumes [mL], scaled by ranges in these units: brain2mm and its kin."""

    ranges: tuple[tuple[str, tuple[float, float]], ...]
    needs: tuple[str, ...] = COVARIATES

    def __call__(self, subject: Subject, volume_factor: float = 1.0) -> list[float]:
        values = {name: getattr(subject, name) for name in COVARIATES}
        values["sex"] = covariates.sex_number(subject.sex)
        for name in ("ventricular_volume", "brain_volume"):
            values[name] *= volume_factor
        return covariates.to_unit(values, dict(self.ranges))


@dataclass(frozen=True)
class SexAndAge:
    """BrainLDM: what its two volumes mean in millilitres was never published, so they stay at the
    middle of their range, as they do when sampling; ages are clamped to the range."""

    ranges: tuple[tuple[str, tuple[float, float]], ...]
    needs: tuple[str, ...] = ("sex", "age")

    def __call__(self, subject: Subject, volume_factor: float = 1.0) -> list[float]:
        ranges = dict(self.ranges)
        middle = {name: (low + high) / 2 for name, (low, high) in ranges.items()}
        sex, age = covariates.sex_number(subject.sex), subject.age
        assert sex is not None and age is not None
        low, high = ranges["age"]
        return covariates.to_unit(middle | {"sex": sex, "age": min(max(age, low), high)}, ranges)


@dataclass(frozen=True)
class SpacingAndContrast:
    """MAISI: the same for every scan, the grid's spacing [mm] and the class of the contrast."""

    values: tuple[float, ...]
    needs: tuple[str, ...] = ()

    def __call__(self, subject: Subject, volume_factor: float = 1.0) -> list[float]:
        return list(self.values)


def four_covariates(ranges: Ranges) -> FourCovariates:
    """From ranges by name."""
    return FourCovariates(tuple((n, (float(a), float(b))) for n, (a, b) in sorted(ranges.items())))


def inputs_for(pipeline: VCMPipeline) -> TrainingInputs:
    """The rule for a frozen model."""
    config = pipeline.config
    if "contrast" in config.inputs:
        contrast = config.population["contrasts"][config.population["contrast"]]
        return SpacingAndContrast((*pipeline.volume_grid.spacing, float(contrast)))
    four = four_covariates(pipeline.ranges)
    return four if "expected_volumes" in config.population else SexAndAge(four.ranges)


def those_known(subjects: list[Subject], inputs: TrainingInputs) -> list[Subject]:
    """Scans of which all that the model is told is known. Raises VCMError if there are none."""
    known = [s for s in subjects if all(getattr(s, name) is not None for name in inputs.needs)]
    if not known:
        raise VCMError(
            f"None of the {len(subjects)} subjects has {', '.join(inputs.needs)}: complete "
            "participants.tsv of the source folder (and give label maps, or --segmenter), then "
            "prepare it again."
        )
    return known
