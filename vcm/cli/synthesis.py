"""`vcm synthesize`."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from vcm.cli.console import notes
from vcm.cli.derivatives import Bids, Desc, Participants, refuse_without_bids, run_dataset
from vcm.errors import VCMError
from vcm.progress import progress
from vcm.synthesis.configuration import Synthesis


def synthesize(
    config: Synthesis,
    *,
    dry_run: Annotated[bool, "Print the plan with expected time and memory."] = False,
    bids: Bids = False,
    participant_label: Participants = None,
    desc: Desc = "",
) -> None:
    """Make T1-weighted brains that obey a label map, one per seed, on the map's own voxels."""
    refuse_without_bids(bids, participant_label, desc)
    if bids and dry_run:
        raise VCMError("--dry-run plans one label map: leave out --bids, and give one of the maps.")
    if bids:
        from vcm.synthesis.derivation import synthesis_derivation

        made = synthesis_derivation(config, ["vcm", *sys.argv[1:]])
        given = [config.condition] if config.condition else []
        run_dataset(made, given, config.out, participant_label, desc, config.overwrite)
        return
    from vcm.cost import peak_memory
    from vcm.device import choose_device
    from vcm.embedded import example_condition
    from vcm.synthesis.synthesize import describe, synthesize_files

    if config.condition == Path("example") and not config.condition.exists():
        config = replace(config, condition=example_condition())
    if dry_run:
        for name, value in describe(config).items():
            print(f"{name:>18}  {value}")
        return
    started = time.monotonic()
    with progress("Synthesizing") as on_step:
        paths = synthesize_files(config, ["vcm", *sys.argv[1:]], on_step)
    seconds, peak = time.monotonic() - started, peak_memory(choose_device(config.device)) / 1e9
    notes().print(f"{len(paths)} volume(s) in {seconds:.0f} s, at most {peak:.1f} GB of memory.")
    for path in paths:
        print(path)
