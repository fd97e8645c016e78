"""`vcm upsample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def upsample(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="Scan of thick slices (NIfTI), or 'example'; several of one head go together."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for volumes, sidecar and picture.")] = Path(
        "upsampled"
    ),
    model: Annotated[
        str, typer.Option(help="Name of an embedded model, or a folder.")
    ] = "brain1mm",
    spacing: Annotated[float, typer.Option(help="Of the result [mm].")] = 1.0,
    slice_axis: Annotated[
        str | None, typer.Option(help="axial | coronal | sagittal; from the header if none.")
    ] = None,
    slice_thickness: Annotated[
        float | None, typer.Option(help="[mm]; the spacing between slices if none.")
    ] = None,
    profile: Annotated[str, typer.Option(help="gaussian | boxcar: of a slice.")] = "gaussian",
    brain_mask: Annotated[
        list[Path] | None,
        typer.Option(help="For a scan with its skull on; once per scan, in their order."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Brains to draw, written beside the result; 0: none.")
    ] = 4,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the first sample.")] = 0,
    output: Annotated[
        str, typer.Option(help="mean (errs least) | sample (sharper): what the result is.")
    ] = "mean",
    no_consistency: Annotated[
        bool, typer.Option("--no-consistency", help="Leave the samples as the model made them.")
    ] = False,
    noise: Annotated[float, typer.Option(help="Error of a slice over that of a sample.")] = 0.1,
    detail_noise: Annotated[
        float, typer.Option(help="The same over that of the result; less: nearer to the slices.")
    ] = 0.5,
    no_mirrors: Annotated[
        bool,
        typer.Option("--no-mirrors", help="Add detail to the brain, not to its mirror images too."),
    ] = False,
    any_contrast: Annotated[
        bool, typer.Option("--any-contrast", help="Take scans that do not look T1-weighted.")
    ] = False,
    age: Annotated[float | None, typer.Option(help="Years.")] = None,
    sex: Annotated[str | None, typer.Option(help="F or M.")] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:1 | mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="bfloat16 | float32: of the denoising.")
    ] = "bfloat16",
) -> None:
    """Turn thick slices into an isotropic volume with its uncertainty, in the scan's own space."""
    from rich.console import Console

    from vcm.upsampling.upsample import Upsampling
    from vcm.upsampling.upsample import upsample as run

    config = Upsampling(
        scans=scans, out=out, model=model, spacing=spacing, slice_axis=slice_axis,
        slice_thickness=slice_thickness, profile=profile, masks=brain_mask or [], samples=samples,
        steps=steps, seed=seed, output=output, consistency=not no_consistency, noise=noise, detail_noise=detail_noise,
        mirrors=not no_mirrors, any_contrast=any_contrast, age=age, sex=sex, device=device, precision=precision,
    )  # fmt: skip
    for path in run(config, ["vcm", *sys.argv[1:]], Console(stderr=True)):
        typer.echo(path)
