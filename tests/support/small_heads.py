"""Heads whose truth is known, and their thick slices."""

from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume


def head(turn=(0, 0, 0), shift=(0, 0, 0), spacing=2.0, flips=(1, 1, 1), order=(0, 1, 2)) -> Volume:
    """The MNI152 brain, moved and turned in the world, on an isotropic grid of the same turn."""
    template = common_template()
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    motion[:3, 3] = shift
    shape = np.array([84, 104, 84])[list(order)]
    affine = np.eye(4)
    affine[:3, :3] = motion[:3, :3] @ (np.eye(3)[:, list(order)] * flips) * spacing
    affine[:3, 3] = (motion @ [0, -18, 6, 1])[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    grid = Grid(tuple(int(n) for n in shape), affine)
    data = resample(Volume(template.data, template.affine), grid, motion, order=1)
    return Volume(np.where(data > 0.1, 700 * data, 0).astype(np.float32), affine, source="head")


def cut(whole: Volume, axis: str, spacing: float):
    """Thick slices of a head, brain-extracted as they are."""
    thick, acquisition = simulate_thick(whole, axis, spacing)
    return thick.with_data(np.where(thick.data > 80, thick.data, 0)), acquisition


def bent(whole, seed):
    """Another head: everything displaced by some millimetres, the outline kept."""
    random = np.random.default_rng(seed)
    places = np.indices(whole.data.shape).astype(np.float32)
    deep = np.minimum(distance_transform_edt(whole.data > 0) / 6, 1)
    moved = [
        p + deep * 300 * gaussian_filter(random.standard_normal(p.shape), 6, mode="wrap")
        for p in places
    ]
    return replace(whole, data=map_coordinates(whole.data, moved, order=1))
