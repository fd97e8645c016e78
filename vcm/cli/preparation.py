"""`vcm prepare` and `vcm segment`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vcm.errors import VCMError


def prepare(
    folder: Annotated[Path, typer.Argument(help="BIDS folder: participants.tsv, *_T1w.nii.gz.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the training set; needed without --check.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only list what is wrong with the folder.")
    ] = False,
    labels: Annotated[
        str, typer.Option(help="auto | dlmuse | freesurfer | vcm8 | a YAML table.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = (
        os.cpu_count() or 1
    ),
    spacing: Annotated[float, typer.Option(help="Of an embedded model's grid [mm]: 2 or 1.")] = 2.0,
    model: Annotated[
        str, typer.Option(help="Prepare on the grid of this model instead: a name, or a folder.")
    ] = "",
    segmenter: Annotated[
        str, typer.Option(help="Labels scans that have no map: segmenter2mm, or a folder.")
    ] = "",
) -> None:
    """Turn a BIDS folder into a training set on the model's grid."""
    if check:
        _check_folder(folder, labels)
        return
    if out is None:
        raise VCMError(
            "No folder is given to write to: add --out FOLDER, or --check to write nothing."
        )
    from vcm.imaging.geometry import model_grid
    from vcm.preparation.prepare import prepare as run
    from vcm.weights.load import grid_of

    grid = grid_of(model) if model else model_grid(spacing)
    done = run(folder, out, labels, workers, grid, segmenter)
    typer.echo(f"{len(done)} scans prepared in {out}; see qc.png and rejected.tsv there.")


def _check_folder(folder: Path, labels: str) -> None:
    """Print every problem and end with exit code 2 if there is one."""
    from vcm.preparation.check import check_folder

    problems = check_folder(folder, labels)
    for problem in problems:
        typer.echo(f"{problem.subject}\t{problem.what}")
    if problems:
        raise VCMError(f"{len(problems)} problem(s) in {folder}: correct them, then check again.")
    typer.echo(f"No problem found in {folder}.")


def segment(
    scan: Annotated[Path, typer.Argument(help="Brain-extracted T1w scan (NIfTI).")],
    out: Annotated[Path, typer.Option(help="Label map to write, for instance sub-1_dseg.nii.gz.")],
    segmenter: Annotated[
        str, typer.Option(help="Name of an embedded segmenter, or a folder.")
    ] = "segmenter2mm",
) -> None:
    """Make an eight-class label map of a scan, a condition for `vcm synthesize`."""
    from vcm.preparation.segment import segment as run

    for name, volume in run(scan, out, segmenter).items():
        typer.echo(f"{name:>18}  {volume:.1f} mL")
