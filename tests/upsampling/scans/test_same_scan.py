import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.volume import Volume
from vcm.upsampling.scans.same_scan import refuse_same_scan

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
RANDOM = np.random.default_rng(0)
DATA = np.where(RANDOM.random((12, 10, 8)) > 0.3, RANDOM.normal(100, 20, (12, 10, 8)), 0)


def flipped(data):
    affine = AFFINE.copy()
    affine[0, 0] = -1
    affine[0, 3] = data.shape[0] - 1
    return Volume(data[::-1], affine, source="copy.nii.gz")


def turned(data):
    return Volume(np.moveaxis(data, 2, 0), AFFINE[:, [2, 0, 1, 3]], source="copy.nii.gz")


@pytest.mark.parametrize(
    "copy",
    [
        Volume(DATA, AFFINE, source="copy.nii.gz"),
        Volume((10 * DATA + 3).astype(np.int16), AFFINE, source="copy.nii.gz"),
        flipped(DATA),
        turned(DATA),
    ],
    ids=["equal", "scaled and rounded", "flipped", "axes in another order"],
)
def test_a_copy_is_refused(copy):
    with pytest.raises(VCMError, match=r"scan\.nii and copy\.nii\.gz hold the same scan"):
        refuse_same_scan([Volume(DATA, AFFINE, source="scan.nii"), copy])


def test_a_second_scan_of_the_head_is_not():
    noisy = DATA + RANDOM.normal(0, 1, DATA.shape)
    moved = AFFINE.copy()
    moved[2, 3] = 2.5
    first = Volume(DATA, AFFINE)
    refuse_same_scan(
        [first, Volume(noisy, AFFINE), Volume(DATA[..., :7], AFFINE), Volume(DATA, moved)]
    )
