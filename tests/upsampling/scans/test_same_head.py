"""How two scans of a head are compared."""

import numpy as np
import pytest
from small_heads import head

from vcm.imaging import brain
from vcm.imaging.geometry import model_grid
from vcm.upsampling.scans.same_head import agreement, brain_on_slices
from vcm.upsampling.scans.thick_scan import to_thick_scan


def test_slices_as_near_as_the_voxels_of_the_comparison_are_compared_too(monkeypatch):
    """On voxels that refine them: a guide, or a second scan, can be given beside slices of 2 mm."""
    monkeypatch.setattr(brain, "align_rigid", lambda image: np.eye(4))
    scan = to_thick_scan(head(), model_grid(), 1.5, axis="axial")
    assert scan.acquisition.spacing == pytest.approx(2)
    shown = brain_on_slices(scan)
    assert shown.image.grid.spacing == pytest.approx((1.5, 1.5, 1.5))
    assert agreement(scan, shown) > 0.95
