"""`vcm upsample`."""

from __future__ import annotations

import sys

from vcm.cli.console import notes
from vcm.upsampling.configuration import Upsampling


def upsample(config: Upsampling) -> None:
    """Turn thick slices into an isotropic volume with its uncertainty, in the scan's own space."""
    from vcm.upsampling.upsample import upsample as run

    for path in run(config, ["vcm", *sys.argv[1:]], notes()):
        print(path)
