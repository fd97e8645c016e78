"""`vcm evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] model=NAME."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Measure a model on test subjects: adherence, realism, privacy, covariates; with a report."""
    from vcm.config import load_config, split_arguments
    from vcm.evaluation.evaluate import Evaluation
    from vcm.evaluation.evaluate import evaluate as run

    chosen = load_config(Evaluation, *split_arguments(overrides or [], config))
    run(chosen)
    typer.echo(f"Measured; see summary.md, summary.json and the tables in {chosen.out}.")
