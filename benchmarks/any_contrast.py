"""How close `vcm upsample` comes to scans of any contrast whose slices were thickened, and what becomes of lesions.

    python benchmarks/any_contrast.py OPENMS_MNI --out runs/any_contrast --spacings 4 6

OPENMS_MNI holds brains of patients with multiple sclerosis in BIDS layout, isotropic, each in several contrasts,
with a mask of the lesions. Every scan is cut into thick slices of each direction (the truth is known then) and
upsampled the way the command does, without samples. Tables in `out`:

    any_contrast.tsv  subject, contrast, direction, spacing, method: PSNR [dB] and SSIM inside the brain, over the
                      brain's range; contrast of the lesions to their surroundings over the truth's; for the result
                      also the least and the largest ratio of real to stated error in a tenth of the voxels by
                      stated error, their rank correlation, CPU seconds and the peak of memory so far [GB]
    summary.tsv       contrast, spacing: gain over cubic interpolation [dB] with its interval over scans
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.stats import spearmanr

from vcm.files import write_table
from vcm.imaging.volume import Volume, read_volume
from vcm.metrics import bootstrap_interval, psnr, ssim
from vcm.pipeline import VCMPipeline
from vcm.upsampling.detail.head_detail import load_detail
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.simulate import simulate_slices
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline

CONTRASTS = ("T1w", "ce-gd_T1w", "T2w", "FLAIR")
#: The surroundings of a lesion: so near [voxel], in the brain and outside every lesion.
NEAR = 3
COLUMNS = [
    "subject", "contrast", "direction", "spacing", "method", "psnr", "ssim", "lesion_contrast",
    "error_over_stated_least", "error_over_stated_most", "rank_correlation", "seconds", "memory",
]  # fmt: skip


def whole_slices(volume: Volume, spacing: float) -> Volume:
    """Cut at the upper ends so that slices of `spacing` [mm] fill it in every direction."""
    counts = [round(spacing / size) for size in volume.grid.spacing]
    x, y, z = (
        slice(n // count * count) for n, count in zip(volume.data.shape, counts, strict=True)
    )
    data = np.ascontiguousarray(volume.data[x, y, z])
    return Volume(data, volume.affine, volume.header, volume.source)


def lesion_contrast(image: NDArray, lesions: NDArray[np.bool_], brain: NDArray[np.bool_]) -> float:
    """Mean in the lesions minus mean of their surroundings."""
    around = binary_dilation(lesions, iterations=NEAR) & ~lesions & brain
    return float(image[lesions].mean() - image[around].mean())


def calibration(result: Upsampled, truth: NDArray, brain: NDArray[np.bool_]) -> dict[str, float]:
    """Real over stated error in tenths of the voxels by stated error; rank correlation."""
    assert result.uncertainty is not None
    where = brain & (result.uncertainty.data > 0)
    stated = result.uncertainty.data[where]
    error = np.abs(result.volume.data - truth)[where]
    tenths = np.array_split(np.argsort(stated), 10)
    ratios = [np.sqrt(np.square(error[t]).mean() / np.square(stated[t]).mean()) for t in tenths]
    return {
        "error_over_stated_least": float(min(ratios)),
        "error_over_stated_most": float(max(ratios)),
        "rank_correlation": float(spearmanr(stated[::23], error[::23]).statistic),
    }


def measure(
    truth: Volume, lesions: NDArray[np.bool_], key: dict[str, Any], pipeline: VCMPipeline, net: Any
) -> Iterator[dict[str, Any]]:
    """Rows of one scan in one direction and spacing."""
    thick, _ = simulate_slices(truth, key["direction"], key["spacing"])
    thick = replace(thick, source=truth.source)  # the name of a file tells its contrast
    started = time.process_time()
    result = upsample(thick, pipeline, samples=0, detail=net)
    seconds = time.process_time() - started
    brain = truth.data > 0
    original = lesion_contrast(truth.data, lesions, brain)
    for method, volume in (("cubic", result.in_units(result.cubic)), ("vcm", result.volume)):
        row = closeness(volume.data, truth.data)
        row["lesion_contrast"] = lesion_contrast(volume.data, lesions, brain) / original
        if method == "vcm":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            row |= {"seconds": seconds, "memory": peak}
            if result.uncertainty is not None:
                row |= calibration(result, truth.data, brain)
        yield key | {"method": method} | {k: round(float(v), 4) for k, v in row.items()}


def closeness(image: NDArray, truth: NDArray) -> dict[str, float]:
    """PSNR [dB] and SSIM where the truth is above 0, over the range of its percentiles 0.5 to 99.5 there."""
    brain = truth > 0
    low, high = np.percentile(truth[brain], [0.5, 99.5])
    found, real = (
        torch.from_numpy(np.clip((v - low) / (high - low), 0, 1).astype(np.float32))[None, None]
        for v in (image, truth)
    )
    mask = torch.from_numpy(brain)[None, None]
    return {"psnr": psnr(found, real, mask), "ssim": ssim(found, real, mask)}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gains over cubic interpolation, bootstrapped over scans and directions."""
    found = []
    for contrast, spacing in sorted({(r["contrast"], r["spacing"]) for r in rows}):
        own = [r for r in rows if (r["contrast"], r["spacing"]) == (contrast, spacing)]
        by_method = [[r for r in own if r["method"] == method] for method in ("vcm", "cubic")]
        gains = np.array([a["psnr"] - b["psnr"] for a, b in zip(*by_method, strict=True)])
        lesions = [r["lesion_contrast"] for r in by_method[0]]
        low, high = bootstrap_interval(lambda g: float(g.mean()), gains)
        found.append(
            {
                "contrast": contrast, "spacing": spacing, "n": len(gains),
                "gain": round(float(gains.mean()), 3), "low": round(float(low), 3),
                "high": round(float(high), 3), "lesion_contrast_least": min(lesions),
                "lesion_contrast_most": max(lesions),
            }
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--detail", default="", help="a folder of vcm pretrain contrasts")
    parser.add_argument("--model", default="brain1mm")
    parser.add_argument("--out", type=Path, default=Path("runs/any_contrast"))
    parser.add_argument("--contrasts", nargs="+", default=[*CONTRASTS], choices=CONTRASTS)
    parser.add_argument("--directions", nargs="+", default=["axial", "coronal", "sagittal"])
    parser.add_argument("--spacings", type=float, nargs="+", default=[4.0, 6.0])
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(given.model)
    net = load_detail(Path(given.detail)) if given.detail else None
    rows: list[dict[str, Any]] = []
    for anat in sorted(given.bids.glob("sub-*/anat"))[: given.limit]:
        subject = anat.parent.name
        mask = read_volume(anat / f"{subject}_label-lesion_mask.nii.gz")
        for contrast in given.contrasts:
            scan = read_volume(anat / f"{subject}_{contrast}.nii.gz")
            for spacing in given.spacings:
                truth, lesions = (whole_slices(v, spacing) for v in (scan, mask))
                for direction in given.directions:
                    key = {
                        "subject": subject, "contrast": contrast, "direction": direction,
                        "spacing": spacing,
                    }  # fmt: skip
                    made = list(measure(truth, lesions.data > 0, key, pipeline, net))
                    rows += made
                    gain = made[1]["psnr"] - made[0]["psnr"]
                    print(*key.values(), f"{gain:+.2f} dB", flush=True)
                    write_table(given.out / "any_contrast.tsv", rows, COLUMNS)
    table = summary(rows)
    write_table(given.out / "summary.tsv", table, list(table[0]))
    print((given.out / "summary.tsv").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
