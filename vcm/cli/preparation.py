"""`vcm prepare` and `vcm segment tissues`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from vcm.cli.derivatives import Bids, Desc, Participants, Suffix, refuse_without_bids, run_dataset
from vcm.errors import VCMError
from vcm.preparation.configuration import Preparation, Segmentation


def prepare(
    config: Preparation,
    *,
    check: Annotated[bool, "Only list what is wrong with the folder."] = False,
) -> None:
    """Turn a BIDS folder into a training set on the model's grid."""
    folder, out = config.folder, config.out
    if folder is None:
        raise VCMError("No folder is given: add the path of a BIDS folder.")
    if check:
        _check_folder(config)
        return
    if out is None:
        raise VCMError(
            "No folder is given to write to: add --out FOLDER, or --check to write nothing."
        )
    if config.workers < 1:
        raise VCMError(f"workers is {config.workers}: choose 1 or more.")
    from vcm.imaging.geometry import model_grid
    from vcm.imaging.participants import SPLITS
    from vcm.preparation.prepare import prepare as run

    grid = model_grid(config.spacing)
    if config.model:
        from vcm.weights.grid import grid_of

        grid = grid_of(config.model)
    made = run(
        folder, out, config.labels, config.workers, grid, config.segmenter,
        config.image_desc, config.label_desc, config.split_seed,
    )  # fmt: skip
    counts = Counter(scan.split for scan in made.scans)
    splits = ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])
    print(
        f"{len(made.scans)} scans prepared in {out} ({splits}, by {made.split}); see qc.png there."
    )
    if made.rejected:
        print(f"{len(made.rejected)} rejected; rejected.tsv says why.")
    if made.notes:
        print(f"{len(made.notes)} understood with a reservation; see notes.tsv.")


def _check_folder(config: Preparation) -> None:
    """Print every problem. Raises VCMError if there is one."""
    from vcm.preparation.check import check_folder

    assert config.folder is not None
    problems = check_folder(config.folder, config.labels, config.image_desc, config.label_desc)
    for problem in problems:
        print(f"{problem.subject}\t{problem.what}")
    if problems:
        raise VCMError(
            f"{len(problems)} problem(s) in {config.folder}: correct them, then check again."
        )
    print(f"No problem found in {config.folder}.")


def segment(
    config: Segmentation,
    *,
    bids: Bids = False,
    participant_label: Participants = None,
    suffix: Suffix = "T1w",
    desc: Desc = "",
) -> None:
    """Make an eight-class label map of a scan, a condition for `vcm synthesize`."""
    refuse_without_bids(bids, participant_label, desc, suffix)
    if bids:
        from vcm.preparation.derivation import tissue_derivation

        given = [config.scan] if config.scan else []
        made = tissue_derivation(config.segmenter, suffix)
        run_dataset(made, given, config.out, participant_label, desc, config.overwrite)
        return
    if config.scan is None or config.out is None:
        raise VCMError("No scan or no result is given: write SCAN --out sub-01_dseg.nii.gz.")
    from vcm.imaging.nifti import refuse_missing

    refuse_missing(config.scan)
    from vcm.preparation.segment import segment_file

    volumes = segment_file(config.scan, config.out, config.segmenter, config.overwrite)
    for name, volume in volumes.items():
        print(f"{name:>18}  {volume:.1f} mL")
