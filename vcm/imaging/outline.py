"""The outline of the brain by its label map. Knows maps as channels; nothing of what they steer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

#: Voxels by which gaps between labels are closed: unlabelled sulci and single voxels are inside.
GAP = 2
#: Share of the brains that may lie outside their maps, where scans are said to end with these.
BEYOND = 0.02


def inside_map(classes: Float[Tensor, "B C X Y Z"]) -> Bool[Tensor, "B 1 X Y Z"]:
    """Where a map has a label, or lies in a gap of up to 2 GAP voxels between labels.

    Args:
        classes: A channel of 0 and 1 per class, background without one.

    Returns:
        The morphological closing of all classes together with a cube.
    """
    labelled = classes.amax(1, keepdim=True).float()
    # Beyond the border there is background, which lies far enough away not to erode the map.
    wide = _widest(F.pad(labelled, (2 * GAP,) * 6))
    return -_widest(-wide) > 0.5


def _widest(values: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 x y z"]:
    """The maximum over a cube, an axis at a time; GAP less on every side."""
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = 2 * GAP + 1
        values = F.max_pool3d(values, size, stride=1)
    return values


def end_with_maps(scans: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether scans are 0 outside their label maps: at most BEYOND of their voxels above 0 lie there.

    Args:
        scans: Pairs of intensities and classes, 0 for background, each (X, Y, Z).
    """
    beyond = brain = 0
    for image, classes in scans:
        inside = inside_map((classes > 0)[None, None].float())[0, 0]
        beyond += int(((image > 0) & ~inside).sum())
        brain += int((image > 0).sum())
    return beyond <= BEYOND * brain
