"""Several scans with their detail become one image."""

from dataclasses import replace

import numpy as np
import pytest

from vcm.imaging.geometry import model_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume
from vcm.upsampling.detail.several import DetailedScan, combine
from vcm.upsampling.scans.border import in_view
from vcm.upsampling.scans.thick_scan import to_thick_scan
from vcm.upsampling.simulate import simulate_slices


def head(gain: float = 1.0) -> Volume:
    template = common_template()
    # Whole slices in every direction, so that the fine grids of all scans are one.
    data = np.where(template.data > 0.1, gain * (100 + 700 * template.data), 0)[:, :, :93]
    return Volume(data.astype(np.float32), template.affine, source="sub-1_T1w")


def detailed(axis: str, error: float, gain: float = 1.0, std: float = 0.1) -> DetailedScan:
    """A scan whose detail is the truth, off by a constant error, everywhere."""
    thick, _ = simulate_slices(head(gain), axis, 6.0)
    scan = to_thick_scan(thick, model_grid(), 2.0)
    low, high = scan.units
    truth = ((head(gain).data - low) / (high - low)).astype(np.float32)
    assert scan.fine.shape == truth.shape
    ones = np.ones_like(truth)
    return DetailedScan(scan, truth + np.float32(error), np.float32(std) * ones, ones)


def rms(found: DetailedScan) -> float:
    low, high = found.scan.units
    truth = (head().data - low) / (high - low)
    return float(np.sqrt(np.square(found.image - truth)[head().data > 0].mean()))


def test_what_one_scan_guesses_wrong_another_measures():
    axial, coronal = detailed("axial", 0.1), detailed("coronal", -0.04)
    assert rms(combine([axial, coronal], 0.1)) < 0.3 * rms(axial)


def test_scans_of_other_intensities_are_brought_to_the_scale_of_the_first():
    one, other = (
        combine([detailed("axial", 0.05), detailed("coronal", 0.05, gain)], 0.1)
        for gain in (1.0, 3.0)
    )
    assert np.abs(one.image - other.image).max() < 2e-3


def test_two_stated_errors_become_that_of_their_weighted_mean():
    made = combine([detailed("axial", 0.0, std=0.3), detailed("coronal", 0.0, std=0.4)], 0.1)
    assert np.median(made.std) == pytest.approx(0.24, rel=0.05)


def test_a_scan_says_nothing_beyond_its_field_of_view():
    axial, coronal = detailed("axial", 0.0), detailed("coronal", 0.0, std=0.2)
    volume = coronal.scan.volume
    short = replace(volume, data=np.ascontiguousarray(volume.data[:, :, :40]))
    scan = replace(coronal.scan, volume=short, brain=coronal.scan.brain[:, :, :40], rim=None)
    made = combine([axial, replace(coronal, scan=scan)], 0.1)
    beyond = ~in_view(short.grid, axial.scan.fine)
    assert beyond.any() and np.allclose(made.std[beyond], 0.1, atol=1e-5)
    assert made.std[~beyond].max() < 0.1
