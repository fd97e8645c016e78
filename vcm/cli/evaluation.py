"""`vcm evaluate`."""

from __future__ import annotations

from vcm.evaluation.configuration import Evaluation


def evaluate(config: Evaluation) -> None:
    """Measure a model on test subjects: adherence, realism, privacy, covariates; with a report."""
    from vcm.evaluation.evaluate import evaluate_files

    evaluate_files(config)
    print(f"Measured; see summary.md, summary.json and the tables in {config.out}.")
