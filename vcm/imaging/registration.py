"""Find the rigid motion from a scan's world to the common space (MNI152, as nilearn ships it)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.volume import Volume

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@lru_cache(maxsize=1)
def common_template() -> Volume:
    """The brain-extracted MNI152 2009 T1w template at 2 mm that nilearn ships."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine), source="MNI152")


def align_rigid(brain: Volume, seed: int = 1) -> NDArray[np.float64]:
    """Rigid transform (4, 4), scan world -> common world, RAS+ [mm], of a brain-only image.

    Mattes mutual information, 4 mm then 2 mm, one thread and a fixed seed: the same every time.
    The seed must not be 0, which SimpleITK takes for the time of day.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    fixed, moving = _to_itk(common_template()), _to_itk(brain)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25, seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1])
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


def _to_itk(volume: Volume):  # type: ignore[no-untyped-def]
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.astype(np.float32).T))
    affine = _LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(o) for o in affine[:3, 3]])
    # Oblique headers stored in single precision are orthonormal only to about 1e-6.
    u, _, vt = np.linalg.svd(affine[:3, :3] / spacing)
    image.SetDirection((u @ vt).ravel().tolist())
    return image
