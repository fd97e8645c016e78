"""How thick the slices of a scan are, found in the scan itself: across the slices against within them.

A brain looks much alike in every direction. So a scan that is blurred within its planes by the profile of its
slices, and sampled there as far apart as they are, varies within the planes as it does across them. As
ESPRESO (Han et al. 2021, IEEE Transactions on Medical Imaging), this takes the planes for what the direction
across should look like; no network compares the two, but the power of differences of neighbours:

    T(w) = log [P_3(across) / P_3(within)] - log [P_1(across) / P_1(within)],    P_n: mean |n-th difference|^2

of the scan blurred within its planes by a Gaussian of FWHM w. The blur is there in both powers, so T is 0 at
the width of the slices where a head is the same in all directions, and noise weighs on both alike. First
differences see coarse structure, of which a brain has more in some directions, third ones fine structure; the
ratio of the two is nearly free of that, and what is left of it (`ANISOTROPY`) was measured. The width is the
mean of exp(-(T - anisotropy)^2 / 2 v) with a prior about the spacing, v from blocks of the brain and from how
brains differ.

Knows a scan, its brain and grids [mm]; nothing of networks or files.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d

from vcm.errors import VCMError
from vcm.imaging.acquisition import Acquisition, ProfileKind, SliceProfile
from vcm.imaging.volume import Grid, Volume

#: What may be said of the slices of a scan: their profile, or that the scan tells.
ProfileChoice = ProfileKind | Literal["auto"]
#: T at the true width: by the direction across the slices, at spacings of [mm]. T1w brains of 12 training
#: subjects of ds002748 (`python benchmarks/slice_profile.py calibrate DS002748 --limit 12`).
CALIBRATED_SPACINGS = (3.0, 4.0, 6.0, 8.0)
ANISOTROPY = {
    "axial": (0.0, 0.024, 0.078, 0.097),
    "coronal": (0.047, 0.043, -0.043, -0.124),
    "sagittal": (-0.019, -0.052, -0.005, 0.043),
}
#: Standard deviation of T between brains, beside what blocks of one brain tell.
BETWEEN_BRAINS = 0.04
#: Standard deviation of log(width / spacing) over scanners, before a scan is seen.
PRIOR = 0.4
#: Widths that are tried [spacing]; between them T is interpolated.
TRIED = np.geomspace(0.3, 2.5, 14)
#: An estimate is believed up to this standard deviation of log(width) ...
MOST_UNCERTAIN = 0.3
#: ... where T comes this near to what it is at the true width, in standard deviations ...
MOST_APART = 3.0
#: ... and where both powers have this many pairs of voxels or more in this many blocks or more.
LEAST_PAIRS, LEAST_BLOCKS = 1000, 4
#: Edge of the blocks that are left out in turns [mm], and distance of the voxels that are looked at [mm].
BLOCK, STEP = 30.0, 2.0
#: Orders of the differences, and their weights.
_DIFFERENCES = {1: (-1.0, 1.0), 3: (-1.0, 3.0, -3.0, 1.0)}

Sums = NDArray[np.float64]


def check_profile(profile: str, thickness: float | None) -> None:
    """Refuse with VCMError a profile that there is not, or a thickness [mm] beside one that is found."""
    kinds = get_args(ProfileKind)
    if profile not in (*kinds, "auto"):
        raise VCMError(f"profile is {profile}: choose {', '.join(kinds)} or auto.")
    if profile == "auto" and thickness is not None:
        raise VCMError(
            f"profile is auto, which finds the thickness in the scan, and slice_thickness is {thickness:g}: leave "
            "slice_thickness out, or choose profile gaussian or boxcar."
        )


class NoEstimate(VCMError):
    """A scan does not tell how thick its slices are."""


@dataclass(frozen=True)
class EstimatedWidth:
    """How thick slices are, as their scan tells.

    Attributes:
        fwhm: Full width at half maximum of a Gaussian profile [mm].
        std: Its uncertainty, one standard deviation [mm].
    """

    fwhm: float
    std: float

    def __str__(self) -> str:
        return f"{self.fwhm:.2f} ± {self.std:.2f} mm"


def estimate_width(
    scan: Volume,
    brain: NDArray[np.bool_],
    acquisition: Acquisition,
    fine: Grid,
    lost: Collection[int] = (),
    anisotropy: float | None = None,
) -> EstimatedWidth:
    """Find the FWHM of a scan's slices, taken for Gaussian.

    It is that of the profile which `Degradation.between` takes from the fine grid to the scan.

    Args:
        scan: Thick slices at right angles, (X, Y, Z), in any intensities.
        brain: (X, Y, Z) of its voxels; nothing else is looked at.
        acquisition: How it was cut; its thickness is not looked at.
        fine: Grid of the result, along the scan's axes in their order.
        lost: Slices that hold no measurement, from 0.
        anisotropy: T at the true width; None: that of brains.

    Returns:
        The width, about 0.3 to 2.5 spacings, and its uncertainty.

    Raises:
        NoEstimate: Too little of the brain is seen, or it does not tell the width.
    """
    apart, variance = compare_directions(scan, brain, acquisition, fine, lost)
    if anisotropy is None:
        anisotropy = float(
            np.interp(acquisition.spacing, CALIBRATED_SPACINGS, ANISOTROPY[acquisition.name])
        )
    return _posterior(apart - anisotropy, variance, acquisition.spacing)


def compare_directions(
    scan: Volume,
    brain: NDArray[np.bool_],
    acquisition: Acquisition,
    fine: Grid,
    lost: Collection[int] = (),
) -> tuple[Sums, Sums]:
    """T of a scan, the mean over both axes in plane. Arguments as `estimate_width` has them.

    Returns:
        (widths,) T for each of `TRIED`, and its variance.

    Raises:
        NoEstimate: Too little of the brain is seen, or it is constant.
    """
    spacing, across = acquisition.spacing, acquisition.axis
    seen = brain & np.isfinite(scan.data)
    np.moveaxis(seen, across, 0)[list(lost)] = False
    if not seen.any():
        raise NoEstimate("no brain is seen")
    box = tuple(slice(int(n.min()), int(n.max()) + 1) for n in np.nonzero(seen))
    values, seen = scan.data[box].astype(np.float32), seen[box]
    each = [
        _powers(values, seen, across, u, scan.grid.spacing, _blurs(scan, fine, u, spacing))
        for u in range(3)
        if u != across
    ]
    whole, parts = _statistic(each)
    jackknife = np.square(parts - parts.mean(0)).sum(0) * (len(parts) - 1) / len(parts)
    return whole, BETWEEN_BRAINS**2 + jackknife


def _posterior(apart: Sums, variance: Sums, spacing: float) -> EstimatedWidth:
    """Mean and deviation of log(width), of T minus what it is at the true width and its variance, as `TRIED`."""
    tried = np.log(TRIED)
    log = np.linspace(tried[0], tried[-1], 400)
    off = np.square(np.interp(log, tried, apart)) / np.interp(log, tried, variance)
    if off.min() > MOST_APART**2:
        raise NoEstimate("no width makes its planes vary as it does across the slices")
    mean, std = _deviation(log, np.exp(-0.5 * (off - off.min() + np.square(log / PRIOR))))
    if std > MOST_UNCERTAIN:
        raise NoEstimate(f"its width is uncertain by {100 * std:.0f} %")
    width = spacing * float(np.exp(mean))
    return EstimatedWidth(width, width * std)


def _deviation(values: Sums, weight: Sums) -> tuple[float, float]:
    mean = float(np.average(values, weights=weight))
    return mean, float(np.sqrt(np.average(np.square(values - mean), weights=weight)))


def _statistic(each: list[tuple[Sums, Sums]]) -> tuple[Sums, Sums]:
    """T, the mean over the axes in plane.

    Args:
        each: For each such axis sums of squares (blocks, widths, orders, 2), and of what (blocks, orders, 2).

    Returns:
        (widths,) of the whole brain; (blocks, widths) without each block in turn.
    """
    used = np.logical_or.reduce([count.any((1, 2)) for _, count in each])
    for _, count in each:
        if used.sum() < LEAST_BLOCKS or count.sum(0).min() < LEAST_PAIRS:
            raise NoEstimate("too little of the brain lies within enough slices")
    found = []
    for squares, count in each:
        totals = [a[used] for a in (squares, count)]
        sums, counts = ([a.sum(0)[None], a.sum(0) - a] for a in totals)
        power = np.concatenate(sums) / np.maximum(np.concatenate(counts), 1)[:, None]
        if not power[0].min() > 1e-12 * power[0].max():
            raise NoEstimate("its brain is constant")
        ratio = np.log(power[..., 0] / power[..., 1])
        found.append(ratio[..., 1] - ratio[..., 0])
    mean = np.mean(found, axis=0)
    return mean[0], mean[1:]


def _blurs(scan: Volume, fine: Grid, u: int, spacing: float) -> list[SliceProfile]:
    """For each width that is tried, the blur along `u` that makes a scan as smooth as its slices are thick.

    Voxels in plane that are coarser than the fine ones are boxcars already; the width of a boxcar has the
    variance width^2 / 12.
    """
    own, target = scan.grid.spacing[u], fine.spacing[u]
    already = own**2 / 6 - target**2 / 12 if own > target * (1 + 1e-4) else 0.0
    fwhm = np.sqrt(
        np.maximum(np.square(TRIED * spacing) - 8 * np.log(2) * already, (0.1 * own) ** 2)
    )
    return [SliceProfile("gaussian", float(width)) for width in fwhm]


def _powers(
    values: NDArray[np.float32],
    seen: NDArray[np.bool_],
    across: int,
    u: int,
    sizes: tuple[float, float, float],
    blurs: list[SliceProfile],
) -> tuple[Sums, Sums]:
    """Sums of squared differences across the slices and along `u`, by block.

    Args:
        values: (X, Y, Z).
        seen: (X, Y, Z) what may be looked at.
        across: Axis across the slices.
        u: Axis in plane.
        sizes: Of voxels [mm].
        blurs: Along u, to be tried.

    Returns:
        Sums (blocks, widths, orders, 2) and how many (blocks, orders, 2); last axis: across, along u.
    """
    v = 3 - across - u
    spacing, step = sizes[across], max(1, round(STEP / sizes[v]))
    image = values.transpose(u, v, across)[:, ::step]
    inner = _inner(seen.transpose(u, v, across)[:, ::step], round(spacing / sizes[u]))
    count = len(image)
    places: Sums = np.arange(0.0, count, max(1, round(STEP / sizes[u]))) * sizes[u]
    centres = np.arange(count) * sizes[u]
    shifted = [places + n * spacing for n in range(4)]
    allowed = [_at(inner, np.rint(place / sizes[u]).astype(int)) for place in shifted]
    shape, number = _blocks(places, sizes, (u, v, across), image.shape, step, values.shape)
    sums = np.zeros((number, len(blurs), 2, 2))
    counts = np.zeros((number, 2, 2))
    for k, blur in enumerate(blurs):
        along = [
            np.tensordot(
                blur.weights(centres - place[:, None], sizes[u]).astype(np.float32), image, 1
            )
            for place in shifted
        ]
        for n, (order, weights) in enumerate(_DIFFERENCES.items()):
            planes = [along[0][..., j : image.shape[2] - order + j] for j in range(order + 1)]
            masks = [allowed[0][..., j : image.shape[2] - order + j] for j in range(order + 1)]
            pairs = ((planes, masks, 2), (along[: order + 1], allowed[: order + 1], 0))
            for direction, (images, within, axis) in enumerate(pairs):
                valid = np.logical_and.reduce(within)
                squares = np.square(_without_gain(images, weights, valid, axis))
                block = shape[..., : valid.shape[2]][valid]
                sums[:, k, n, direction] = np.bincount(block, squares[valid], number)
                if k == 0:
                    counts[:, n, direction] = np.bincount(block, minlength=number)
    return sums, counts


def _inner(seen: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Voxels (u, v, slices) with brain as far as `reach` along u, and in the next slices."""
    inner = seen.copy()
    inner[..., 1:] &= seen[..., :-1]
    inner[..., :-1] &= seen[..., 1:]
    inner[..., [0, -1]] = False
    kept: NDArray[np.bool_] = (
        minimum_filter1d(inner.astype(np.uint8), 2 * reach + 1, axis=0, mode="constant") > 0
    )
    return kept


