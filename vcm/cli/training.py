"""`vcm train` and `vcm pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] model=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with expected time and memory.")
    ] = False,
) -> None:
    """Train a conditioning module on a frozen model; run again to resume.

    CONFIG is a YAML file or the name of one that travels with the package; key=value changes it.
    """
    from vcm.config import load_config, split_arguments
    from vcm.training.module import ModuleTraining
    from vcm.training.module import train as run

    chosen = load_config(ModuleTraining, *split_arguments(overrides or [], config))
    if dry_run:
        from vcm.training.forecast import describe

        for name, words in describe(chosen).items():
            typer.echo(f"{name:>18}  {words}")
        return
    for name, value in run(chosen).items():
        typer.echo(f"{name} {value:.4f}")


def autoencoder(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the latent autoencoder on prepared scans; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.training.autoencoder import AutoencoderTraining, pretrain_autoencoder

    measures = pretrain_autoencoder(
        load_config(AutoencoderTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")


def diffusion(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] autoencoder=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the latent diffusion model on an autoencoder's latents; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.training.diffusion import DiffusionTraining, pretrain_diffusion

    measures = pretrain_diffusion(
        load_config(DiffusionTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.4f}")


def segmenter(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the tissue segmenter that `vcm evaluate` measures with; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.training.segmenter import SegmenterTraining, pretrain_segmenter

    measures = pretrain_segmenter(
        load_config(SegmenterTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")


def detail(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] model=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the detail that `vcm upsample` adds to what a model expects; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.upsampling.detail_training import DetailTraining, pretrain_detail

    measures = pretrain_detail(
        load_config(DetailTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")
