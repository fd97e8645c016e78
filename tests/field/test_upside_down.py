"""A header whose axis points the wrong way is said, once, by everything that aligns a brain or a label map."""

import warnings

import numpy as np
import pytest
from small_brains import aligned_by_header

from vcm.errors import VCMWarning
from vcm.imaging.brain import align_brain
from vcm.imaging.geometry import model_grid
from vcm.imaging.placing import place_label_map, place_partial, unconditioned
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, write_volume
from vcm.upsampling.scans.thick_scan import to_thick_scan

GRID = model_grid()


def head(upside_down, data=None):
    """The template's brain, or other values there, as its header has it, or with an axis that points downward."""
    template = common_template()
    values = np.where(template.data > 0.2, 500 * template.data, 0) if data is None else data
    affine = template.affine.copy()
    if upside_down:
        inside = np.argwhere(template.data > 0.2)
        middle = template.affine[2] @ [*inside.mean(0), 1]
        affine[2] *= -1
        affine[2, 3] += 2 * middle
    return Volume(values.astype(np.float32), affine, source="sub-1_T1w.nii.gz")


def align_scan(brain, classes, folder):
    align_brain(brain, brain.data > 0, GRID)


def place_map(brain, classes, folder):
    labels = brain.with_data(classes.astype(np.uint8))
    place_label_map(labels, "vcm8", GRID)


def place_image(brain, classes, folder):
    mask = np.zeros(brain.data.shape, np.uint8)
    mask[:40] = 1
    write_volume(brain, folder / "image.nii.gz")
    write_volume(brain.with_data(mask), folder / "known.nii.gz")
    place_partial(folder / "image.nii.gz", folder / "known.nii.gz", unconditioned(GRID))


def read_slices(brain, classes, folder):
    thin = brain.data[:, :, : brain.data.shape[2] // 3 * 3]
    thick = thin.reshape(*thin.shape[:2], -1, 3).mean(3)
    affine = brain.affine @ np.diag([1, 1, 3, 1.0])
    affine[:3, 3] += brain.affine[:3, 2]
    inside = thin[:, :, 1::3] > 0
    scan = Volume(np.where(inside, thick, 0).astype(np.float32), affine, source="sub-1_T2w.nii.gz")
    to_thick_scan(scan, GRID, 2.0)


@pytest.mark.parametrize("read", [align_scan, place_map, place_image, read_slices])
def test_upside_down(tmp_path, monkeypatch, head_map, read):
    aligned_by_header(monkeypatch)
    for wrong in (False, True):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            read(head(wrong), head_map[0], tmp_path)
        about = [w for w in said if "upside down or back to front" in str(w.message)]
        assert len(about) == wrong, [str(w.message) for w in said]
        assert all(w.category is VCMWarning for w in said)
