"""Why brain age from voxels fails on scans of another study: one difference removed at a time.

    VCM_DATA=FOLDER python benchmarks/fewshot_domain.py --out OUT

trains ridge regression on smoothed voxels of 4 mm of IXI training scans and tests it on IXI and on
ds002748, with 10 draws of 100 shots. Writes domain.tsv: mean absolute error and bias [years] by variant,
with 95 % bootstrap intervals over the test cases, the draws held. Needs ixi2mm and ds002748 in FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch.nn import functional

from vcm.fewshot.cases.layouts import Case, find_cases
from vcm.fewshot.cases.preparation import canonical, foreground, prepare
from vcm.fewshot.cases.shots import draw_shots, strata_of
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.comparison.resampling import Sample, draw_cases, over_cases
from vcm.fewshot.methods.closed_form import fit_line
from vcm.fewshot.methods.features import (
    SEGMENTER_SHAPE,
    SEGMENTER_SPACING,
    VOXELS_SHAPE,
    VOXELS_SMOOTHING,
    VOXELS_SPACING,
)  # fmt: skip
from vcm.fewshot.methods.views import seen_otherwise
from vcm.files import read_table, write_table
from vcm.imaging.brightness import local_brightness
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume, read_label_map, read_volume

SHOTS, DRAWS = 100, 10


@dataclass(frozen=True)
class Variant:
    """What is made alike in both sets.

    Attributes:
        tight: IXI is masked without extracerebral CSF, as brain extraction does it.
        coarse: ds002748 is read at 2 mm first.
        ranks: A voxel's brightness is its rank within the brain, so contrast is fixed.
        local: A voxel's brightness is its deviation from the mean within about 10 mm, over the standard deviation
            there, so that bias field and contrast are fixed.
        extent: Every brain is scaled to the same spread along each axis.
        pooled: Voxels of 4 mm are means of prepared voxels of 2 mm, as pretraining prepares them.
        views: So many views of each shot, as pretraining draws them, are trained on beside it. It needs
            pooled.
    """

    tight: bool = False
    coarse: bool = False
    ranks: bool = False
    local: bool = False
    extent: bool = False
    pooled: bool = False
    views: int = 0


VARIANTS = {
    "as they come": Variant(),
    "IXI masked without extracerebral CSF": Variant(tight=True),
    "ds002748 read at 2 mm": Variant(coarse=True),
    "brightness by rank": Variant(ranks=True),
    "local brightness": Variant(local=True),
    "mask and local brightness": Variant(tight=True, local=True),
    "same extent": Variant(extent=True),
    "mask and resolution": Variant(tight=True, coarse=True),
    "mask and brightness": Variant(tight=True, ranks=True),
    "mask, resolution and brightness": Variant(tight=True, coarse=True, ranks=True),
    "mask, brightness and extent": Variant(tight=True, ranks=True, extent=True),
    "from 2 mm": Variant(pooled=True),
    "from 2 mm, views of the shots": Variant(pooled=True, views=4),
}
#: Spread of a brain along right, anterior, superior [mm] that `extent` scales to.
EXTENT = (33.0, 42.0, 30.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for domain.tsv")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="default: all")
    given = parser.parse_args()
    data = Path(os.environ["VCM_DATA"])
    train, same = (_aged(find_cases(data / "ixi2mm", split)) for split in ("train", "test"))
    other = _aged(find_cases(data / "ds002748"))
    table = read_table(data / "ixi2mm" / "desc-dlmuse_dseg.tsv")
    outer = [int(row["index"]) for row in table if row["vcm8"] == "7"]
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "domain.tsv"
    rows: list[dict[str, object]] = []
    if file.is_file():
        rows += [dict(row) for row in read_table(file)]
    x: NDArray
    x_same: NDArray
    x_other: NDArray
    for name in given.variants:
        v = VARIANTS[name]
        if v.pooled:
            x = np.stack([_views(c, "dseg", v.views) for c in train])
            x_same, x_other = (
                np.stack([_views(c, mask)[0] for c in cases])
                for cases, mask in ((same, "dseg"), (other, ""))
            )
        else:
            x, x_same = (
                _features([_ixi(c, outer if v.tight else [], v.extent) for c in cases], v)
                for cases in (train, same)
            )
            x = x[:, None]
            x_other = _features([_other(c, v.coarse, v.extent) for c in other], v)
        for test, features, cases in (("IXI", x_same, same), ("ds002748", x_other, other)):
            rows.append({"variant": name, "test": test, **_errors(x, train, features, cases)})
            print(rows[-1], flush=True)
        write_table(file, rows, list(rows[0]))


def _aged(cases: list[Case]) -> list[Case]:
    return [c for c in cases if c.values["age"] not in ("", "n/a")]


def _ages(cases: list[Case]) -> NDArray[np.float64]:
    return np.array([float(c.values["age"]) for c in cases])


def _ixi(case: Case, outer: list[int], extent: bool) -> NDArray[np.float32]:
    labels = read_label_map(case.maps["dseg"])
    mask = labels.with_data(((labels.data > 0) & ~np.isin(labels.data, outer)).astype(np.int32))
    return _prepared(read_volume(case.images["t1"]), mask, extent)


def _other(case: Case, coarse: bool, extent: bool) -> NDArray[np.float32]:
    scan = read_volume(case.images["t1"])
    if not coarse:
        return _prepared(scan, None, extent)
    grid = canonical(scan.grid)
    step = 2.0 / np.array(grid.spacing)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * step
    shape = tuple(int(n) for n in np.array(grid.shape) / step)
    values = resample(scan, Grid((shape[0], shape[1], shape[2]), affine), order=1)
    return _prepared(Volume(values.astype(np.float32), affine, None, scan.source), None, extent)


def _prepared(scan: Volume, mask: Volume | None, extent: bool) -> NDArray[np.float32]:
    spacing = np.array(VOXELS_SPACING)
    if extent:
        inside = foreground(scan.data) if mask is None else mask.data > 0
        places = np.argwhere(inside) @ scan.affine[:3, :3].T
        spacing = spacing * places.std(0) / EXTENT
    return prepare({"t1": scan}, ("t1",), tuple(spacing), VOXELS_SHAPE, mask).image[0]


def _views(case: Case, mask: str, count: int = 0) -> NDArray[np.float32]:
    """Smoothed voxels of 4 mm of a scan and of views of it, (1 + count, F)."""
    labels = read_label_map(case.maps[mask]) if mask else None
    scan = {"t1": read_volume(case.images["t1"])}
    image = prepare(scan, ("t1",), SEGMENTER_SPACING, SEGMENTER_SHAPE, labels).image[0]
    random = np.random.default_rng(int(hashlib.sha256(case.name.encode()).hexdigest()[:8], 16))
    seen = [torch.from_numpy(image)]
    seen += [seen_otherwise(seen[0], random) for _ in range(count)]
    pooled = [functional.avg_pool3d(view[None], 2)[0].numpy() for view in seen]
    return np.stack([gaussian_filter(p, VOXELS_SMOOTHING).ravel() for p in pooled])


def _features(stack: Sequence[NDArray[np.float32]], variant: Variant) -> NDArray[np.float64]:
    """Smoothed voxels, with brightness as the variant has it."""
    rows = []
    for image in stack:
        values = image.astype(np.float64)
        if variant.local:
            values = local_brightness(image, VOXELS_SPACING[0])
        if variant.ranks:
            inside = values > 0
            values[inside] = rankdata(values[inside]) / inside.sum()
        rows.append(gaussian_filter(values, VOXELS_SMOOTHING).ravel())
    return np.stack(rows)


def _errors(
    x: NDArray, train: list[Case], tested: NDArray[np.float64], cases: list[Case]
) -> dict[str, object]:
    task = task_from({"kind": "regression", "inputs": ["t1"]})
    ages, truth = _ages(train), _ages(cases)
    answers = []
    for seed in range(DRAWS):
        places = draw_shots(list(ages), strata_of("regression", list(ages)), SHOTS, seed)
        rows = x[places].reshape(-1, x.shape[-1]).astype(np.float64)
        model = fit_line("voxels", task, "voxels", rows, np.repeat(ages[places], x.shape[1]))
        answers.append([model.answer_features(row).value for row in tested])
    sample = Sample("mae", truth, np.array(answers, dtype=float))
    low, high = over_cases(sample)
    differences = (sample.answers - truth).mean(0)
    counts = draw_cases(truth, 2000, 0, False)
    bias_low, bias_high = np.percentile(counts @ differences / len(truth), [2.5, 97.5])
    return {
        "n": len(truth), "mae": f"{sample.value():.2f}", "mae_low": f"{low:.2f}",
        "mae_high": f"{high:.2f}", "bias": f"{differences.mean():+.2f}",
        "bias_low": f"{bias_low:+.2f}", "bias_high": f"{bias_high:+.2f}",
    }  # fmt: skip


if __name__ == "__main__":
    main()
