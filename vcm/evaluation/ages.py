"""Does a covariate show in the picture? Uncontrolled samples at a young and at an old age.

age         volumes are those expected at that age and sex: ventricles should grow with age
age only    volumes are held at their expectation for age 50: whatever changes is age's alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from vcm.evaluation.measures import Maps, Row
from vcm.evaluation.samples import Request, clamp
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.covariates import Ranges, describe_population, expected_volumes
from vcm.imaging.dataset import Subject
from vcm.imaging.geometry import model_grid
from vcm.training_inputs import FourCovariates, those_known

#: Ages that are compared, and the age whose volumes `age only` keeps [years].
AGES = (25.0, 75.0)
HELD_AGE = 50.0
ARMS = ("age", "age only")


def age_requests(train: list[Subject], ranges: Ranges, samples: int, seed: int) -> list[Request]:
    """For each arm and age the same seeds, women and men in turn. All inside the trained range."""
    population = describe_population(those_known(list(train), FourCovariates(())))
    coefficients = cast(Mapping[str, Sequence[float]], population["expected_volumes"])
    requests = []
    for arm in ARMS:
        for wanted in AGES:
            age = clamp(wanted, ranges["age"])
            for k in range(samples):
                sex = float(k % 2)
                volumes = expected_volumes(sex, age if arm == "age" else HELD_AGE, coefficients)
                values = {"sex": sex, "age": age}
                values |= {name: clamp(v, ranges[name]) for name, v in volumes.items()}
                name = f"age-{wanted:.0f}_sex-{'FM'[k % 2]}"
                requests.append(Request(arm.replace(" ", "-"), name, seed + k, values))
    return requests


def age_rows(requests: Sequence[Request], found: Maps) -> list[Row]:
    """Volumes asked for and volumes measured by the segmenter [mL], one row per sample."""
    rows = []
    for request, classes in zip(requests, found, strict=True):
        ventricles, brain = ventricular_and_brain_volume(classes, model_grid().voxel_volume)
        rows.append(
            {
                "arm": request.arm.replace("-", " "),
                "seed": request.seed,
                **request.covariates,
                "ventricles_measured": ventricles,
                "brain_measured": brain,
            }
        )
    return rows
