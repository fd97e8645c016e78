"""What is measured on real and generated scans: one row per subject, nothing averaged.

Volumes are arrays (X, Y, Z) in 0..1 on the model's grid, class maps hold 0..8; lists run in the
order of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.evaluation.samples import Case
from vcm.imaging.conditions import CLASS_NAMES, NUMBER_OF_CLASSES
from vcm.imaging.prepared_set import Subject
from vcm.imaging.volume import Grid
from vcm.metrics import dice, half_sample_interval, kid, psnr, ssim
from vcm.nets.segmenter import TissueSegmenter
from vcm.progress import track
from vcm.weights.segmenter import seen_by, segment_on

Volumes = Sequence[NDArray[np.float32]]
Maps = Sequence[NDArray[np.uint8]]
Row = dict[str, Any]
#: Features that spread by less than this share of their mean do not differ but by rounding.
LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Scans(Sequence[NDArray[np.float32]]):
    """Volumes of prepared subjects, read when they are asked for: hundreds do not fit into memory."""

    subjects: Sequence[Subject]

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, n: Any) -> Any:
        return self.subjects[n].image()


def segment(
    net: TissueSegmenter, volumes: Volumes, grid: Grid, title: str
) -> list[NDArray[np.uint8]]:
    """The segmenter's class map of each volume, on their own grid.

    Args:
        net: Sees the voxels that it was trained on, whatever those of the volumes are.
        volumes: Brains (X, Y, Z) in 0..1 on `grid`.
        grid: In common space.
        title: Of the progress bar.
    """
    return [segment_on(net, volume, grid) for volume in track(volumes, title)]


@torch.inference_mode()
def describe(net: TissueSegmenter, volumes: Volumes, grid: Grid, title: str) -> NDArray[np.float64]:
    """The segmenter's features (N, F) of each volume; arguments as `segment` has them."""
    rows = [net.features(seen_by(net, v, grid))[0].cpu().numpy() for v in track(volumes, title)]
    return np.stack(rows).astype(np.float64)


def adherence(cases: Sequence[Case], truth: Maps, found: Mapping[str, Maps]) -> list[Row]:
    """Dice of the segmenter on each arm against the subject's own map, the condition.

    On the real scan it is the ceiling that the segmenter's own errors set, on the uncontrolled
    sample the floor that a brain of that age, sex and size reaches by chance.
    """
    rows = []
    for n, case in enumerate(cases):
        asked = torch.from_numpy(truth[n])
        values = {
            f"dice_{arm}": dice(torch.from_numpy(maps[n]), asked, NUMBER_OF_CLASSES).tolist()
            for arm, maps in found.items()
        }
        rows += [
            {"subject": case.name, "class": CLASS_NAMES[c + 1]}
            | {name: none_unless_finite(value[c]) for name, value in values.items()}
            for c in range(NUMBER_OF_CLASSES)
        ]
    return rows


def intensity(cases: Sequence[Case], truth: Maps, arms: Mapping[str, Volumes]) -> list[Row]:
    """Mean and standard deviation of intensity inside each class of the subject's own map."""
    rows = []
    for n, case in enumerate(cases):
        for c in range(1, NUMBER_OF_CLASSES + 1):
            inside = truth[n] == c
            row: Row = {"subject": case.name, "class": CLASS_NAMES[c]}
            for arm, volumes in arms.items():
                values = volumes[n][inside]
                row[f"mean_{arm}"] = float(values.mean()) if len(values) else None
                row[f"sd_{arm}"] = float(values.std()) if len(values) else None
            rows.append(row)
    return rows


def paired(cases: Sequence[Case], truth: Maps, real: Volumes, controlled: Volumes) -> list[Row]:
    """PSNR [dB] and SSIM of the controlled sample against the real scan, inside the map.

    Neither exists where the map is empty, and no PSNR where both volumes are the same.
    """
    rows = []
    for case, classes, scan, sample in zip(cases, truth, real, controlled, strict=True):
        images = [torch.from_numpy(v)[None, None] for v in (sample, scan)]
        brain = torch.from_numpy(classes > 0)[None, None]
        rows.append(
            {
                "subject": case.name,
                "psnr": none_unless_finite(psnr(images[0], images[1], brain)),
                "ssim": none_unless_finite(ssim(images[0], images[1], brain)),
            }
        )
    return rows


