"""`vcm upsample` and `vcm simulate`."""

from __future__ import annotations

import sys

from vcm.cli.console import notes
from vcm.cli.derivatives import Bids, Desc, Participants, Suffix, refuse_without_bids, run_dataset
from vcm.progress import progress
from vcm.upsampling.configuration import EXAMPLE, Simulation, Upsampling


def upsample(
    config: Upsampling,
    *,
    bids: Bids = False,
    participant_label: Participants = None,
    suffix: Suffix = "T1w",
    desc: Desc = "",
) -> None:
    """Turn thick slices into an isotropic volume with its uncertainty, in the scan's own space."""
    refuse_without_bids(bids, participant_label, desc, suffix)
    if bids:
        from vcm.upsampling.derivation import upsampling_derivation

        made = upsampling_derivation(config, suffix, ["vcm", *sys.argv[1:]])
        run_dataset(made, config.scans, config.out, participant_label, desc, config.overwrite)
        return
    from vcm.imaging.nifti import refuse_missing

    refuse_missing(*(scan for scan in config.scans if scan != EXAMPLE))
    from vcm.upsampling.upsample import upsample_files

    said: list[str] = []
    with progress("Upsampling") as on_step:
        paths = upsample_files(config, ["vcm", *sys.argv[1:]], on_step, said.append)
    for sentence in said:
        notes().print(sentence)
    for path in paths:
        print(path)


def simulate(config: Simulation) -> None:
    """Cut an isotropic scan into thick slices, to try `vcm upsample` where the truth is known."""
    from vcm.upsampling.simulate import simulate_file

    print(simulate_file(config, ["vcm", *sys.argv[1:]]))
