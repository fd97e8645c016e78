"""`vcm upsample`."""

from __future__ import annotations

import sys

from vcm.cli.console import progress
from vcm.upsampling.configuration import Upsampling


def upsample(config: Upsampling) -> None:
    """Turn thick slices into an isotropic volume with its uncertainty, in the scan's own space."""
    from vcm.upsampling.upsample import upsample_files

    with progress("Upsampling") as on_step:
        paths = upsample_files(config, ["vcm", *sys.argv[1:]], on_step)
    for path in paths:
        print(path)
