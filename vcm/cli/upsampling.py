"""`vcm upsample`."""

from __future__ import annotations

import sys

from vcm.upsampling.configuration import Upsampling


def upsample(config: Upsampling) -> None:
    """Turn thick slices into an isotropic volume with its uncertainty, in the scan's own space."""
    from rich.console import Console

    from vcm.upsampling.upsample import upsample as run

    for path in run(config, ["vcm", *sys.argv[1:]], Console(stderr=True)):
        print(path)
