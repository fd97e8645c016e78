"""What the commands that read a whole BIDS dataset have in common: options, progress, table and exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vcm.cli.console import notes
from vcm.cli.options import Joined
from vcm.errors import VCMError
from vcm.progress import progress

if TYPE_CHECKING:
    from vcm.derivatives import Derivation

#: Options; each command that takes them has these; Suffix where scans may have any contrast.
Bids = Annotated[
    bool, "Read a BIDS dataset, write a BIDS derivatives dataset; run again to resume."
]
Participants = Annotated[
    Joined | None, "With --bids: labels of the subjects, joined by commas. Default: all."
]
Suffix = Annotated[
    str, "With --bids: the suffix of the scans that are meant, such as T2w or FLAIR."
]
Desc = Annotated[
    str, "With --bids: the desc of the files that are meant, where a scan has several."
]


def refuse_without_bids(
    bids: bool, participant_label: str | None, desc: str, suffix: str = "T1w"
) -> None:
    """See to it that what chooses scans of a dataset is not silently left aside.

    Args:
        bids: Whether a dataset is read.
        participant_label: As `run_dataset` takes it.
        desc: Likewise.
        suffix: Of the scans that are meant.

    Raises:
        VCMError: One of them is given, and no dataset is read.
    """
    other = "" if suffix == "T1w" else suffix
    given = {"participant_label": participant_label, "desc": desc, "suffix": other}
    for name, value in ({} if bids else given).items():
        if value:
            raise VCMError(
                f"{name} is {value}, but it belongs to --bids: add --bids, or leave it out.",
                argument=name,
            )


def run_dataset(
    derivation: Derivation,
    given: Sequence[Path],
    out: Path | None,
    participant_label: str | None,
    desc: str,
    overwrite: bool,
) -> None:
    """Derive, and print a line per scan. Raises VCMError where a scan was refused, after all are done."""
    from vcm.derivatives import derive

    if len(given) != 1 or out is None:
        raise VCMError("--bids reads one folder and writes another: give BIDS_FOLDER --out FOLDER.")
    # An empty label, as of a variable that is not set, does not mean all.
    participants = [] if participant_label is None else participant_label.split(",")
    command = ["vcm", *sys.argv[1:]]
    with progress(derivation.title) as on_scan:
        rows = derive(derivation, given[0], out, participants, desc, overwrite, command, on_scan)
    for row in rows:
        print(f"{row['scan']}\t{row['status']}")
    refused = [row for row in rows if row["status"] not in ("done", "kept")]
    if refused:
        raise VCMError(
            f"{len(refused)} of {len(rows)} scans were refused; see {out / 'summary.tsv'}."
        )
    notes().print(f"{len(rows)} scans; see {out / 'report.html'}.")
