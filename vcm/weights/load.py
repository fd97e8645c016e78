"""Load a model for a command: from this machine alone, and without bars of progress."""

from __future__ import annotations

from pathlib import Path

from diffusers.utils import logging

from vcm.embedded import model_folder
from vcm.pipeline import VCMPipeline


def load_pipeline(model: str | Path) -> VCMPipeline:
    """`VCMPipeline.from_pretrained` of a name or a folder; a command fetches nothing from the hub.

    Its scheduler is the one saved in the folder: a command decides for itself whether to take another.

    Raises:
        VCMError: There is no such model, it is damaged, or its module belongs to another one.
    """
    model_folder(model)
    logging.disable_progress_bar()
    pipeline: VCMPipeline = VCMPipeline.from_pretrained(model)
    pipeline.scheduler = pipeline.saved_scheduler
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
