"""How close `vcm upsample --to T1w` comes to the T1w scan of the same session.

    python benchmarks/translation.py OPENMS_MNI --out runs/translation --spacings 4

OPENMS_MNI holds brains of patients with multiple sclerosis in BIDS layout, isotropic, each in several contrasts on
the same voxels, with a mask of the lesions. Each T2w and FLAIR is cut into thick slices of each direction, upsampled
and translated the way the command does. Intensities of T1w are arbitrary, so every volume is brought to the real T1w scan
by one gain and offset inside the brain. `translation.tsv` in `out` has a row per subject, contrast, direction,
spacing and method:

    translated   the result of --to T1w
    curve        what the network begins with: the best curve of intensities by the mean brain, in common space
    mean brain   the same brain for everybody, in common space
    coarse       the result without the detail of the scan beyond 2 mm
    T1w          the T1w scan itself, cut into the same slices and upsampled: what another acquisition would give

    psnr [dB] and ssim inside the brain, over the real scan's range; lesions: contrast of the lesions to their
    surroundings over the real one's; dice: mean over the eight classes that segmenter2mm finds, against those that
    it finds in the real scan; error_over_stated: root mean square of real over stated error, and their rank
    correlation
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from any_contrast import lesion_contrast, whole_slices
from numpy.typing import NDArray
from scipy.stats import spearmanr

from vcm.errors import VCMError, VCMWarning
from vcm.files import write_table
from vcm.imaging.extraction import find_brain
from vcm.imaging.volume import Volume, read_volume
from vcm.metrics import bootstrap_interval, dice, psnr, ssim
from vcm.preparation.segment import segment
from vcm.upsampling.detail import local_detail
from vcm.upsampling.detail.head_detail import load_detail
from vcm.upsampling.results import translate as translation
from vcm.upsampling.simulate import simulate_slices
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter

COLUMNS = [
    "subject", "contrast", "direction", "spacing", "method", "psnr", "ssim", "lesions", "dice",
    "error_over_stated", "rank_correlation", "seconds",
]  # fmt: skip


class Measured:
    """What volumes of one subject are compared with.

    Args:
        t1w: The real scan.
        lesions: On its voxels.
        segmenter: Names the tissues.
    """

    def __init__(self, t1w: Volume, lesions: NDArray[np.bool_], segmenter: Any) -> None:
        self.t1w, self.lesions, self.segmenter = t1w, lesions, segmenter
        self.brain = t1w.data > 0
        self.low, self.high = np.percentile(t1w.data[self.brain], [0.5, 99.5])
        self.contrast = lesion_contrast(t1w.data, lesions, self.brain)
        self.classes = segment(t1w, segmenter, find_brain(t1w)).data

    def row(self, image: NDArray) -> tuple[dict[str, float], NDArray]:
        """Measures of an image, and the image in the real scan's intensities."""
        line = np.stack([image[self.brain], np.ones(int(self.brain.sum()))], 1)
        gain, offset = np.linalg.lstsq(line, self.t1w.data[self.brain], rcond=None)[0]
        like = np.where(self.brain, gain * image + offset, 0).astype(np.float32)
        one, real, mask = (
            torch.from_numpy(v)[None, None]
            for v in (self._scaled(like), self._scaled(self.t1w.data), self.brain)
        )
        made = {"psnr": psnr(one, real, mask), "ssim": ssim(one, real, mask)}
        made["lesions"] = lesion_contrast(like, self.lesions, self.brain) / self.contrast
        made["dice"] = self._dice(like)
        return made, like

    def _dice(self, image: NDArray) -> float:
        try:
            found = segment(self.t1w.with_data(image), self.segmenter, find_brain(self.t1w)).data
        except VCMError:
            return float("nan")
        one, other = (
            torch.from_numpy(v.astype(np.int64))[None, None] for v in (found, self.classes)
        )
        return float(dice(one, other, 8).nanmean())

    def _scaled(self, values: NDArray) -> NDArray[np.float32]:
        return np.clip((values - self.low) / (self.high - self.low), 0, 1).astype(np.float32)


