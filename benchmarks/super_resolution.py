"""What the network that halves a model's voxels is worth, on scans and on samples of the model.

    python benchmarks/super_resolution.py PREPARED --model brain2mm

PREPARED is a folder of `vcm prepare --spacing 1 --segmenter segmenter2mm`; its split test is measured. Each scan is brought to
voxels of twice the size (a Gaussian of 1.2 voxels, then means of 2 x 2 x 2: what is closest to how prepare makes 2 mm of it), and
back by linear interpolation, by cubic interpolation and by the network: PSNR and SSIM in the brain, and the power by spatial
frequency over that of the scan. Then the model makes a brain under the scan's own label map, and the network halves its voxels.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from torch.nn import functional as F

from vcm.imaging.conditions import one_hot
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.imaging.spectrum import power_ratio
from vcm.inputs import InputRequest, network_inputs, resolve_inputs
from vcm.metrics import bootstrap_interval, psnr, ssim
from vcm.nets.super_resolution import interpolated
from vcm.pipeline import VCMPipeline
from vcm.training.super_resolution import AS_PREPARED, FINE_BANDS, REACH, halved
from vcm.weights.load import load_pipeline

WAYS = ("linear", "cubic", "network")


def main() -> None:
    """Measure every subject, print a row for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prepared")
    parser.add_argument("--model", default="brain2mm")
    given = parser.parse_args()
    pipeline = load_pipeline(given.model)
    pipeline.use_scheduler("auto")
    subjects = load_prepared(given.prepared, split="test")
    rows: dict[str, list[list[float]]] = {}
    for number, subject in enumerate(subjects):
        scan = subject.image()
        for way, image in brought_back(pipeline, scan).items():
            rows.setdefault(way, []).append(compared(image, scan))
        sample = pipeline.halve_voxels(sampled(pipeline, subject, number))
        rows.setdefault("sample", []).append(compared(sample, scan))
    print(f"{len(subjects)} scans; power from", *FINE_BANDS, "[1/mm]")
    for way, values in rows.items():
        print(way, *(in_words([row[k] for row in values]) for k in range(len(values[0]))), sep="\t")
    for way in WAYS[:2]:
        gained = [n[0] - w[0] for n, w in zip(rows["network"], rows[way], strict=True)]
        print("network minus", way, in_words(gained), "dB")


def brought_back(
    pipeline: VCMPipeline, scan: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """A scan (X, Y, Z) in 0..1 from voxels of twice the size, in each way."""
    whole = torch.from_numpy(scan)[None, None]
    coarse = halved(F.pad(whole, (REACH,) * 6), torch.tensor([AS_PREPARED]))
    return {
        "linear": interpolated(coarse)[0, 0].numpy(),
        "cubic": np.clip(
            zoom(coarse[0, 0].numpy(), 2, order=3, mode="nearest", grid_mode=True), 0, 1
        ),
        "network": pipeline.halve_voxels(coarse[0, 0].numpy()),
    }


def sampled(pipeline: VCMPipeline, subject: Subject, seed: int) -> NDArray[np.float32]:
    """A volume of the model under the label map of a subject, in voxels of twice the size."""
    fine = torch.from_numpy(one_hot(subject.classes()))[None]
    shares = F.avg_pool3d(fine, 2)
    most = torch.cat([1 - shares.sum(1, keepdim=True), shares], 1).argmax(1)[0]
    request = InputRequest(
        subject.age, subject.sex, subject.ventricular_volume, subject.brain_volume
    )
    told = resolve_inputs(pipeline.input_rule, request, None, "clamp")
    made = pipeline(
        [torch.from_numpy(one_hot(most.numpy().astype(np.uint8)))[None]],
        network_inputs(pipeline.input_rule, told),
        seed=seed,
        temperature=pipeline.recommended_temperature(True, finer=True),
        output_type="np",
    )
    return np.asarray(made.volumes[0, 0], np.float32)


def compared(image: NDArray[np.float32], scan: NDArray[np.float32]) -> list[float]:
    """PSNR and SSIM in the brain, and the powers."""
    one, other = (torch.from_numpy(x)[None, None] for x in (image, scan))
    brain = other > 0
    ratio = power_ratio(image, scan, (1.0, 1.0, 1.0), FINE_BANDS)
    return [float(psnr(one, other, brain)), float(ssim(one, other, brain)), *ratio.tolist()]


def in_words(values: list[float]) -> str:
    """Mean with its interval over the scans."""
    low, high = bootstrap_interval(lambda v: float(v.mean()), np.array(values))
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
