"""The command `vcm`: parsing only. Heavy imports happen inside the command, so --help is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Steer a frozen 3D diffusion model of brain MRI with a Volumetric Conditioning Module.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Steer a frozen 3D diffusion model of brain MRI with a Volumetric Conditioning Module."""


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="BIDS folder: participants.tsv, *_T1w.nii.gz.")],
    out: Annotated[Path, typer.Option(help="Folder for the training set.")],
    labels: Annotated[
        str, typer.Option(help="auto | dlmuse | freesurfer | vcm8 | a YAML table.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Turn a BIDS folder into a training set on the model's grid."""
    from vcm.tasks.prepare import prepare as run

    done = run(folder, out, labels, workers)
    typer.echo(f"{len(done)} scans prepared in {out}; see qc.png and rejected.tsv there.")


pretrain = typer.Typer(help="Train the networks that later stay frozen.", no_args_is_help=True)
app.add_typer(pretrain, name="pretrain")


@pretrain.callback()
def _pretrain() -> None:
    """Train the networks that later stay frozen."""


@pretrain.command()
def autoencoder(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for instance data=[PREPARED].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the latent autoencoder on prepared scans; run again to resume."""
    from vcm.config import load_config
    from vcm.tasks.pretrain_autoencoder import AutoencoderTraining, pretrain_autoencoder

    measures = pretrain_autoencoder(load_config(AutoencoderTraining, config, overrides or []))
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")


@pretrain.command()
def diffusion(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, for instance data=[PREPARED] autoencoder=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the latent diffusion model on an autoencoder's latents; run again to resume."""
    from vcm.config import load_config
    from vcm.tasks.pretrain_diffusion import DiffusionTraining, pretrain_diffusion

    measures = pretrain_diffusion(load_config(DiffusionTraining, config, overrides or []))
    for name, value in measures.items():
        typer.echo(f"{name} {value:.4f}")


@app.command()
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for instance data=[PREPARED] model=FOLDER.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train a conditioning module on a frozen model; run again to resume."""
    from vcm.config import load_config
    from vcm.tasks.train import ModuleTraining
    from vcm.tasks.train import train as run

    for name, value in run(load_config(ModuleTraining, config, overrides or [])).items():
        typer.echo(f"{name} {value:.4f}")


def main() -> None:
    """Entry point. A VCMError becomes one sentence on stderr and exit code 2."""
    from vcm.errors import VCMError

    try:
        app()
    except VCMError as error:
        typer.echo(f"vcm: {error}", err=True)
        sys.exit(2)
