"""How sharp samples are, and whether a network tells them from scans: rows, nothing averaged.

Volumes are arrays (X, Y, Z) in 0..1 on the model's grid; lists run in the order of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vcm.evaluation.measures import Row, Volumes, none_unless_finite
from vcm.evaluation.samples import Case
from vcm.evaluation.two_sample import ClassifierSettings, two_sample_test
from vcm.imaging.spectrum import BANDS, band_names, power_ratio


def spectrum(
    cases: Sequence[Case],
    real: Volumes,
    arms: Mapping[str, Volumes],
    spacing: Sequence[float],
    bands: Sequence[float] = BANDS,
) -> list[Row]:
    """Power of each volume over that of the subject's own scan, one column per frequency band.

    Args:
        cases: One per volume of an arm.
        real: The subjects' scans.
        arms: Volumes by arm.
        spacing: Voxel size along each axis [mm].
        bands: Borders of the bands, rising [1/mm].
    """
    rows = []
    for arm, volumes in arms.items():
        for case, volume, scan in zip(cases, volumes, real, strict=True):
            ratios = power_ratio(volume, scan, spacing, bands)
            named = zip(band_names(bands), map(none_unless_finite, ratios), strict=True)
            rows.append({"arm": arm, "subject": case.name, **dict(named)})
    return rows


def two_sample(
    real: Volumes,
    others: Mapping[str, Volumes],
    seed: int,
    device: torch.device | str = "cpu",
    settings: ClassifierSettings | None = None,
) -> list[Row]:
    """Area under the ROC curve of a network that has to tell each set from the real scans.

    Scans of other subjects, equally many, show the floor. What a sample shares with its
    autoencoder's reconstructions, such as blur, counts as well.

    Args:
        real: The subjects' scans.
        others: What they are compared with, by name; samples in the order of their subjects.
        seed: Of the networks and the bootstrap.
        device: Where to train the networks.
        settings: Of the networks.
    """
    rows = []
    for name, volumes in others.items():
        found = two_sample_test(real, volumes, seed, settings, device)
        rows.append(
            {"compared": name, "real": len(real), "others": len(volumes)}
            | {key: none_unless_finite(value) for key, value in found.items()}
        )
    return rows


def spread_over(volumes: Volumes, count: int) -> Volumes:
    """As many volumes as `count`, or all, evenly spread over their order, which may go by site."""
    picked = np.linspace(0, len(volumes) - 1, min(count, len(volumes))).round().astype(int)
    return [volumes[n] for n in picked]
