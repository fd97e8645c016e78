"""Fit any method to its shots, and keep the fitted model with what it and its parents saw.

Knows methods and pools; nothing of tests.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vcm import __version__
from vcm.errors import VCMError
from vcm.fewshot.cases.layouts import Case, Source, Target, find_cases
from vcm.fewshot.cases.optional_sequences import cases_with
from vcm.fewshot.cases.shots import draw_shots, strata_of
from vcm.fewshot.cases.synthetic import LABELS, Recipe, write_synthetic
from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.configuration import (
    Embedding,
    FewShotStudy,
    FineTuning,
    NetworkTraining,
    SyntheticShots,
)
from vcm.fewshot.methods.catalogue import CLOSED_FORM, METHODS, SYNTHETIC, Method, for_task
from vcm.fewshot.methods.closed_form import LEAST_SPREAD, fit_constant, fit_line, refuse_one_label
from vcm.fewshot.methods.end_to_end import fit_end_to_end
from vcm.fewshot.methods.feature_names import FROZEN, parts_of
from vcm.fewshot.methods.model import FittedModel
from vcm.fewshot.methods.parents import FROZEN_MODEL, describe_parents, open_parents
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.methods.segmentation import fit_segmentation
from vcm.fewshot.methods.stacking import fit_stack
from vcm.fewshot.preflight import check_finetuning
from vcm.files import check_output, write_json, write_whole

#: What an unfinished fit is of, beside its network.
BEGUN = "training.json"


def finetune(config: FineTuning) -> Path:
    """Fit one method to one draw of the shots; returns the folder of the fitted model.

    Raises:
        VCMError: the configuration or the data cannot be used, or out holds a model already.
    """
    out = Path(config.out)
    given, method = check_finetuning(config)
    parents = open_parents([method], config)
    pool = Pool.open(given.train, given.task, given.target, out / "features", parents)
    labels = list(pool.labels)
    count = config.shots or len(labels)
    few = pool.subset(draw_shots(labels, strata_of(given.task.kind, labels), count, config.seed))
    few.warn_of_labels_without_a_class()
    few.warn_of_skulls([method])
    synthetic = synthetic_pool(pool, config, out / "synthetic") if method.synthetic else None
    _begin(out, config, method, few, {name: parent.checksum for name, parent in parents.items()})
    model = fit(method, few, config, out / "training", config.seed, synthetic)
    model.record = record_of(few, describe_parents(method, config), config.seed)
    write_whole(out / "model", model.save)
    return out / "model"


def _begin(
    out: Path, config: FineTuning, method: Method, shots: Pool, parents: dict[str, str]
) -> None:
    """Keep what a fit is of, or refuse to go on with the network of another one."""
    budget = {k: getattr(config, k) for k in asdict(NetworkTraining()) if k != "workers"}
    given = {
        "task": shots.task.as_dict(), "groups": {k: list(v) for k, v in shots.target.groups.items()},
        "label": shots.target.label, "method": method.name, "seed": config.seed, **budget,
        "pretrained networks": parents, "scans or labels": shots.fingerprint(),
    }  # fmt: skip
    given = json.loads(json.dumps(given))
    kept = out / BEGUN
    if kept.is_file() and (out / "training").is_dir():
        before = json.loads(kept.read_text(encoding="utf-8"))
        changed = [name for name in given if before.get(name) != given[name]]
        if changed:
            raise VCMError(
                f"{out} holds an unfinished fit with other {', '.join(changed)}: choose another folder with out=, or "
                f"remove {out / 'training'}.",
                argument="out",
            )
    check_output(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(kept, given)


def fit(
    method: Method,
    shots: Pool,
    training: FineTuning | FewShotStudy,
    work: Path,
    seed: int,
    synthetic: Pool | None = None,
) -> FittedModel:
    """Fit a method to its shots.

    Args:
        method: To be fitted.
        shots: Labelled cases.
        training: Budget of a network, weight of synthetic brains.
        work: Holds the training of a network, and is removed after.
        seed: Of a network's start.
        synthetic: Brains that join the shots, if the method wants them.
    """
    task = shots.task
    refuse_one_label(task, shots.labels)
    if method.name == "mean":
        return fit_constant(task, shots.labels)
    if is_tuned(method, task.kind, training):
        return fit_end_to_end(method, shots, training, work, seed)
    if len(method.features) > 1:
        parts = {name: shots.features(name) for name in method.features}
        model = fit_stack(method.name, task, parts, shots.labels)
        _add_network(model, shots)
        return model
    if method.feature and task.kind in CLOSED_FORM:
        x, labels, weights = _rows(method, shots), shots.labels, None
        labels = np.repeat(labels, len(x) // len(labels))
        if method.synthetic and synthetic is not None:
            weights = np.concatenate(
                [
                    np.ones(len(x)),
                    np.full(
                        len(synthetic.cases),
                        training.synthetic_weight * len(x) / len(synthetic.cases),
                    ),
                ]
            )
            x = np.concatenate([x, synthetic.features(method.feature)])
            labels = np.concatenate([labels, synthetic.labels])
        model = fit_line(method.name, task, method.feature, x, labels, weights)
        _add_network(model, shots)
        return model
    return fit_segmentation(method, shots, training, work, seed)


def _rows(method: Method, shots: Pool) -> NDArray[np.float64]:
    """Features of the shots, (N, F), or of the shots and their views, (N (1 + VIEWS), F)."""
    if not method.views:
        return shots.features(method.feature)
    found = shots.views()
    return found.reshape(-1, found.shape[-1])


def is_tuned(method: Method, kind: str, training: FineTuning | FewShotStudy) -> bool:
    """Whether the network behind a number or class is fine-tuned.

    Raises:
        VCMError: `tune` is neither of the two.
    """
    if training.tune not in ("head", "all"):
        raise VCMError(f"tune is '{training.tune}': choose head or all.")
    if kind not in CLOSED_FORM or not method.start or method.synthetic:
        return False
    return method.start == "random" or training.tune == "all"


def synthetic_pool(pool: Pool, config: SyntheticShots, folder: Path) -> Pool:
    """Synthetic brains as labelled cases of the same task, made where they are missing.

    Raises:
        VCMError: the label is not one that synthetic brains have, or the numbers cannot be used.
    """
    if pool.target.label not in LABELS or pool.task.slots != ("t1",):
        raise VCMError(
            f"The task {pool.task.name} asks for {pool.target.label} from {', '.join(pool.task.slots)}, but "
            f"synthetic brains are T1w with a known {' and '.join(LABELS)}: leave {SYNTHETIC} out."
        )
    if config.synthetic < 1 or config.synthetic_steps < 1 or config.synthetic_weight <= 0:
        raise VCMError(
            f"synthetic is {config.synthetic}, synthetic_steps {config.synthetic_steps}, synthetic_weight "
            f"{config.synthetic_weight:g}: each must be above 0."
        )
    write_synthetic(folder, Recipe(config.synthetic, steps=config.synthetic_steps))
    return Pool.open(Source(str(folder)), pool.task, pool.target, pool.cache, pool.parents)


def fit_embedding(config: Embedding) -> FittedModel:
    """An embedding: features of one scan, standardised over unlabelled scans.

    The linear probe of the challenge takes 80 steps on embeddings as they come, so their scale
    decides; standardising needs no label.

    Raises:
        VCMError: the feature is unknown, or the scans cannot be read.
    """
    feature = config.feature
    known = {m.feature: m for m in METHODS.values() if m.feature}
    if feature not in known:
        raise VCMError(f"The features '{feature}' are unknown: choose one of {', '.join(known)}.")
    task = Task("embedding", "embedding", (("input",),))
    method = for_task(known[feature], task)
    parents = open_parents([method], config)
    cases = []
    for folder in config.data:
        for case in find_cases(folder):
            cases += [_one_scan(case.name, s, p) for s, p in case.images.items()]
    pool = Pool(task, Target("label"), cases, "", Path(config.out) / "features", parents)
    x = pool.features(method.feature)
    scale = x.std(0)
    arrays = {
        "mean": torch.from_numpy(x.mean(0).astype(np.float32)),
        "scale": torch.from_numpy(np.where(scale < LEAST_SPREAD, 1, scale).astype(np.float32)),
    }
    record = {
        "unlabelled scans": len(cases), "parents": describe_parents(method, config),
        "vcm": __version__,
    }  # fmt: skip
    model = FittedModel(feature, task, "embedding", arrays, method.feature, record=record)
    _add_network(model, pool)
    return model


def record_of(shots: Pool, parents: str, seed: int) -> dict[str, Any]:
    """What a model was fitted on, for its card: shots by name, and checksums of their scans."""
    return {
        "shots": [c.name for c in shots.cases],
        "checksums": list(shots.checksums()),
        "parents": parents,
        "optional": cases_with(shots.task, shots.cases),
        "mask": shots.mask,
        "label": shots.target.label,
        "groups": {k: list(v) for k, v in shots.target.groups.items()},
        "seed": seed,
        "vcm": __version__,
    }


def _add_network(model: FittedModel, pool: Pool) -> None:
    """The networks behind the features into the model, so that it answers alone."""
    names = parts_of(model.feature)
    for name in names:
        parent = pool.parents.get(name)
        if parent is None:
            continue
        if name in FROZEN:
            model.settings["frozen"] = {"model": FROZEN_MODEL, "checksum": parent.checksum}
            continue
        start = "parent" if len(names) == 1 else name
        if len(names) == 1:
            model.settings["parent"] = parent.network.settings
        else:
            model.settings.setdefault("parents", {})[name] = parent.network.settings
        model.arrays |= {f"{start}.{n}": v for n, v in parent.network.state_dict().items()}


def _one_scan(case: str, sequence: str, path: Path) -> Case:
    return Case(f"{case}_{sequence}", {"input": path})
