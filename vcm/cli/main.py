"""The command `vcm`: which commands there are, and how errors end.

Knows no option of any command. --help loads no networks: each command imports its job when it runs.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer

from vcm.cli import evaluation, preparation, synthesis, training, upsampling, weights
from vcm.errors import VCMError

#: Newer versions of typer carry a click of their own, so its classes are reached through typer.
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Steer a frozen 3D diffusion model of brain MRI with a Volumetric Conditioning Module.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(synthesis.synthesize)
app.command()(upsampling.upsample)
app.command()(preparation.prepare)
app.command()(preparation.segment)
app.command()(training.train)
app.command()(evaluation.evaluate)

_pretrain = typer.Typer(help="Train the networks that later stay frozen.", no_args_is_help=True)
_pretrain.command()(training.autoencoder)
_pretrain.command()(training.diffusion)
_pretrain.command()(training.segmenter)
_pretrain.command()(training.detail)
app.add_typer(_pretrain, name="pretrain")

_weights = typer.Typer(
    help="Models that travel with the package, published ones, and copies of yours.",
    no_args_is_help=True,
)
_weights.command("list")(weights.list_weights)
_weights.command("show")(weights.show_weights)
_weights.command("fetch")(weights.fetch_weights)
_weights.command("import")(weights.import_model)
_weights.command("verify")(weights.verify_weights)
_weights.command("pack")(weights.pack_weights)
app.add_typer(_weights, name="weights")


def main() -> None:
    """Entry point. A VCMError or a wrong usage becomes one sentence on stderr and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except VCMError as error:
        _refuse(str(error))
    except _USAGE_ERROR as error:
        sentence = error.format_message()
        _refuse(f"{sentence} See vcm COMMAND --help." if sentence else "")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def _refuse(sentence: str) -> NoReturn:
    if sentence:
        typer.echo(f"vcm: {sentence}", err=True)
    sys.exit(2)
