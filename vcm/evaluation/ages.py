"""Does a covariate show in the picture? Uncontrolled samples at a young and at an old age.

age         volumes are those expected at that age and sex: ventricles should grow with age
age only    volumes are held at their expectation for age 50: whatever changes is age's alone
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vcm.evaluation.measures import Maps, Row
from vcm.evaluation.samples import Request, values_of
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.inputs import VOLUMES, InputRequest, InputRule, resolve_inputs

#: Ages that are compared, as far as the trained range reaches, and the age whose volumes `age only` keeps [years].
AGES = (25.0, 75.0)
HELD_AGE = 50.0


def arms_of(rule: InputRule) -> tuple[str, ...]:
    """None for a model that knows no two ages; where its volumes mean no millilitres they are always held."""
    if rule.reads_contrast or not compared_ages(rule):
        return ()
    return ("age", "age only") if rule.reads_millilitres else ("age only",)


def compared_ages(rule: InputRule) -> dict[str, float]:
    """A younger and an older age [years] inside the trained range, by the names of their samples.

    They are the ends of a range that lies beyond AGES on one side, as of children; none are there where it is one age.
    """
    low, high = rule.ranges["age"]
    found = {f"age-{age:g}": float(np.clip(age, low, high)) for age in AGES}
    if len({*found.values()}) == 1:
        found = {f"age-{age:g}": float(age) for age in (low, high)}
    return found if len({*found.values()}) == 2 else {}


def age_requests(rule: InputRule, samples: int, seed: int) -> list[Request]:
    """For each arm and age the same seeds, women and men in turn. All inside the trained range."""
    requests = []
    for arm in arms_of(rule):
        for name, age in compared_ages(rule).items():
            for k in range(samples):
                sex = "FM"[k % 2]
                inputs = resolve_inputs(rule, InputRequest(age, sex), outside="clamp")
                if arm == "age only":
                    held = resolve_inputs(rule, InputRequest(HELD_AGE, sex), outside="clamp")
                    inputs |= {name: held[name] for name in VOLUMES}
                where = arm.replace(" ", "-")
                requests.append(Request(where, f"{name}_sex-{sex}", seed + k, inputs))
    return requests


def age_rows(requests: Sequence[Request], found: Maps, voxel_volume: float) -> list[Row]:
    """Volumes asked for and volumes measured by the segmenter [mL], one row per sample.

    Args:
        requests: Of the samples.
        found: Their class maps.
        voxel_volume: Of the maps [mL].
    """
    rows = []
    for request, classes in zip(requests, found, strict=True):
        ventricles, brain = ventricular_and_brain_volume(classes, voxel_volume)
        rows.append(
            {
                "arm": request.arm.replace("-", " "),
                "seed": request.seed,
                **values_of(request.inputs),
                "ventricles_measured": ventricles,
                "brain_measured": brain,
            }
        )
    return rows