def realism(
    train: NDArray[np.float64], arms: Mapping[str, NDArray[np.float64]], seed: int
) -> list[Row]:
    """KID of each arm's features against those of all training scans, with its 95 % interval.

    Features are centred on the training scans and divided by one number, their root mean square
    spread over them, which gives the kernel a scale; a spread of each feature's own would let those
    that hardly vary decide. Real test scans, equally many, show what a KID of 0 looks like. There is
    none where the training scans do not differ, as a single one does not.
    """
    mean, spread = train.mean(0), float(np.sqrt(train.var(0).mean()))
    rows = []
    for arm, features in arms.items():
        row: Row = {"arm": arm, "scans": len(features), "kid": None, "low": None, "high": None}
        if spread > LEAST_SPREAD * float(np.abs(mean).max()):
            scaled, reference = ((f - mean) / spread for f in (features, train))
            low, high = half_sample_interval(kid, scaled, reference, repeats=1000, seed=seed)
            found = {"kid": kid(scaled, reference), "low": low, "high": high}
            row |= {name: none_unless_finite(value) for name, value in found.items()}
        rows.append(row)
    return rows


def privacy(
    cases: Sequence[Case], names: Sequence[str], train: Volumes, arms: Mapping[str, Volumes]
) -> list[Row]:
    """RMSE of each volume to its nearest training scan or mirrored training scan, all voxels.

    A smooth image is nearer to every scan than a sharp one; `ratio`, nearest to median over the
    training scans, takes that out. A copy has a ratio near 0, a new brain one somewhat below 1; there
    is none where most training scans are that one brain.

    Args:
        cases: One per volume of an arm.
        names: Of the training scans.
        train: Training scans (X, Y, Z), each of which is read once.
        arms: Volumes by arm.
    """
    # far[arm][case, 0 or 1 for the mirrored scan, scan]
    far = {arm: np.empty((len(volumes), 2, len(names))) for arm, volumes in arms.items()}
    for n, scan in enumerate(track(train, "Nearest training scans")):
        for arm, volumes in arms.items():
            for k, volume in enumerate(volumes):
                # The mirrored volume is as far from a scan as the volume is from the mirrored scan.
                far[arm][k, :, n] = _rmse(volume, scan), _rmse(volume[::-1], scan)
    rows = []
    for arm, distances in far.items():
        for case, distance in zip(cases, distances, strict=True):
            mirrored, nearest = divmod(int(distance.argmin()), len(names))
            least = float(distance.min())
            # The lower of the two middle ones where their number is even, as torch has it.
            median = float(np.sort(distance.min(0))[(len(names) - 1) // 2])
            rows.append(
                {
                    "arm": arm,
                    "subject": case.name,
                    "nearest": names[nearest],
                    "mirrored": "yes" if mirrored else "no",
                    "rmse_nearest": least,
                    "rmse_median": median,
                    "ratio": least / median if median else None,
                }
            )
    return rows


def diversity(names: Sequence[str], arms: Mapping[str, tuple[Volumes, Volumes]]) -> list[Row]:
    """RMSE over all voxels between two volumes of each subject and arm."""
    return [
        {
            "arm": arm,
            "subject": name,
            "rmse": float(np.sqrt(np.square(first[n] - second[n]).mean(dtype=np.float64))),
        }
        for arm, (first, second) in arms.items()
        for n, name in enumerate(names)
    ]


def none_unless_finite(value: float) -> float | None:
    """None for NaN and infinity: what does not exist is written n/a, and null in JSON."""
    return float(value) if np.isfinite(value) else None


def _rmse(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Root mean square of the difference of two volumes, in single precision."""
    first, second = (torch.from_numpy(np.ascontiguousarray(v)).flatten() for v in (one, other))
    return float((second - first).square().mean().sqrt())
