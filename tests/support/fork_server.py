"""Processes of their own that start in an instant: they fork from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

#: Imported by the server, of which a test process has one, so the list is that of all tests.
IMPORTED = (
    "accelerate.utils", "diffusers", "matplotlib.pyplot", "pytest", "vcm.evaluation.evaluate",
    "vcm.fewshot.study", "vcm.report.viewer", "vcm.segmentation.apply", "vcm.synthesis.synthesize",
    "vcm.training.module", "vcm.upsampling.upsample", "vcm.weights.importing",
)  # fmt: skip


def fork_server() -> ForkServerContext:
    """What starts processes and makes pipes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    return context
