"""Where a scan shows nothing, and the scan as if it were 0 there.

Knows intensities; nothing of brains or networks. The background of a brain-extracted scan is the constant value
along its border, whatever it is: 0 as most tools leave it, -1024 as in CT, the negative or middle value that
z-scoring makes of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.imaging.volume import Volume

#: A background value fills at least this share of the scan's border ...
LEAST_OF_BORDER = 0.2
#: ... and a second one, as padding leaves it, this share, if the two fill nearly all of it.
SECOND_OF_BORDER, BOTH_OF_BORDER = 0.1, 0.95
#: Values this near to the background are background: rounding, by the width of all values.
ROUNDING = 1e-5
#: Where less than this share of the voxels lies on one side of the background, it is ringing of an
#: interpolation and no brain.
RINGING = 0.01
#: Percentile of the brain that stands for its least intensity.
BLACK = 0.1


def find_background(data: NDArray) -> NDArray[np.bool_]:
    """Where a scan shows nothing: the constant value along its border; nowhere for a scan without one.

    Where brain lies on both sides of that value, as after z-scoring, what equals it inside the brain is
    brain. Where brain lies above it, what is below is background too, and the other way round: cubic
    interpolation rings.

    Args:
        data: (X, Y, Z) intensities, of any range.
    """
    values = _constants_of_border(data)
    if not values:
        return np.zeros(data.shape, bool)
    near = ROUNDING * (float(data.max()) - float(data.min()))
    equal = np.zeros(data.shape, bool)
    for value in values:
        equal |= np.abs(data - value) <= near if near else data == value
    below, above = data < min(values), data > max(values)
    below &= ~equal
    above &= ~equal
    brain = max(int((~equal).sum()), 1)
    if below.sum() < RINGING * brain:
        return equal | below
    if above.sum() < RINGING * brain:
        return equal | above
    parts, _ = ndimage.label(equal)
    outer = np.unique(_border(parts))
    return np.isin(parts, outer[outer > 0])


def on_black(
    image: Volume, mask: NDArray[np.bool_], background: NDArray[np.bool_] | None = None
) -> tuple[Volume, float]:
    """A scan as if its background had been 0 and its brain positive, so that nothing bleeds into its rim.

    Args:
        image: A scan with any background, or with its skull on.
        mask: (X, Y, Z) where its brain is.
        background: What `find_background` finds of it; None: it is found.

    Returns:
        The scan, 0 in the background, and the intensity that was taken for 0. It is the scan itself, and
        0, where the background is 0 and the brain positive.
    """
    background = find_background(image.data) if background is None else background
    black = _black(image.data[mask & ~background], image.data[background])
    if black == 0 and not np.any(image.data[background]):
        return image, 0.0
    data = np.where(background, 0, image.data - np.float32(black)).astype(np.float32)
    return image.with_data(data), black


def _black(brain: NDArray, background: NDArray) -> float:
    """The intensity of no signal.

    It is that of the background, where this lies less than the width of the brain's intensities below
    them; else 0, or the least of the brain where that is negative.
    """
    if not brain.size:
        return 0.0
    least, width = float(np.percentile(brain, BLACK)), float(np.ptp(brain))
    nothing = float(np.median(background)) if background.size else np.nan
    return nothing if least - width < nothing <= least else min(0.0, least)


def _constants_of_border(data: NDArray) -> list[float]:
    """The value that fills a good part of the border, and a second one where the two fill it all."""
    values, counts = np.unique(_border(data), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:2]
    shares = counts[order] / counts.sum()
    if shares[0] < LEAST_OF_BORDER:
        return []
    found = [float(values[order[0]])]
    if len(order) > 1 and shares[1] > SECOND_OF_BORDER and shares.sum() > BOTH_OF_BORDER:
        found.append(float(values[order[1]]))
    return found


def _border(data: NDArray) -> NDArray:
    """All values on the six faces."""
    faces = [data.take(index, axis).ravel() for axis in range(3) for index in (0, -1)]
    return np.concatenate(faces)
