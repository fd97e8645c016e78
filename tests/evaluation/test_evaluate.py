import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vcm.errors import VCMError
from vcm.evaluation.evaluate import Evaluation, evaluate_files
from vcm.files import read_table, write_table
from vcm.imaging.geometry import model_grid
from vcm.imaging.volume import Volume, write_volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.preparation.prepare import COLUMNS

COLUMNS_OF = {
    "subjects": ["subject", "sex", "age", "ventricular_volume", "brain_volume", "note"],
    "adherence": ["subject", "class", "dice_real", "dice_controlled", "dice_uncontrolled"],
    "intensity": ["subject", "class", "mean_real", "sd_real", "mean_controlled", "sd_controlled"],
    "paired": ["subject", "psnr", "ssim"],
    "realism": ["arm", "scans", "kid", "low", "high"],
    "privacy": [
        "arm", "subject", "nearest", "mirrored", "rmse_nearest", "rmse_median", "ratio",
    ],
    "diversity": ["arm", "subject", "rmse"],
    "covariates": [
        "arm", "seed", "sex", "age", "ventricular_volume", "brain_volume",
        "ventricles_measured", "brain_measured",
    ],
}  # fmt: skip


def head(seed):
    """Eight nested shells as classes, and an image in which each has its intensity."""
    grid = model_grid()
    axes = [np.linspace(-1, 1, n) for n in grid.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2) + 0.1 * x + 0.02 * seed
    classes = np.clip(np.ceil((0.9 - radius) * 9), 0, 8).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 0.02, grid.shape)
    return np.clip(classes / 9 + noise * (classes > 0), 0, 1).astype(np.float32), classes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Four training subjects and two test subjects; the second has no age or sex, and is a
    mirrored training scan."""
    out = tmp_path_factory.mktemp("prepared")
    rows = []
    for n in range(6):
        name, split = f"sub-{n:02d}", "train" if n < 4 else "test"
        image, classes = head(n)
        if n == 5:
            image = head(1)[0][::-1].copy()
        affine = model_grid().affine
        write_volume(Volume(image, affine), out / name / f"{name}_T1w.nii.gz")
        write_volume(Volume(classes, affine), out / name / f"{name}_dseg.nii.gz")
        known = n != 5
        values = (30 + 10 * n if known else None, "FM"[n % 2] if known else None, 20 + n, 1200 + n)
        rows.append(dict(zip(COLUMNS, (name, split, *values), strict=True)))
    rows[4]["age"] = 93
    write_table(out / "participants.tsv", rows, COLUMNS)
    return out


@pytest.fixture(scope="module")
def evaluated(prepared, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    TissueSegmenter((8, 8), groups=4).save_pretrained(folder / "segmenter")
    config = Evaluation(
        data=[str(prepared)],
        model=str(tiny_model),
        segmenter=str(folder / "segmenter"),
        out=str(folder / "out"),
        steps=2,
        covariate_samples=2,
    )
    return config, evaluate_files(config), folder / "out"


def test_every_table_has_its_rows_and_the_pictures_are_there(evaluated):
    _, summary, out = evaluated
    tables = {name: read_table(out / f"{name}.tsv") for name in COLUMNS_OF}
    for name, rows in tables.items():
        assert list(rows[0]) == COLUMNS_OF[name]
    counts = {name: len(rows) for name, rows in tables.items()}
    assert counts == {
        "subjects": 2, "adherence": 16, "intensity": 16, "paired": 2, "realism": 3,
        "privacy": 6, "diversity": 6, "covariates": 8,
    }  # fmt: skip
    assert all((out / f"{name}.png").stat().st_size > 1000 for name in ("mosaic", "outlined"))
    assert json.loads((out / "summary.json").read_text()) == summary
    assert "| white matter |" in (out / "summary.md").read_text()
    assert np.load(out / "features.npz")["train"].shape == (4, 16)


def test_means_come_from_the_rows(evaluated):
    _, summary, out = evaluated
    rows = [r for r in read_table(out / "adherence.tsv") if r["class"] == "ventricles"]
    expected = np.mean([float(r["dice_controlled"]) for r in rows])
    assert summary["adherence"]["ventricles"]["controlled"]["mean"] == pytest.approx(expected)
    rows = [r for r in read_table(out / "covariates.tsv") if r["arm"] == "age"]
    by_seed = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(float(row["ventricles_measured"]))
    assert len(by_seed) == 2
    expected = np.mean([old - young for young, old in by_seed.values()])
    assert summary["covariates"]["age"]["difference"]["value"] == pytest.approx(expected)


def test_what_is_unknown_or_outside_is_resolved_and_noted(evaluated):
    first, second = read_table(evaluated[2] / "subjects.tsv")
    assert (float(first["age"]), first["note"]) == (80, "age: given, 93 years clamped to 80")
    assert (float(second["age"]), float(second["sex"])) == (50, 0)
    assert second["note"] == "sex: not given, taken as F; age: population"


def test_held_volumes_do_not_follow_the_age(evaluated):
    rows = [r for r in read_table(evaluated[2] / "covariates.tsv") if r["sex"] == "0.0"]
    given = {(r["arm"], float(r["age"])): float(r["ventricular_volume"]) for r in rows}
    assert given["age only", 25] == given["age only", 75]
    assert given["age", 25] != given["age", 75]


def test_a_mirrored_training_scan_is_found(evaluated):
    rows = read_table(evaluated[2] / "privacy.tsv")
    found = {(r["arm"], r["subject"]): r for r in rows}
    copy, other = found["real", "sub-05"], found["real", "sub-04"]
    assert (copy["nearest"], copy["mirrored"], float(copy["rmse_nearest"])) == ("sub-01", "yes", 0)
    assert float(other["rmse_nearest"]) > 0.005


def test_a_rerun_reuses_what_has_the_same_fingerprint(evaluated):
    config, summary, out = evaluated
    samples = sorted((out / "samples").rglob("*.npy"))
    assert len(samples) == 2 * (2 + 2) + 8
    stamps = [p.stat().st_mtime_ns for p in samples]
    record = samples[0].with_suffix(".json")
    record.write_text(record.read_text().replace('"steps": 2', '"steps": 3'))
    before = np.load(samples[0])
    again = evaluate_files(config)
    changed = [p.stat().st_mtime_ns != s for p, s in zip(samples, stamps, strict=True)]
    assert changed == [True] + [False] * (len(samples) - 1)
    assert np.array_equal(np.load(samples[0]), before)
    assert again == summary


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": []}, "No data, model or segmenter"),
        ({"segmenter": "nowhere"}, "holds no segmenter"),
        ({"model": "nowhere"}, "model_index.json"),
        ({"scheduler": "none"}, "scheduler"),
        ({"steps": 0}, "steps is 0"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_a_bad_configuration_is_refused_in_words(evaluated, change, reason):
    with pytest.raises(VCMError, match=reason):
        evaluate_files(replace(evaluated[0], **change))
