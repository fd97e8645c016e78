"""Find the rigid motion from a scan's world to the common space (MNI152, as nilearn ships it).

Knows SimpleITK and its conventions; nothing of files or labels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.geometry import straightened
from vcm.imaging.volume import Volume

if TYPE_CHECKING:
    from SimpleITK import Image

#: ITK counts x and y of the world the other way.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Bins of the joint histogram, and the share of the template's voxels that fill it.
HISTOGRAM_BINS, SAMPLED = 32, 0.25
#: First and last step [mm of voxel shift], most steps per level, and what a step shrinks by that
#: turned back.
STEP, STEPS, RELAXATION = (1.0, 1e-3), 100, 0.6
#: Per level: shrink factor, and standard deviation of the smoothing [mm].
SHRINK, SMOOTHING = [2, 1], [2, 1]


@lru_cache(maxsize=1)
def common_template() -> Volume:
    """The brain-extracted MNI152 2009 T1w template at 2 mm that nilearn ships."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine), source="MNI152")


def align_rigid(brain: Volume, seed: int = 1) -> NDArray[np.float64]:
    """Find the rigid motion of a brain to the common space.

    Mattes mutual information (Mattes et al., IEEE TMI 22, 2003), 4 mm then 2 mm, one thread and a fixed
    seed: the same every time.

    Args:
        brain: 0 outside the brain. Voxel axes may be at any angle: a sheared grid is straightened, since
            ITK knows right angles only.
        seed: Of the sampling; not 0, which SimpleITK takes for the time of day.

    Returns:
        (4, 4) rigid, scan world -> common world, RAS+ [mm].
    """
    import SimpleITK as sitk

    fixed, moving = to_itk(common_template()), to_itk(straightened(brain))
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    return _search(fixed, moving, start, seed)


def align_to(fixed: Volume, moving: Volume, seed: int = 1) -> NDArray[np.float64]:
    """Find the rigid motion between two brains of one head, by the same method, from where their headers place them.

    Args:
        fixed: (X, Y, Z) brain of any contrast, 0 outside it; voxels of about 2 mm are enough.
        moving: (X', Y', Z') likewise.
        seed: Of the sampling; not 0.

    Returns:
        (4, 4) rigid, world of `moving` -> world of `fixed`, RAS+ [mm].
    """
    import SimpleITK as sitk

    image = to_itk(straightened(fixed))
    start = sitk.Euler3DTransform()
    middle = [(n - 1) / 2 for n in image.GetSize()]
    start.SetCenter(image.TransformContinuousIndexToPhysicalPoint(middle))
    return _search(image, to_itk(straightened(moving)), start, seed)


def _search(fixed: Image, moving: Image, start: Any, seed: int) -> NDArray[np.float64]:
    """World of `moving` -> world of `fixed` in RAS+, from a start that maps fixed to moving in LPS."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED, seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(*STEP, STEPS, relaxationFactor=RELAXATION)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTHING)
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    # ITK maps fixed -> moving in LPS; we want moving -> fixed in RAS.
    rotation = np.array(start.GetMatrix()).reshape(3, 3)
    centre = np.array(start.GetCenter())
    fixed_to_moving = np.eye(4)
    fixed_to_moving[:3, :3] = rotation
    fixed_to_moving[:3, 3] = np.array(start.GetTranslation()) + centre - rotation @ centre
    return np.linalg.inv(_LPS @ fixed_to_moving @ _LPS).astype(np.float64)


def to_itk(volume: Volume) -> Image:
    """The same volume for ITK. Voxel axes must be at right angles, which is all that ITK knows."""
    import SimpleITK as sitk

    if volume.grid.is_sheared:
        raise ValueError(f"{volume} is sheared: straighten it first")

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.astype(np.float32).T))
    affine = _LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(o) for o in affine[:3, 3]])
    # Oblique headers stored in single precision are orthonormal only to about 1e-6.
    u, _, vt = np.linalg.svd(affine[:3, :3] / spacing)
    image.SetDirection((u @ vt).ravel().tolist())
    return image
