"""The intensities of a brain that become 0 and 1."""

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.brain import range_in_brain, to_unit_range


@pytest.fixture
def brain():
    random = np.random.default_rng(0)
    return random.uniform(100, 900, (12, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_the_scale_of_the_intensities_changes_nothing(brain, scale):
    inside = brain > 300
    one, units = to_unit_range(brain, inside)
    other, scaled = to_unit_range((scale * brain).astype(np.float32), inside)
    np.testing.assert_allclose(other, one, atol=1e-6)
    np.testing.assert_allclose(np.array(scaled) / scale, units, rtol=1e-6)
    assert one.max() == 1 and one[inside].std() > 0.2


def test_a_brain_that_is_all_alike_is_refused_by_its_name(brain):
    brain[:] = 7
    brain[0, 0, 0] = 9
    with pytest.raises(VCMError, match=r"sub-1_T1w\.nii\.gz holds 7 in all of its brain"):
        to_unit_range(brain, brain > 0, source="sub-1_T1w.nii.gz")
    with pytest.raises(VCMError, match="give a scan with contrast"):
        range_in_brain(brain, brain > 0)
