"""Evaluate: does a steered model obey, look real, vary, keep its training scans to itself, and age?

Sample every test subject's condition with and without the module, segment, measure, and compare
with the real scans. Each measure is written per subject before anything is averaged. A run that
was stopped resumes; volumes that are there already are not sampled again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from vcm.checksums import checksums_of
from vcm.device import choose_device
from vcm.embedded import model_folder
from vcm.errors import VCMError
from vcm.evaluation import detail, measures
from vcm.evaluation.ages import age_requests, age_rows, arms_of
from vcm.evaluation.configuration import Evaluation
from vcm.evaluation.measures import Maps, Row, Volumes
from vcm.evaluation.page import as_page
from vcm.evaluation.report import evaluation_page
from vcm.evaluation.samples import Case, Request, SampleStore, as_case, as_trained, values_of
from vcm.evaluation.summary import Summary, summarise
from vcm.files import (
    check_output,
    fingerprint,
    listed_files,
    refuse_to_replace,
    sha256,
    versions,
    write_set,
    write_table,
)
from vcm.imaging.draws import draw_condition
from vcm.imaging.prepared_set import (
    Subject,
    check_grid,
    load_prepared,
    one_per_folder,
    with_classes,
)
from vcm.imaging.scan_checksums import by_name, check_apart
from vcm.imaging.volume import Grid
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline
from vcm.report.folder import write_report
from vcm.report.page import Page
from vcm.report.picture import mosaic, outlined
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter, segmenter_folder

#: Seeds count up from the configured one: subjects, their second samples, samples at two ages.
SECOND_SEEDS, AGE_SEEDS = 10_000, 20_000
#: Subjects that are sampled a second time, and those that are shown.
SAMPLED_TWICE, SHOWN = 4, 8
#: What is written, beside the samples and a table for each name.
FILES = CONFIG, FEATURES, PAIRS, ARMS, PAGE, SUMMARY = (
    "config.yaml", "features.npz", "mosaic.png", "outlined.png", "summary.md", "summary.json",
)  # fmt: skip
TABLES = (
    "subjects", "adherence", "intensity", "paired", "realism", "spectrum", "two_sample", "privacy",
    "diversity", "covariates",
)  # fmt: skip
#: Bytes per voxel of a sample that is kept.
SAMPLE_BYTES = 2


@dataclass(frozen=True)
class Scene:
    """Everything that is measured; lists run in the order of the cases.

    Attributes:
        cases: The test subjects.
        truth: Their class maps, the conditions.
        arms: Volumes by arm: real, controlled, uncontrolled.
        second: A second volume of the first few, by arm; of `real` that of another subject.
    """

    cases: list[Case]
    truth: Maps
    arms: dict[str, Volumes]
    second: dict[str, Volumes]


@dataclass(frozen=True)
class Evaluated:
    """What comes out of an evaluation.

    Attributes:
        scene: What was measured.
        tables: Rows by the name of their table.
        features: The segmenter's features (N, F) by arm, and of the training scans by `train`.
        summary: Rows become numbers, each with its spread or 95 % interval.
    """

    scene: Scene
    tables: dict[str, list[Row]]
    features: dict[str, NDArray[np.float64]]
    summary: Summary


def evaluate_files(config: Evaluation) -> Summary:
    """Evaluate a model on prepared subjects; write tables, summary and pictures into `out`.

    Returns:
        The summary, as summary.json has it.

    Raises:
        VCMError: Something cannot be used. Results in `out` are as they were then.
    """
    # Check.
    _refuse_missing(config.data, config.model, config.segmenter)
    check_settings(config.steps, config.covariate_samples, config.limit, config.seed)
    _refuse_train(config.split)
    out = Path(config.out)
    check_output(out)

    # Load.
    device = choose_device(config.device)
    pipeline = load_pipeline(config.model)
    refuse_unsteered(pipeline, config.model)
    config = as_recommended(config, pipeline)
    assert config.steps is not None
    pipeline.use_scheduler(config.scheduler)
    segmenter = load_segmenter(config.segmenter)
    train = load_prepared(*config.data, split="train")
    everyone = with_classes(load_prepared(*config.data, split=config.split))
    known = as_trained(everyone, pipeline.input_rule)
    test = known[: config.limit]
    check_apart(train, test)
    for subject in (*test, *one_per_folder(train)):
        check_grid(subject, pipeline.volume_grid, config.model)
    inputs = {
        "model_sha256": fingerprint(model_folder(config.model)),
        "segmenter_sha256": fingerprint(segmenter_folder(config.segmenter)),
        "conditions_sha256": by_name((s.subject, sha256(s.classes_file)) for s in test),
    }
    _refuse_replacing(out, inputs, config.overwrite)
    check_output(out, _room_for_samples(pipeline, out, len(test), config.covariate_samples))

    # Compute.
    pipeline.to(device)
    segmenter.to(device)
    store = SampleStore(
        pipeline, out / "samples", _checksum(checksums_of(model_folder(config.model))), config.scheduler,
        config.steps, config.temperature, config.conditioning_scale,
    )  # fmt: skip
    found = evaluate(pipeline, segmenter, test, train, store, config.seed, config.covariate_samples)

    # Write.
    _refuse_replacing(out, inputs, config.overwrite)
    about = {
        "configuration": asdict(config),
        **inputs,
        "versions": versions(),
        "subjects": len(test),
        "subjects_left_out": [s.subject for s in everyone if s not in known],
        "train_scans": len(train),
    }
    grid = pipeline.volume_grid
    summary = _write(found, grid, out, about)
    write_report(out, lambda: _page(found, summary, grid, out))
    return summary


def evaluate(
    pipeline: VCMPipeline,
    segmenter: TissueSegmenter,
    test: Sequence[Subject],
    train: Sequence[Subject],
    store: SampleStore,
    seed: int = 0,
    covariate_samples: int = 8,
) -> Evaluated:
    """Sample and measure, on the devices of the pipeline and the segmenter.

    Args:
        pipeline: Frozen model and module, with the scheduler to sample with.
        segmenter: Measures tissues; sees the voxels that it was trained on.
        test: Prepared subjects on the model's grid, each with a class map, its condition. Those of whom
            less is known than the model is told are left out, with a VCMWarning.
        train: The prepared subjects that the model was trained on, for realism and privacy.
        store: Keeps the samples, so that a run that was stopped resumes.
        seed: Of the first sample.
        covariate_samples: Samples at each of two ages.

    Raises:
        VCMError: A subject or the model cannot be used.
    """
    refuse_unsteered(pipeline)
    grid, rule = pipeline.volume_grid, pipeline.input_rule
    cases = [as_case(subject, rule) for subject in as_trained(test, rule)]
    scene = _sample(store, cases, grid, pipeline.config.conditions, seed)
    tables, features = _measure(scene, train, segmenter, grid, seed)
    requests = age_requests(rule, covariate_samples, seed + AGE_SEEDS)
    if requests:
        aged = store.volumes(requests, "Sampling, two ages")
        found = measures.segment(segmenter, aged, grid, "Segmenting, two ages")
        tables["covariates"] = age_rows(requests, found, grid.voxel_volume)
    return Evaluated(scene, tables, features, summarise(tables, seed))


def as_recommended(config: Evaluation, pipeline: VCMPipeline) -> Evaluation:
    """The configuration with the scheduler and the steps that the model recommends, where it names none."""
    auto = config.scheduler == "auto"
    steps = pipeline.recommended_steps if config.steps is None else config.steps
    scheduler = pipeline.recommended_scheduler if auto else config.scheduler
    return replace(config, scheduler=scheduler, steps=steps)


def check_settings(steps: int | None, covariate_samples: int, limit: int | None, seed: int) -> None:
    """Refuse with VCMError numbers that make no sense. Arguments as the configuration has them."""
    numbers = {"steps": steps, "covariate_samples": covariate_samples, "limit": limit}
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise VCMError(f"{name} is {value}: choose a whole number from 1.")
    if not 0 <= seed < 2**31:
        raise VCMError(f"seed is {seed}: choose a whole number from 0, below 2^31.")


def refuse_unsteered(pipeline: VCMPipeline, name: str = "given") -> None:
    """Raise VCMError for a model without a module."""
    if pipeline.module is None:
        raise VCMError(
            f"The model {name} has no module, so there is nothing to evaluate against a "
            "condition: train one with vcm train."
        )


def _checksum(files: Mapping[str, str]) -> str:
    """One SHA-256 for those of several files."""
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _refuse_missing(data: Sequence[str], model: str, segmenter: str) -> None:
    if not data or not model or not segmenter:
        raise VCMError(
            "No data, model or segmenter is given: add data=[FOLDER] with a folder written by vcm "
            "prepare, model=FOLDER with one written by vcm train, and segmenter=FOLDER with one "
            "written by vcm pretrain segmenter."
        )


def _refuse_train(split: str) -> None:
    """Of training scans, the nearest training scan is the scan itself."""
    if split == "train":
        raise VCMError(
            "split is train, but realism and privacy are measured against the training scans: choose validation or test."
        )


def _room_for_samples(
    pipeline: VCMPipeline, out: Path, subjects: int, covariate_samples: int
) -> int:
    """Bytes of the samples that are not there yet."""
    arms = len(arms_of(pipeline.input_rule))
    count = 2 * (subjects + min(subjects, SAMPLED_TWICE)) + 2 * arms * covariate_samples
    there = sum(path.stat().st_size for path in (out / "samples").rglob("*.npy"))
    return max(0, SAMPLE_BYTES * math.prod(pipeline.volume_grid.shape) * count - there)


def _refuse_replacing(out: Path, inputs: Mapping[str, Any], overwrite: bool) -> None:
    written = [out / name for name in (*FILES, *(f"{table}.tsv" for table in TABLES))]
    refuse_to_replace(written, [], out / SUMMARY, inputs, overwrite)


def _sample(
    store: SampleStore, cases: list[Case], grid: Grid, conditions: Sequence[str], seed: int
) -> Scene:
    """Real scans, one controlled and one uncontrolled sample each, and second ones of a few."""
    truth = [case.subject.classes() for case in cases]
    real = [case.subject.image() for case in cases]

    def drawn(n: int) -> list[NDArray[np.float32]]:
        # Draws depend on the subject's number alone, not on the seed.
        random = np.random.default_rng(n)
        return [draw_condition(name, truth[n], real[n], grid, random) for name in conditions]

    given = [drawn(n) for n in range(len(cases))]

    def sampled(arm: str, first_seed: int, count: int) -> Volumes:
        steered = arm == "controlled"
        requests = [
            Request(arm, case.name, first_seed + n, case.inputs, given[n] if steered else None)
            for n, case in enumerate(cases[:count])
        ]
        return store.volumes(requests, f"Sampling, {arm}")

    arms: dict[str, Volumes] = {"real": real}
    # What two seeds are compared with: two subjects.
    second: dict[str, Volumes] = {"real": [*real[1:], real[0]]} if len(real) > 1 else {}
    for arm in ("controlled", "uncontrolled"):
        arms[arm] = sampled(arm, seed, len(cases))
        second[arm] = sampled(arm, seed + SECOND_SEEDS, SAMPLED_TWICE)
    return Scene(cases, truth, arms, second)


def _measure(
    scene: Scene, train: Sequence[Subject], segmenter: TissueSegmenter, grid: Grid, seed: int
) -> tuple[dict[str, list[Row]], dict[str, NDArray[np.float64]]]:
    """Tables by name, all but `covariates`; the features behind `realism` by arm."""
    cases, truth, arms = scene.cases, scene.truth, scene.arms
    found = {a: measures.segment(segmenter, v, grid, f"Segmenting, {a}") for a, v in arms.items()}
    features = {a: measures.describe(segmenter, v, grid, f"Features, {a}") for a, v in arms.items()}
    scans = measures.Scans(train)
    device = next(segmenter.parameters()).device
    of_train = measures.describe(segmenter, scans, grid, "Features, training scans")
    compared = {"real": arms["real"], "controlled": arms["controlled"]}
    sampled = {arm: arms[arm] for arm in ("controlled", "uncontrolled")}
    others = {**sampled, "training scans": detail.spread_over(scans, len(cases))}
    twice = [case.name for case in cases[:SAMPLED_TWICE]]
    tables = {
        "subjects": [
            {"subject": c.name, **values_of(c.inputs), "note": c.note or None} for c in cases
        ],
        "adherence": measures.adherence(cases, truth, found),
        "intensity": measures.intensity(cases, truth, compared),
        "paired": measures.paired(cases, truth, arms["real"], arms["controlled"]),
        "realism": measures.realism(of_train, features, seed),
        "spectrum": detail.spectrum(cases, arms["real"], sampled, grid.spacing),
        "two_sample": detail.two_sample(arms["real"], others, seed, device),
        "privacy": measures.privacy(cases, [s.subject for s in train], scans, arms),
        "diversity": measures.diversity(twice, {a: (arms[a], v) for a, v in scene.second.items()}),
    }
    return tables, {"train": of_train, **features}


def _write(found: Evaluated, grid: Grid, out: Path, about: Mapping[str, Any]) -> Summary:
    """Tables, pictures, features, page and summary, all of one evaluation or none."""
    summary = {**about, **found.summary}
    configuration = OmegaConf.to_yaml(OmegaConf.create(about["configuration"]))
    writers: dict[Path, Callable[[Path], object]] = {
        out / CONFIG: lambda part: part.write_text(configuration, encoding="utf-8"),
        out / FEATURES: lambda part: np.savez(part, allow_pickle=False, **found.features),
        out / PAIRS: lambda part: _draw_pairs(found.scene, part, grid.affine),
        out / ARMS: lambda part: _draw_arms(found.scene, part, grid.affine),
        out / PAGE: lambda part: part.write_text(as_page(summary), encoding="utf-8"),
    }
    for name in TABLES:
        if name in found.tables:
            writers[out / f"{name}.tsv"] = _table_writer(found.tables[name])
    # An earlier evaluation may have tables that this one has not.
    return write_set(out / SUMMARY, summary, writers, listed_files(out / SUMMARY))


def _page(found: Evaluated, summary: Summary, grid: Grid, out: Path) -> Page:
    """What is shown; the first subject stands for all."""
    scene = found.scene
    volumes = {arm: np.asarray(volumes[0]) for arm, volumes in scene.arms.items()}
    subject = scene.cases[0].name
    return evaluation_page(summary, found.tables, volumes, scene.truth[0], subject, grid, out)


def _table_writer(rows: list[Row]) -> Callable[[Path], object]:
    return lambda part: write_table(part, rows, list(rows[0]))


def _draw_pairs(scene: Scene, path: Path, affine: NDArray[np.float64]) -> None:
    """Controlled beside real, subject by subject."""
    pairs, titles = [], []
    for n, case in enumerate(scene.cases[:SHOWN]):
        pairs += [scene.arms["controlled"][n], scene.arms["real"][n]]
        titles += [f"{case.name}, synthetic", f"{case.name}, real"]
    mosaic(pairs, path, titles, affine)


def _draw_arms(scene: Scene, path: Path, affine: NDArray[np.float64]) -> None:
    """One subject by every arm, with the outlines of its condition."""
    names = [f"{scene.cases[0].name}, {arm}" for arm in scene.arms]
    outlined([volumes[0] for volumes in scene.arms.values()], scene.truth[0], path, affine, names)
