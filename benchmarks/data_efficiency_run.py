"""One training of the data-efficiency study and what its samples measure, in this process alone.

    python benchmarks/data_efficiency_run.py '{"method": "mcm", "condition": "classes", "samples": 10, ...}'

Prints one JSON object: `run`, numbers of the whole run, and `subjects`, one row per test subject. The
peak of memory is that of the training, as long as the scans are encoded already.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fresh_process import peak_mib
from numpy.typing import NDArray

from vcm.evaluation import measures
from vcm.evaluation.samples import Case, as_case
from vcm.imaging.conditions import CLASS_NAMES
from vcm.imaging.draws import draw_condition
from vcm.imaging.prepared_set import load_prepared, with_classes
from vcm.imaging.volume import Grid
from vcm.inputs import network_inputs
from vcm.pipeline import VCMPipeline
from vcm.training.configuration import ModuleTraining
from vcm.training.module import latent_files, load_frozen, subjects_for, train
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter

#: What each method of the study changes in the configuration of `vcm train`. All five start from the same
#: linear reading of the condition; `-no-prior` from the frozen model instead, as published. `vcm` is what
#: brain2mm's configurations ship; its variants change one thing of it each, `vcm-published` all of them.
#: `start` is that linear reading alone, which nothing was trained on.
METHODS: dict[str, dict[str, Any]] = {
    "start": {"control": "vcm", "steps": 1, "learning_rate": 0.0, "final_learning_rate": 0.0},
    "vcm": {"control": "vcm"},
    "mcm": {"control": "mcm"},
    "controlnet": {"control": "controlnet"},
    "controlnet-lite": {"control": "controlnet-lite"},
    "t2i-adapter": {"control": "t2i-adapter"},
    "vcm-no-prior": {"control": "vcm", "linear_prior": False},
    "controlnet-no-prior": {"control": "controlnet", "linear_prior": False},
    "vcm-instance": {"control": "vcm", "head_norm": "instance"},
    "vcm-lambda-1": {"control": "vcm", "penalty": 1.0},
    "vcm-lambda-0.15": {"control": "vcm", "penalty": 0.15},
    "vcm-published": {
        "control": "vcm", "linear_prior": False, "head_norm": "instance", "penalty": 1.0,
    },
}  # fmt: skip
#: Arms without a training: real scans (ceiling) and the frozen model alone (floor).
REAL, FROZEN = "real", "frozen"


@dataclass(frozen=True)
class Run:
    """One row of the study; samples 0 means all training scans that can be used."""

    method: str
    condition: str
    samples: int
    seed: int
    learning_rate: float
    steps: int
    draws: int
    data: list[str]
    model: str
    segmenter: str
    work: str
    temperature: float
    sampler: str = "dpm++-karras"
    sampler_steps: int = 10
    limit: int | None = None
    validate: bool = False

    @property
    def name(self) -> str:
        """Unique within a study, fit for a file."""
        parts = (self.method, self.condition, self.samples or "all", f"seed{self.seed}")
        return "_".join(map(str, parts)) + f"_{self.learning_rate:g}" * self.validate

    def configuration(self) -> ModuleTraining:
        """Of `vcm train`."""
        options: dict[str, Any] = {
            "data": self.data,
            "model": self.model,
            "out": f"{self.work}/{self.name}",
            "cache": f"{self.work}/latents",
            "conditions": [self.condition],
            "max_samples": self.samples or None,
            "subset_seed": self.seed,
            "seed": self.seed,
            "steps": self.steps,
            "draws": self.draws,
            # A scan and its mirror, as in the release; moved copies would take longer than training.
            "copies": 2,
            "learning_rate": self.learning_rate,
            "mixed_precision": "bf16",
            "temperature": self.temperature,
            "warmup_steps": min(30, self.steps // 4),
            "checkpoint_every": self.steps,
            "validate_every": self.steps if self.validate else 0,
            "validation_subjects": 8,
        }
        return ModuleTraining(**(options | METHODS[self.method]))


def measure(run: Run) -> dict[str, Any]:
    """Train if there is something to train, sample every test subject, measure."""
    row: dict[str, Any] = {}
    if run.method in METHODS:
        config = run.configuration()
        losses = train(config)
        row |= {"test_loss": losses["steered"], "peak_mib": peak_mib()}
        row |= {"trained_minutes": float(_last(Path(config.out) / "log.csv")["minutes"])}
        if run.validate:
            found = _last(Path(config.out) / "validation.csv")
            return {"run": row | {"validation_loss": float(found["loss"])}, "subjects": []}
        pipeline = load_pipeline(f"{config.out}/model")
        row["parameters"] = sum(p.numel() for p in pipeline.module.parameters())
    else:
        pipeline = load_pipeline(run.model)
    subjects, made = evaluate(run, pipeline)
    return {"run": row | made, "subjects": subjects}


def evaluate(run: Run, pipeline: VCMPipeline) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows per test subject, and what exists only of all together."""
    segmenter, grid = load_segmenter(run.segmenter), pipeline.volume_grid
    held_out = with_classes(load_prepared(*run.data, split="test"))[: run.limit]
    cases = [as_case(subject, pipeline.input_rule) for subject in held_out]
    truth = [case.subject.classes() for case in cases]
    real = [case.subject.image() for case in cases]
    started = time.monotonic()
    volumes = real if run.method == REAL else _sample(run, pipeline, cases, truth)
    seconds = (time.monotonic() - started) / len(cases)
    found = measures.segment(segmenter, volumes, grid, "Segmenting")
    rows: list[dict[str, Any]] = [{"subject": case.name} for case in cases]
    for row in measures.adherence(cases, truth, {"run": found}):
        own = next(r for r in rows if r["subject"] == row["subject"])
        own[f"dice_{CLASS_NAMES.index(row['class'])}"] = row["dice_run"]
    if run.method != REAL:
        for own, row in zip(rows, measures.paired(cases, truth, real, volumes), strict=True):
            own |= {"psnr": row["psnr"], "ssim": row["ssim"]}
    features = measures.describe(segmenter, volumes, grid, "Features")
    train_features = _train_features(run, segmenter, grid)
    (kid,) = measures.realism(train_features, {"run": features}, 0)
    return rows, {
        "kid": kid["kid"], "kid_low": kid["low"], "kid_high": kid["high"],
        "sample_seconds": round(seconds, 2),
    }  # fmt: skip


