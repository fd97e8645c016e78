"""Fit any method to its shots, and keep the fitted model with what it and its parents saw.

Knows methods and pools; nothing of tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vcm import __version__
from vcm.errors import VCMError
from vcm.fewshot.closed_form import LEAST_SPREAD, fit_constant, fit_line, refuse_one_label
from vcm.fewshot.configuration import FineTuning, NetworkTraining
from vcm.fewshot.features import WITH_SEGMENTER
from vcm.fewshot.layouts import Case, Target, find_cases
from vcm.fewshot.methods import METHODS, Method, find_method
from vcm.fewshot.model import FittedModel
from vcm.fewshot.network import FewShotUNet
from vcm.fewshot.pool import Pool
from vcm.fewshot.segmentation import fit_segmentation, load_start
from vcm.fewshot.shots import draw_shots, strata_of
from vcm.fewshot.task_file import read_task
from vcm.fewshot.tasks import Task

#: The segmenter whose tissues and activations are features.
SEGMENTER = "segmenter2mm"


def finetune(config: FineTuning) -> Path:
    """Fit one method to one draw of the shots; returns the folder of the fitted model.

    Raises:
        VCMError: the configuration or the data cannot be used, or out holds a model already.
    """
    out = Path(config.out)
    if (out / "model").exists():
        raise VCMError(f"{out} holds a fitted model: choose another folder as out.")
    if not config.task:
        raise VCMError("No task is given: give the YAML file of a task (see docs/fewshot.md).")
    given = read_task(config.task)
    method = find_method(config.method, given.task.kind)
    segmenter = load_start(SEGMENTER) if method.feature in WITH_SEGMENTER else None
    pool = Pool.open(given.train, given.task, given.target, out / "features", segmenter)
    labels = list(pool.labels)
    count = config.shots or len(labels)
    few = pool.subset(draw_shots(labels, strata_of(given.task.kind, labels), count, config.seed))
    model = fit(method, few, config, out / "training", config.seed)
    model.record = record_of(few, method, config.seed)
    model.save(out / "model")
    return out / "model"


def fit(
    method: Method, shots: Pool, training: NetworkTraining, work: Path, seed: int
) -> FittedModel:
    """Fit a method to its shots. `work` holds the training of a network, and is removed after."""
    task = shots.task
    refuse_one_label(task, shots.labels)
    if method.name == "mean":
        return fit_constant(task, shots.labels)
    if method.feature:
        x = shots.features(method.feature)
        model = fit_line(method.name, task, method.feature, x, shots.labels)
        model.arrays |= _segmenter_arrays(method.feature, shots.segmenter)
        return model
    return fit_segmentation(method, shots, training, work, seed)


def fit_embedding(feature: str, folders: list[str], out: Path) -> FittedModel:
    """An embedding: features of one scan, standardised over unlabelled scans.

    The linear probe of the challenge takes 80 steps on embeddings as they come, so their scale
    decides; standardising needs no label.

    Args:
        feature: one of features.FEATURES.
        folders: of unlabelled scans, of any sequence.
        out: where features are cached.
    """
    segmenter = load_start(SEGMENTER) if feature in WITH_SEGMENTER else None
    task = Task("embedding", "embedding", (("input",),))
    cases = []
    for folder in folders:
        for case in find_cases(folder):
            cases += [_one_scan(case.name, s, p) for s, p in case.images.items()]
    pool = Pool(task, Target("label"), cases, "", out / "features", segmenter)
    x = pool.features(feature)
    scale = x.std(0)
    arrays = {
        "mean": torch.from_numpy(x.mean(0).astype(np.float32)),
        "scale": torch.from_numpy(np.where(scale < LEAST_SPREAD, 1, scale).astype(np.float32)),
    }
    arrays |= _segmenter_arrays(feature, segmenter)
    parents = next((m.parents for m in METHODS.values() if m.feature == feature), "none")
    record = {"unlabelled scans": len(cases), "parents": parents, "vcm": __version__}
    return FittedModel(feature, task, "embedding", arrays, feature, record=record)


def record_of(shots: Pool, method: Method, seed: int) -> dict[str, Any]:
    """What a model was fitted on, for its card: shots by name and by checksum of their scan."""
    return {
        "shots": [c.name for c in shots.cases],
        "checksums": list(shots.checksums()),
        "parents": method.parents,
        "mask": shots.mask,
        "label": shots.target.label,
        "groups": {k: list(v) for k, v in shots.target.groups.items()},
        "seed": seed,
        "vcm": __version__,
    }


def _segmenter_arrays(feature: str, segmenter: FewShotUNet | None) -> dict[str, torch.Tensor]:
    if feature not in WITH_SEGMENTER or segmenter is None:
        return {}
    return {f"segmenter.{n}": v for n, v in segmenter.state_dict().items()}


def _one_scan(case: str, sequence: str, path: Path) -> Case:
    return Case(f"{case}_{sequence}", {"input": path})
