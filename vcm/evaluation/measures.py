"""What is measured on real and generated scans: one row per subject, nothing averaged.

Volumes are arrays (X, Y, Z) in 0..1 on the model's grid, class maps hold 0..8; lists run in the
order of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from vcm.evaluation.samples import Case
from vcm.imaging.conditions import CLASS_NAMES, NUMBER_OF_CLASSES
from vcm.metrics import dice, half_sample_interval, kid, psnr, ssim
from vcm.nets.segmenter import TissueSegmenter

Volumes = Sequence[NDArray[np.float32]]
Maps = Sequence[NDArray[np.uint8]]
Row = dict[str, Any]


@torch.inference_mode()
def segment(net: TissueSegmenter, volumes: Volumes, title: str) -> list[NDArray[np.uint8]]:
    """The segmenter's class map of each volume."""
    return [net.classes(_batch(v, net))[0].cpu().numpy() for v in track(volumes, title)]


@torch.inference_mode()
def describe(net: TissueSegmenter, volumes: Volumes, title: str) -> NDArray[np.float64]:
    """The segmenter's features of each volume (N, F)."""
    rows = [net.features(_batch(v, net))[0].cpu().numpy() for v in track(volumes, title)]
    return np.stack(rows).astype(np.float64)


def adherence(cases: Sequence[Case], truth: Maps, found: Mapping[str, Maps]) -> list[Row]:
    """Dice of the segmenter on each arm against the subject's own map, the condition.

    On the real scan it is the ceiling that the segmenter's own errors set, on the uncontrolled
    sample the floor that a brain of that age, sex and size reaches by chance.
    """
    rows = []
    for n, case in enumerate(cases):
        own = torch.from_numpy(truth[n])
        values = {
            f"dice_{arm}": dice(torch.from_numpy(maps[n]), own, NUMBER_OF_CLASSES).tolist()
            for arm, maps in found.items()
        }
        rows += [
            {"subject": case.name, "class": CLASS_NAMES[c + 1]}
            | {name: known(value[c]) for name, value in values.items()}
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
    """PSNR [dB] and SSIM of the controlled sample against the real scan, inside the map."""
    rows = []
    for case, own, scan, sample in zip(cases, truth, real, controlled, strict=True):
        images = [torch.from_numpy(v)[None, None] for v in (sample, scan)]
        brain = torch.from_numpy(own > 0)[None, None]
        rows.append(
            {
                "subject": case.name,
                "psnr": psnr(images[0], images[1], brain),
                "ssim": ssim(images[0], images[1], brain),
            }
        )
    return rows


def realism(
    train: NDArray[np.float64], arms: Mapping[str, NDArray[np.float64]], seed: int
) -> list[Row]:
    """KID of each arm's features against those of all training scans, with its 95 % interval.

    Features are centred on the training scans and divided by one number, their root mean square
    spread over them, which gives the kernel a scale; a spread of each feature's own would let those
    that hardly vary decide. Real test scans, equally many, show what a KID of 0 looks like.
    """
    mean, spread = train.mean(0), float(np.sqrt(train.var(0).mean()))
    reference = (train - mean) / spread
    rows = []
    for arm, features in arms.items():
        own = (features - mean) / spread
        low, high = half_sample_interval(kid, own, reference, repeats=1000, seed=seed)
        value = known(kid(own, reference))
        rows.append(
            {"arm": arm, "scans": len(own), "kid": value, "low": known(low), "high": known(high)}
        )
    return rows


def privacy(
    cases: Sequence[Case], names: Sequence[str], train: Volumes, arms: Mapping[str, Volumes]
) -> list[Row]:
    """RMSE of each volume to its nearest training scan or mirrored training scan, all voxels.

    A smooth image is nearer to every scan than a sharp one; `ratio`, nearest to median over the
    training scans, takes that out. A copy has a ratio near 0, a new brain one somewhat below 1.
    """
    rows = []
    scans = torch.from_numpy(np.stack(train)).flatten(1)
    for arm, volumes in arms.items():
        for case, volume in zip(track(cases, f"Nearest, {arm}"), volumes, strict=True):
            # The mirrored volume is as far from a scan as the volume is from the mirrored scan.
            both = torch.from_numpy(np.stack([volume, volume[::-1]])).flatten(1)
            far = torch.stack([_rmse(one, scans) for one in both])
            mirrored, nearest = divmod(int(far.argmin()), len(names))
            least, median = float(far.min()), float(far.amin(0).median())
            rows.append(
                {
                    "arm": arm,
                    "subject": case.name,
                    "nearest": names[nearest],
                    "mirrored": "yes" if mirrored else "no",
                    "rmse_nearest": least,
                    "rmse_median": median,
                    "ratio": least / median,
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


def known(value: float) -> float | None:
    """None for NaN: what does not exist is written n/a, and null in JSON."""
    return None if np.isnan(value) else float(value)


def _rmse(one: torch.Tensor, scans: torch.Tensor) -> torch.Tensor:
    """(V,) against (N, V) -> (N,); scan by scan, which keeps the difference in the cache."""
    return torch.stack([(scan - one).square().mean().sqrt() for scan in scans])


def _batch(volume: NDArray[np.float32], net: TissueSegmenter) -> torch.Tensor:
    return torch.from_numpy(volume)[None, None].to(net.device)