@torch.inference_mode()
def _sample(
    run: Run, pipeline: VCMPipeline, cases: list[Case], truth: list[NDArray[np.uint8]]
) -> list[NDArray[np.float32]]:
    """One volume per case under its own condition; subject n has seed n, whatever the method."""
    pipeline.use_scheduler(run.sampler)
    volumes = []
    for n, (case, classes) in enumerate(zip(cases, truth, strict=True)):
        given = None
        if run.method != FROZEN:
            drawn = draw_condition(
                run.condition, classes, None, pipeline.volume_grid, np.random.default_rng(n)
            )
            given = [torch.from_numpy(drawn)[None]]
        inputs = network_inputs(pipeline.input_rule, case.inputs)
        made = pipeline(
            given, inputs, num_inference_steps=run.sampler_steps, temperature=run.temperature,
            generator=torch.Generator().manual_seed(n), precision="bfloat16", output_type="np",
        )  # fmt: skip
        # As `vcm evaluate` keeps them.
        volumes.append(made.volumes[0, 0].astype(np.float16).astype(np.float32))
    return volumes


def _train_features(run: Run, segmenter: Any, grid: Grid) -> NDArray[np.float64]:
    """Of all training scans, kept beside the runs."""
    path = Path(run.work) / "train_features.npy"
    if not path.is_file():
        scans = [s.image() for s in load_prepared(*run.data, split="train")]
        np.save(path, measures.describe(segmenter, scans, grid, "Features, training scans"))
    return np.load(path)


def _last(table: Path) -> dict[str, str]:
    with table.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))[-1]


def main() -> None:
    asked = json.loads(sys.argv[1])
    encode_only = asked.pop("encode_only", False)
    run = Run(**asked)
    if encode_only:
        config = run.configuration()
        pipeline = load_frozen(config)
        for split, subjects in subjects_for(config, pipeline).items():
            latent_files(config, pipeline, split).encode(subjects)
        return
    print(json.dumps(measure(run)))


if __name__ == "__main__":
    main()