def measure(
    scan: Volume, key: dict[str, Any], about: Measured, pipeline: Any, detail: Any, net: Any
) -> Iterator[dict[str, Any]]:
    """Rows of one scan in one direction and spacing."""
    thick, _ = simulate_slices(scan, key["direction"], key["spacing"])
    thick = replace(thick, source=scan.source)  # the name of a file tells its contrast
    started = time.process_time()
    result = upsample(thick, pipeline, samples=0, detail=detail, like=scan)
    upsampled = time.process_time()
    made = translation.translate(result, net)
    seconds = {"translated": time.process_time() - upsampled, "upsampled": upsampled - started}
    steepest, local_detail.STEEPEST = local_detail.STEEPEST, 0.0
    coarse = translation.translate(result, net).image.data
    local_detail.STEEPEST = steepest
    volumes = {"translated": made.image.data, "coarse": coarse}
    guessed, mean = translation.before_network(result, net)
    volumes |= {"curve": guessed, "mean brain": mean}
    t1w, _ = simulate_slices(about.t1w, key["direction"], key["spacing"])
    volumes["T1w"] = upsample(t1w, pipeline, samples=0, like=about.t1w).volume.data
    for method, image in volumes.items():
        row, like = about.row(image)
        if method == "translated":
            error = np.abs(like - about.t1w.data)[about.brain] / (about.high - about.low)
            stated = made.std.data[about.brain]
            row["error_over_stated"] = float(np.sqrt((error**2).mean() / (stated**2).mean()))
            row["rank_correlation"] = float(spearmanr(stated[::23], error[::23]).statistic)
            row["seconds"] = seconds["translated"]
        yield key | {"method": method} | {k: round(float(v), 4) for k, v in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--translator", default="t1w2mm")
    parser.add_argument("--detail", default="heads1mm")
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    parser.add_argument("--contrasts", nargs="+", default=["T2w", "FLAIR"])
    parser.add_argument("--directions", nargs="+", default=["axial", "coronal", "sagittal"])
    parser.add_argument("--spacings", type=float, nargs="+", default=[4.0])
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore", VCMWarning)
    given.out.mkdir(parents=True, exist_ok=True)
    pipeline, detail = load_pipeline("brain1mm"), load_detail(given.detail)
    net, segmenter = translation.load_translator(given.translator), load_segmenter("segmenter2mm")
    rows: list[dict[str, Any]] = []
    for anat in sorted(given.bids.glob("sub-*/anat"))[: given.limit]:
        subject = anat.parent.name
        mask = read_volume(anat / f"{subject}_label-lesion_mask.nii.gz")
        real = read_volume(anat / f"{subject}_T1w.nii.gz")
        for spacing in given.spacings:
            t1w, lesions = (whole_slices(v, spacing) for v in (real, mask))
            about = Measured(t1w, lesions.data > 0, segmenter)
            for contrast in given.contrasts:
                scan = whole_slices(read_volume(anat / f"{subject}_{contrast}.nii.gz"), spacing)
                for direction in given.directions:
                    key = {
                        "subject": subject, "contrast": contrast, "direction": direction,
                        "spacing": spacing,
                    }  # fmt: skip
                    for row in measure(scan, key, about, pipeline, detail, net):
                        rows.append(row)
                        print(*(row.get(c, "") for c in COLUMNS), flush=True)
                    write_table(given.out / "translation.tsv", rows, COLUMNS)
    for contrast in given.contrasts:
        for method in dict.fromkeys(r["method"] for r in rows):
            own = [r for r in rows if (r["contrast"], r["method"]) == (contrast, method)]
            for name in ("psnr", "ssim", "lesions", "dice"):
                values = np.array([r[name] for r in own])
                low, high = bootstrap_interval(lambda v: float(np.nanmean(v)), values)
                print(
                    f"{contrast} {method} {name} {np.nanmean(values):.3f} [{low:.3f}, {high:.3f}]"
                )


if __name__ == "__main__":
    main()
