"""`vcm prepare` and `vcm segment tissues`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
        _check_folder(folder, config.labels)
        return
    if out is None:
        raise VCMError(
            "No folder is given to write to: add --out FOLDER, or --check to write nothing."
        )
    if config.workers < 1:
        raise VCMError(f"workers is {config.workers}: choose 1 or more.")
    from vcm.imaging.geometry import model_grid
    from vcm.preparation.prepare import prepare as run
    from vcm.weights.load import grid_of

    grid = grid_of(config.model) if config.model else model_grid(config.spacing)
    done = run(folder, out, config.labels, config.workers, grid, config.segmenter)
    print(f"{len(done)} scans prepared in {out}; see qc.png and rejected.tsv there.")


def _check_folder(folder: Path, labels: str) -> None:
    """Print every problem. Raises VCMError if there is one."""
    from vcm.preparation.check import check_folder

    problems = check_folder(folder, labels)
    for problem in problems:
        print(f"{problem.subject}\t{problem.what}")
    if problems:
        raise VCMError(f"{len(problems)} problem(s) in {folder}: correct them, then check again.")
    print(f"No problem found in {folder}.")


def segment(config: Segmentation) -> None:
    """Make an eight-class label map of a scan, a condition for `vcm synthesize`."""
    if config.scan is None or config.out is None:
        raise VCMError("No scan or no result is given: write SCAN --out sub-01_dseg.nii.gz.")
    from vcm.preparation.segment import segment as run

    for name, volume in run(config.scan, config.out, config.segmenter).items():
        print(f"{name:>18}  {volume:.1f} mL")
