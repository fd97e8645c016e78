"""`vcm synthesize`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from vcm.cli.console import notes
from vcm.synthesis.configuration import Synthesis


def synthesize(
    config: Synthesis,
    *,
    dry_run: Annotated[bool, "Print the plan with expected time and memory."] = False,
) -> None:
    """Make T1-weighted brains that obey a label map, one per seed, on the map's own voxels."""
    from vcm.embedded import example_condition
    from vcm.synthesis.synthesize import describe, resolve
    from vcm.synthesis.synthesize import synthesize as run

    if config.condition == Path("example") and not config.condition.exists():
        config = replace(config, condition=example_condition())
    if dry_run:
        for name, value in describe(resolve(config)).items():
            print(f"{name:>18}  {value}")
        return
    for path in run(config, ["vcm", *sys.argv[1:]], notes()):
        print(path)
