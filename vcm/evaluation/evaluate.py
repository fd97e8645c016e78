"""Evaluate: does a steered model obey, look real, vary, keep its training scans to itself, and age?

Sample every test subject's condition with and without the module, segment, measure, and compare
with the real scans. Each measure is written per subject before anything is averaged. A run that
was stopped goes on; volumes that are there already are not sampled again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rich.progress import track

from vcm.errors import VCMError
from vcm.evaluation import measures
from vcm.evaluation.ages import age_requests, age_rows
from vcm.evaluation.configuration import Evaluation
from vcm.evaluation.measures import Maps, Row, Volumes
from vcm.evaluation.page import as_page
from vcm.evaluation.samples import Case, Request, SampleStore, as_case, values_of
from vcm.evaluation.summary import Summary, summarise
from vcm.files import fingerprint, versions, write_json, write_table
from vcm.imaging.draws import draw_condition
from vcm.imaging.prepared_set import Subject, load_prepared, with_classes
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline, choose_device
from vcm.report.picture import mosaic, outlined
from vcm.weights.load import load_pipeline, model_folder
from vcm.weights.segmenter import load_segmenter

#: Seeds count up from the configured one: subjects, their second samples, samples at two ages.
SECOND_SEEDS, AGE_SEEDS = 10_000, 20_000
#: Subjects that are sampled a second time, and those that are shown.
SAMPLED_TWICE, SHOWN = 4, 8


@dataclass(frozen=True)
class Scene:
    """Everything that is measured; lists run in the order of the cases, or of the training scans."""

    cases: list[Case]
    truth: Maps
    train_names: list[str]
    train: Volumes
    arms: dict[str, Volumes]
    second: dict[str, Volumes]


def evaluate(config: Evaluation) -> Summary:
    """Sample, measure, and write tables, summary and pictures into `out`. Raises VCMError."""
    _check(config)
    device = choose_device("auto")
    pipeline = _load_steered(config)
    segmenter = load_segmenter(config.segmenter)
    for net in (pipeline, segmenter):
        net.to(device)
    train = load_prepared(*config.data, split="train")
    held_out = with_classes(load_prepared(*config.data, split=config.split))[: config.limit]
    cases = [as_case(subject, pipeline.input_rule) for subject in held_out]
    requests = age_requests(pipeline.input_rule, config.covariate_samples, config.seed + AGE_SEEDS)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(asdict(config)), out / "config.yaml")
    store = SampleStore(
        pipeline,
        out / "samples",
        {
            "model": _digest(config.model),
            "scheduler": config.scheduler,
            "steps": config.steps,
            "temperature": config.temperature,
        },
    )
    scene = _sample(store, cases, train, config.seed)
    _draw(scene, out)
    tables = _measure(scene, segmenter, out, config.seed)
    if requests:
        aged = store.volumes(requests, "Sampling, two ages")
        found = measures.segment(segmenter, aged, "Segmenting, two ages")
        tables["covariates"] = age_rows(requests, found)
    for name, rows in tables.items():
        write_table(out / f"{name}.tsv", rows, list(rows[0]))
    summary = {
        "configuration": asdict(config),
        "model_sha256": fingerprint(model_folder(config.model)),
        "versions": versions(),
        "subjects": len(cases),
        "train_scans": len(train),
        **summarise(tables, config.seed),
    }
    write_json(out / "summary.json", summary)
    (out / "summary.md").write_text(as_page(summary), encoding="utf-8")
    return summary


def _check(config: Evaluation) -> None:
    if not config.data or not config.model or not config.segmenter:
        raise VCMError(
            "No data, model or segmenter is given: add data=[FOLDER] with a folder written by vcm "
            "prepare, model=FOLDER with one written by vcm train, and segmenter=FOLDER with one "
            "written by vcm pretrain segmenter."
        )
    for name in ("steps", "covariate_samples", "limit"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise VCMError(f"{name} is {value}: choose a whole number from 1.")


def _load_steered(config: Evaluation) -> VCMPipeline:
    pipeline = load_pipeline(config.model)
    if pipeline.module is None:
        raise VCMError(
            f"The model {config.model} has no module, so there is nothing to evaluate against a "
            "condition: train one with vcm train."
        )
    pipeline.use_scheduler(config.scheduler)
    return pipeline


def _digest(model: str) -> str:
    """One SHA-256 of all tensors of a model."""
    return hashlib.sha256(json.dumps(fingerprint(model_folder(model))).encode()).hexdigest()


def _sample(store: SampleStore, cases: list[Case], train: Sequence[Subject], seed: int) -> Scene:
    """Real scans, one controlled and one uncontrolled sample each, and second ones of a few."""
    truth = [case.subject.classes() for case in cases]
    real = [case.subject.image() for case in cases]
    names, grid = store.pipeline.config.conditions, store.pipeline.volume_grid

    def conditions(n: int) -> list[NDArray[np.float32]]:
        # Draws depend on the subject's number alone, not on the seed.
        random = np.random.default_rng(n)
        return [draw_condition(name, truth[n], real[n], grid, random) for name in names]

    given = [conditions(n) for n in range(len(cases))]

    def draw(arm: str, first_seed: int, count: int) -> Volumes:
        steered = arm == "controlled"
        requests = [
            Request(arm, case.name, first_seed + n, case.inputs, given[n] if steered else None)
            for n, case in enumerate(cases[:count])
        ]
        return store.volumes(requests, f"Sampling, {arm}")

    # What two seeds are compared with: two subjects.
    another = {"real": [*real[1:], real[0]]} if len(real) > 1 else {}
    return Scene(
        cases,
        truth,
        [s.subject for s in train],
        [s.image() for s in track(train, "Reading training scans")],
        {
            "real": real,
            "controlled": draw("controlled", seed, len(cases)),
            "uncontrolled": draw("uncontrolled", seed, len(cases)),
        },
        another
        | {
            "controlled": draw("controlled", seed + SECOND_SEEDS, SAMPLED_TWICE),
            "uncontrolled": draw("uncontrolled", seed + SECOND_SEEDS, SAMPLED_TWICE),
        },
    )


def _measure(
    scene: Scene, segmenter: TissueSegmenter, out: Path, seed: int
) -> dict[str, list[Row]]:
    """Tables by name, all but `covariates`; the features behind `realism` go to features.npz."""
    cases, truth, arms = scene.cases, scene.truth, scene.arms
    found = {a: measures.segment(segmenter, v, f"Segmenting, {a}") for a, v in arms.items()}
    features = {a: measures.describe(segmenter, v, f"Features, {a}") for a, v in arms.items()}
    train = measures.describe(segmenter, scene.train, "Features, training scans")
    np.savez(out / "features.npz", allow_pickle=False, train=train, **features)
    compared = {"real": arms["real"], "controlled": arms["controlled"]}
    twice = [case.name for case in cases[:SAMPLED_TWICE]]
    return {
        "subjects": [
            {"subject": c.name, **values_of(c.inputs), "note": c.note or None} for c in cases
        ],
        "adherence": measures.adherence(cases, truth, found),
        "intensity": measures.intensity(cases, truth, compared),
        "paired": measures.paired(cases, truth, arms["real"], arms["controlled"]),
        "realism": measures.realism(train, features, seed),
        "privacy": measures.privacy(cases, scene.train_names, scene.train, arms),
        "diversity": measures.diversity(twice, {a: (arms[a], v) for a, v in scene.second.items()}),
    }


def _draw(scene: Scene, out: Path) -> None:
    """mosaic.png: controlled beside real, subject by subject; outlined.png: one subject's arms."""
    arms: Mapping[str, Volumes] = scene.arms
    pairs, titles = [], []
    for case, made, real in list(zip(scene.cases, arms["controlled"], arms["real"], strict=True))[
        :SHOWN
    ]:
        pairs += [made, real]
        titles += [f"{case.name}, synthetic", f"{case.name}, real"]
    mosaic(pairs, out / "mosaic.png", titles)
    names = [f"{scene.cases[0].name}, {arm}" for arm in arms]
    outlined([v[0] for v in arms.values()], scene.truth[0], out / "outlined.png", names)
