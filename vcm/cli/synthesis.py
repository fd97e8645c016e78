"""`vcm synthesize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def synthesize(
    condition: Annotated[
        Path | None,
        typer.Argument(help="Label map (NIfTI), or 'example'; the result lies on its voxels."),
    ] = None,
    partial: Annotated[
        Path | None, typer.Option(help="Part of a brain-extracted scan, for modules that read one.")
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="Mask: 1 where the partial image is to be kept.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for volumes, sidecars and the picture.")] = Path(
        "synthetic"
    ),
    model: Annotated[
        str, typer.Option(help="Name of an embedded model, or a folder.")
    ] = "brain2mm",
    age: Annotated[float | None, typer.Option(help="Years.")] = None,
    sex: Annotated[str | None, typer.Option(help="F or M.")] = None,
    ventricular_volume: Annotated[float | None, typer.Option(help="mL.")] = None,
    brain_volume: Annotated[
        float | None, typer.Option(help="mL, without ventricles and CSF.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One volume per seed: 0-3 or 1,5,9.")] = "0",
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; as the model recommends if none.")
    ] = None,
    scheduler: Annotated[
        str,
        typer.Option(
            help="auto (what the model recommends) | saved (in its folder; of imported models the "
            "authors') | ddim | ddpm | dpm++ | unipc | euler | flow."
        ),
    ] = "auto",
    temperature: Annotated[
        float | None,
        typer.Option(help="Scale of the noise to begin with; the model's own if none."),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="For models that make several, by name.")
    ] = None,
    conditioning_scale: Annotated[float, typer.Option(help="Strength of the module.")] = 1.0,
    control_guidance_start: Annotated[
        float, typer.Option(help="Fraction of the steps at which the module sets in.")
    ] = 0.0,
    control_guidance_end: Annotated[
        float, typer.Option(help="Fraction of the steps at which it stops.")
    ] = 1.0,
    labels: Annotated[
        str, typer.Option(help="auto | dlmuse | freesurfer | vcm8 | a YAML table.")
    ] = "auto",
    uncontrolled: Annotated[
        bool, typer.Option("--uncontrolled", help="Sample the frozen model alone.")
    ] = False,
    model_grid: Annotated[
        bool, typer.Option("--model-grid", help="Write each volume on the model's grid too.")
    ] = False,
    allow_extrapolation: Annotated[
        bool, typer.Option("--allow-extrapolation", help="Take covariates outside the range seen.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:1 | mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32 | bfloat16: of the denoising, faster on most machines.")
    ] = "float32",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with expected time and memory.")
    ] = False,
) -> None:
    """Make T1-weighted brains that obey a label map, one per seed, on the map's own voxels."""
    from rich.console import Console

    from vcm.synthesis.synthesize import Synthesis, describe, resolve
    from vcm.synthesis.synthesize import synthesize as run
    from vcm.weights.load import example_condition

    if condition == Path("example") and not condition.exists():
        condition = example_condition()
    config = Synthesis(
        condition=condition, partial=partial, known=known, out=out, model=model, labels=labels, age=age, sex=sex,
        ventricular_volume=ventricular_volume, brain_volume=brain_volume, contrast=contrast,
        seeds=parse_seeds(seeds), steps=steps, scheduler=scheduler, temperature=temperature,
        conditioning_scale=conditioning_scale, control_guidance_start=control_guidance_start,
        control_guidance_end=control_guidance_end, uncontrolled=uncontrolled,
        model_grid=model_grid, allow_extrapolation=allow_extrapolation, device=device, precision=precision,
    )  # fmt: skip
    if dry_run:
        for name, value in describe(resolve(config)).items():
            typer.echo(f"{name:>18}  {value}")
        return
    for path in run(config, ["vcm", *sys.argv[1:]], Console(stderr=True)):
        typer.echo(path)


def parse_seeds(text: str) -> list[int]:
    """'0-3' or '1,5,9' -> whole numbers, each once. Raises VCMError."""
    from vcm.errors import VCMError

    try:
        seeds: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        seeds = []
    if not seeds:
        raise VCMError(f"--seeds is '{text}': write whole numbers such as 0-3 or 1,5,9.")
    return list(dict.fromkeys(seeds))
