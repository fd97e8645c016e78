"""How well `vcm segment tissues` names tissues in scans of other contrasts than T1w.

    python benchmarks/tissues.py PREPARED OPENMS_MNI --out runs/tissues

PREPARED is what `vcm prepare` makes of a set with a test split and label maps. Each test subject is segmented as it
comes (T1w), and in a random contrast and resolution, seed n for subject n (random); truth is its label map.
OPENMS_MNI holds brains of patients with multiple sclerosis in BIDS layout, isotropic, each in several contrasts on
the same voxels, with a mask of the lesions. Each is segmented as it comes, and in thick slices of three directions;
truth is what segmenter2mm finds in the T1w scan as it comes, brought to the voxels of the slices.
`tissues.tsv` in `out` has a row per scan, segmenter and class: Dice. `lesions.tsv` has the Dice of the lesions that
a segmenter of any contrast tells at 2 mm, with their mask.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from any_contrast import whole_slices
from numpy.typing import NDArray

from vcm.errors import VCMWarning
from vcm.files import write_table
from vcm.imaging.brain import align_brain
from vcm.imaging.conditions import CLASS_NAMES
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import resample, to_model_grid
from vcm.imaging.prepared_set import load_prepared, with_classes
from vcm.imaging.random_scan import draw_scan
from vcm.imaging.volume import Volume, read_volume
from vcm.metrics import bootstrap_interval, dice
from vcm.nets.segmenter import TissueSegmenter
from vcm.preparation.segment import segment
from vcm.upsampling.simulate import simulate_slices
from vcm.weights.segmenter import knows_any_contrast, load_segmenter, segmenter_grid

CONTRASTS = ("T1w", "ce-gd_T1w", "T2w", "FLAIR")
COLUMNS = ["subject", "contrast", "slices", "segmenter", "class", "dice"]
REFERENCE = "segmenter2mm"
#: Thick slices [mm].
SPACING = 4.0


def rows_of(found: NDArray, truth: NDArray, key: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per class that the truth has."""
    one, other = (torch.from_numpy(v.astype(np.int64)) for v in (found, truth))
    overlap = dice(one, other, len(CLASS_NAMES) - 1).flatten().tolist()
    named = zip(CLASS_NAMES[1:], overlap, strict=True)
    return [key | {"class": n, "dice": round(v, 4)} for n, v in named if np.isfinite(v)]


@torch.inference_mode()
def of_prepared(
    prepared: str, nets: dict[str, TissueSegmenter], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Test subjects in T1w and in a random contrast."""
    for number, subject in enumerate(with_classes(load_prepared(prepared, split="test"))[:limit]):
        image, classes = subject.image(), subject.classes()
        random = np.random.default_rng(number)
        drawn = draw_scan(image, classes, 2.0, random)
        for contrast, scan, truth in (
            ("T1w", image, classes),
            ("random", drawn.scan, drawn.classes),
        ):
            for name, net in nets.items():
                found = net.classes(torch.from_numpy(scan)[None, None])[0].numpy()
                key = {"subject": subject.subject, "contrast": contrast, "slices": "none"}
                yield from rows_of(found, truth, key | {"segmenter": name})


def of_patients(
    bids: Path, nets: dict[str, TissueSegmenter]
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rows of tissues and of lesions, of each scan as it comes and in thick slices."""
    for anat in sorted(bids.glob("sub-*/anat")):
        subject = anat.parent.name
        mask = read_volume(anat / f"{subject}_label-lesion_mask.nii.gz")
        t1w = read_volume(anat / f"{subject}_T1w.nii.gz")
        truth = segment(t1w, nets[REFERENCE], find_brain(t1w))
        for contrast in CONTRASTS:
            scan = read_volume(anat / f"{subject}_{contrast}.nii.gz")
            for direction in ("none", "axial", "coronal", "sagittal"):
                shown, labels, lesions = scan, truth, mask
                if direction != "none":
                    thick, _ = simulate_slices(whole_slices(scan, SPACING), direction, SPACING)
                    shown = replace(thick, source=scan.source)
                    labels = Volume(resample(truth, shown.grid, order=0), shown.affine)
                key = {"subject": subject, "contrast": contrast, "slices": direction}
                brain = find_brain(shown)
                rows, told = [], []
                for name, net in nets.items():
                    found = segment(shown, net, brain).data
                    rows += rows_of(found, labels.data, key | {"segmenter": name})
                    if knows_any_contrast(net):
                        overlap = lesion_dice(net, shown, brain.mask, lesions)
                        told.append(key | {"segmenter": name, "dice": round(overlap, 4)})
                yield rows, told


@torch.inference_mode()
def lesion_dice(
    net: TissueSegmenter, scan: Volume, brain: NDArray[np.bool_], lesions: Volume
) -> float:
    """Dice of the lesions that a network tells with those of a mask in the same place, on its own voxels."""
    grid = segmenter_grid(net)
    aligned = align_brain(scan, brain, grid, any_contrast=True)
    there = to_model_grid(lesions, grid, aligned.to_common, order=1) > 0.5
    logits = net(torch.from_numpy(aligned.image.astype(np.float32))[None, None])
    found = logits[0, -1].numpy() > 0
    return float(2 * (found & there).sum() / max(found.sum() + there.sum(), 1))


def summarise(rows: Sequence[dict[str, Any]]) -> None:
    """Mean over classes, then over scans, with its interval over scans."""
    groups = dict.fromkeys((r["contrast"], r["slices"] != "none", r["segmenter"]) for r in rows)
    for contrast, thick, name in groups:
        own = [
            r for r in rows
            if (r["contrast"], r["slices"] != "none", r["segmenter"]) == (contrast, thick, name)
        ]  # fmt: skip
        scans = dict.fromkeys((r["subject"], r["slices"]) for r in own)
        means = np.array(
            [np.mean([r["dice"] for r in own if (r["subject"], r["slices"]) == s]) for s in scans]
        )
        low, high = bootstrap_interval(lambda v: float(np.mean(v)), means)
        of = f"{SPACING:g} mm slices" if thick else "as it comes"
        print(
            f"{contrast}, {of}, {name}: {means.mean():.3f} [{low:.3f}, {high:.3f}], n {len(means)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared")
    parser.add_argument("bids", type=Path)
    parser.add_argument("--segmenters", nargs="+", default=["anysegmenter2mm"])
    parser.add_argument("--out", type=Path, default=Path("runs/tissues"))
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore", VCMWarning)
    given.out.mkdir(parents=True, exist_ok=True)
    nets = {name: load_segmenter(name) for name in (REFERENCE, *given.segmenters)}
    rows = list(of_prepared(given.prepared, nets, given.limit))
    summarise(rows)
    lesions: list[dict[str, Any]] = []
    for tissues, told in of_patients(given.bids, nets):
        rows, lesions = rows + tissues, lesions + told
        write_table(given.out / "tissues.tsv", rows, COLUMNS)
        write_table(given.out / "lesions.tsv", lesions, [c for c in COLUMNS if c != "class"])
    summarise(rows)
    for row in lesions:
        print(*row.values())


if __name__ == "__main__":
    main()