def _at(inner: NDArray[np.bool_], index: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Rows of a mask, False beyond its end."""
    return inner[np.minimum(index, len(inner) - 1)] & (index < len(inner))[:, None, None]


def _blocks(
    places: Sums,
    sizes: tuple[float, float, float],
    order: tuple[int, int, int],
    shape: tuple[int, ...],
    step: int,
    whole: tuple[int, ...],
) -> tuple[NDArray[np.int_], int]:
    """Number of the block of each place (u, v, slices), the same for both axes in plane, and how many there are."""
    u, v, across = order
    positions = {
        u: places,
        v: np.arange(shape[1]) * step * sizes[v],
        across: np.arange(shape[2]) * sizes[across],
    }
    most = [int(n * s // BLOCK) + 1 for n, s in zip(whole, sizes, strict=True)]
    a, b, c = np.meshgrid(*(positions[k] // BLOCK for k in range(3)), indexing="ij")
    number = np.ravel_multi_index((a.astype(int), b.astype(int), c.astype(int)), most)
    return number.transpose(order), int(np.prod(most))


def _without_gain(
    images: list[NDArray[np.float32]],
    weights: tuple[float, ...],
    valid: NDArray[np.bool_],
    axis: int,
) -> NDArray[np.float32]:
    """A weighted sum of slices, less the part that a gain of whole slices explains: what goes with their mean."""
    difference = sum(w * image for w, image in zip(weights, images, strict=True))
    level = sum(images) / len(images)
    others = tuple(k for k in range(3) if k != axis)
    shown = level * valid
    power = np.square(shown).sum(others, keepdims=True)
    explained = (difference * shown).sum(others, keepdims=True) / np.where(power > 0, power, 1)
    rest: NDArray[np.float32] = np.asarray(difference - explained * level)
    return rest
