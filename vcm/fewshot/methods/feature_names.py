"""Names of the features that stand for a case. Knows no scans, so that commands that only ask for names start at once."""

from __future__ import annotations

#: Features that a pretrained network pools from one scan.
POOLED = ("network", "untrained", "mae", "hybrid", "latents", "denoiser")
#: Volumes of tissues, by the segmenter of T1w scans and by that of any contrast.
VOLUMES = ("volumes", "anyvolumes")
FEATURES = ("voxels", "local", "coarse", *VOLUMES, *POOLED)
#: Joins the names of features that are weighed against each other.
STACKED = "+"
#: Features that are all of one unit, so that their spreads compare.
ONE_UNIT = ("voxels", "local", "coarse")
#: Features of the frozen diffusion model, which a container does not hold.
FROZEN = ("latents", "denoiser")
#: Features that need a pretrained network.
WITH_PARENT = (*VOLUMES, *POOLED)


def parts_of(name: str) -> tuple[str, ...]:
    """Features that are weighed against each other, one by one; none of no name."""
    return tuple(name.split(STACKED)) if name else ()
