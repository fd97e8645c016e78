"""Scans turned against the fine grid: transposes, naive resampling, and what three of them tell."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from vcm.errors import VCMError
from vcm.imaging.acquisition import find_acquisition
from vcm.imaging.degradation import Degradation, project_all
from vcm.imaging.geometry import resample
from vcm.imaging.turned import TurnedDegradation, degradation_between
from vcm.imaging.volume import Grid, Volume


def grid(shape, spacing, turn=(0, 0, 0), centre=(0, 0, 0), flips=(1, 1, 1)):
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag(flips) * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


FINE = grid((30, 32, 28), (1, 1, 1), turn=(3, -2, 4))


def turned(axis=2, spacing=4.0, turn=(10, 20, -15), centre=(0, 0, 0), flips=(1, -1, 1)):
    sizes, shape = [1.0, 1.0, 1.0], [26, 26, 26]
    sizes[axis], shape[axis] = spacing, 6
    scan = grid(shape, sizes, turn, centre, flips)
    return TurnedDegradation.between(FINE, scan, find_acquisition(scan)), scan


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_adjoint_is_the_transpose(axis):
    degradation, scan = turned(axis)
    random = np.random.default_rng(axis)
    x, y = random.normal(size=FINE.shape), random.normal(size=scan.shape)
    one, other = (degradation.degrade(x) * y).sum(), (x * degradation.adjoint(y)).sum()
    assert one == pytest.approx(other, rel=1e-6)  # the weights are single precision


def smooth():
    return gaussian_filter(np.random.default_rng(3).normal(size=FINE.shape), 3.0) * 30


def test_it_sees_what_lies_there_in_the_world():
    """Against resampling to thin slices at the scan's own places, averaged one by one."""
    degradation, scan = turned()
    image = smooth()
    profile = degradation.along.matrices[2]

    def naive(values):
        own = resample(Volume(values, FINE.affine), degradation.along.fine, order=1)
        return np.stack([(own * profile[k]).sum(2) for k in range(scan.shape[2])], 2)

    seen = degradation.seen
    assert 0.3 < seen.mean() < 1  # the corners of the turned scan lie outside
    whole = seen & (naive(np.ones(FINE.shape)) > 1 - 1e-6)
    assert whole.sum() > 0.8 * seen.sum()
    np.testing.assert_allclose(degradation.degrade(image)[whole], naive(image)[whole], atol=1e-3)
    constant = degradation.degrade(np.full(FINE.shape, 7.0))
    np.testing.assert_allclose(constant[seen], 7.0, rtol=2e-3)
    assert (constant[~seen] == 0).all()


def test_without_a_turn_it_is_the_parallel_one():
    scan = grid((26, 26, 6), (1, 1, 4), turn=(3, -2, 4), centre=(0.3, -0.2, 0.4))
    acquisition = find_acquisition(scan)
    parallel = degradation_between(FINE, scan, acquisition)
    assert isinstance(parallel, Degradation)
    general = TurnedDegradation.between(FINE, scan, acquisition)
    image = smooth()
    seen = general.seen
    error = np.sqrt(np.square(general.degrade(image) - parallel.degrade(image))[seen].mean())
    assert error < 0.05 * image.std()


def test_three_turned_scans_say_more_than_one_and_are_explained():
    truth = smooth() + gaussian_filter(np.random.default_rng(4).normal(size=FINE.shape), 1.2) * 5
    scans = [
        turned(axis, turn=turn)[0] for axis, turn in enumerate([(8, 0, 5), (0, 9, 4), (6, 5, 0)])
    ]
    terms = [(a, a.degrade(truth), 0.05) for a in scans]
    inside = np.ones(FINE.shape, bool)
    inside[8:-8, 8:-8, 8:-8] = False
    errors = []
    for used in (terms[:1], terms):
        found = project_all(np.zeros(FINE.shape), used, sweeps=40)
        errors.append(np.sqrt(np.square(found - truth)[~inside].mean()))
        for a, y, _ in used:
            assert np.abs(a.degrade(found) - y).max() < 0.1 * np.abs(y).max()
    assert errors[1] < 0.6 * errors[0]


def test_a_scan_of_somewhere_else_is_refused():
    with pytest.raises(VCMError, match="scans of one head"):
        turned(centre=(200, 0, 0))
