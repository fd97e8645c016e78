import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_brains import GRID, brain2mm_like, brainldm_like, classes_of, image_of, maisi_like
from tiny_networks import tiny_module

from vcm.diffusion.sampling import make_scheduler
from vcm.errors import VCMError, VCMWarning
from vcm.evaluation.evaluate import Evaluation, as_recommended, evaluate_files
from vcm.evaluation.samples import as_trained
from vcm.files import listed_files, read_table, write_table
from vcm.imaging.prepared_set import COLUMNS, load_prepared
from vcm.imaging.spectrum import band_names
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights import segmenter
from vcm.weights.load import load_pipeline

COLUMNS_OF = {
    "subjects": ["subject", "sex", "age", "ventricular_volume", "brain_volume", "note"],
    "adherence": ["subject", "class", "dice_real", "dice_controlled", "dice_uncontrolled"],
    "intensity": ["subject", "class", "mean_real", "sd_real", "mean_controlled", "sd_controlled"],
    "paired": ["subject", "psnr", "ssim"],
    "realism": ["arm", "scans", "kid", "low", "high"],
    "privacy": [
        "arm", "subject", "nearest", "mirrored", "rmse_nearest", "rmse_median", "ratio",
    ],
    "spectrum": ["arm", "subject", *band_names()],
    "two_sample": ["compared", "real", "others", "auc", "low", "high"],
    "diversity": ["arm", "subject", "rmse"],
    "covariates": [
        "arm", "seed", "sex", "age", "ventricular_volume", "brain_volume",
        "ventricles_measured", "brain_measured",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Four training subjects and three test subjects; the second is a mirrored training scan, of the
    third neither age nor sex is known."""
    out = tmp_path_factory.mktemp("prepared")
    rows = []
    for n in range(7):
        name, split = f"sub-{n:02d}", "train" if n < 4 else "test"
        classes = classes_of(0.92 + 0.02 * n)
        image = image_of(classes, n)
        if n == 5:
            image = image_of(classes_of(0.94), 1)[::-1].copy()
        write_volume(Volume(image, GRID.affine), out / name / f"{name}_T1w.nii.gz")
        write_volume(Volume(classes, GRID.affine), out / name / f"{name}_dseg.nii.gz")
        known = n != 6
        values = (30 + 10 * n if known else None, "FM"[n % 2] if known else None, 20 + n, 1200 + n)
        files = (f"{name}_T1w.nii.gz", f"{name}_dseg.nii.gz")
        rows.append(dict(zip(COLUMNS, (name, split, *values, name, *files), strict=True)))
    rows[4]["age"] = 93
    write_table(out / "participants.tsv", rows, COLUMNS)
    return out


@pytest.fixture(scope="module", autouse=True)
def coarse_segmenter():
    """The segmenters of these tests see the grid of the small brains; others see theirs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(segmenter, "segmenter_grid", lambda net: GRID)
        yield


@pytest.fixture(scope="module")
def segmenter_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("segmenter")
    TissueSegmenter((8, 8), groups=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(prepared, segmenter_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    brain2mm_like().save_pretrained(folder / "model")
    config = Evaluation(
        data=[str(prepared)],
        model=str(folder / "model"),
        segmenter=str(segmenter_folder),
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
        "spectrum": 4, "two_sample": 3, "privacy": 6, "diversity": 6, "covariates": 8,
    }  # fmt: skip
    assert all((out / f"{name}.png").stat().st_size > 1000 for name in ("mosaic", "outlined"))
    assert json.loads((out / "summary.json").read_text()) == summary
    assert "| white matter |" in (out / "summary.md").read_text()
    assert "| training scans | n/a [n/a, n/a] |" in (out / "summary.md").read_text()
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


def test_what_is_outside_is_clamped_and_noted(evaluated):
    first, second = read_table(evaluated[2] / "subjects.tsv")
    assert (float(first["age"]), first["note"]) == (80, "age: given, 93 years clamped to 80")
    assert (float(second["age"]), float(second["sex"]), second["note"]) == (80, 1, "n/a")


def test_of_whom_less_is_known_than_training_told_is_named_and_left_out(evaluated, prepared):
    _, summary, _ = evaluated
    assert summary["subjects_left_out"] == ["sub-06"] and summary["subjects"] == 2
    everyone = load_prepared(prepared, split="test")
    with pytest.warns(VCMWarning, match=r"1 of 3 .* told .* sub-06 \(no sex, age\)"):
        kept = as_trained(everyone, brain2mm_like().input_rule)
    assert [s.subject for s in kept] == ["sub-04", "sub-05"]
    assert as_trained(everyone, maisi_like().input_rule) == everyone


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
        ({"split": "train"}, "split is train, but realism and privacy"),
    ],
)
def test_a_bad_configuration_is_refused_in_words(evaluated, change, reason):
    with pytest.raises(VCMError, match=reason):
        evaluate_files(replace(evaluated[0], **change))


def copied(evaluated, tmp_path):
    """A configuration that writes into a copy of the results, and that."""
    config, _, out = evaluated
    shutil.copytree(out, tmp_path / "out")
    return replace(config, out=str(tmp_path / "out")), tmp_path / "out"


def test_a_table_that_an_earlier_evaluation_alone_has_does_not_stay(
    evaluated, tmp_path, monkeypatch
):
    """As that of ages, where the model of before was told one."""
    config, out = copied(evaluated, tmp_path)
    (out / "mine.tsv").write_text("mine")
    monkeypatch.setattr("vcm.evaluation.evaluate.age_requests", lambda *given: [])
    assert evaluate_files(config)["covariates"] == {}
    assert not (out / "covariates.tsv").exists() and (out / "subjects.tsv").exists()
    assert (out / "mine.tsv").exists() and "covariates.tsv" not in listed_files(
        out / "summary.json"
    )


def test_samples_of_another_saved_scheduler_are_not_taken(evaluated, tmp_path):
    """Its weights are the same, and so is its name, "saved"."""
    config, out = copied(evaluated, tmp_path)
    samples = sorted((out / "samples").rglob("*.npy"))
    before = [np.load(path) for path in samples]
    other = load_pipeline(config.model)
    other.scheduler = other.saved_scheduler = make_scheduler("ddpm")
    other.save_pretrained(tmp_path / "model")
    evaluate_files(replace(config, model=str(tmp_path / "model")))
    same = [np.array_equal(np.load(p), b) for p, b in zip(samples, before, strict=True)]
    assert not any(same)


def test_the_split_is_named_as_it_is(evaluated, prepared, tmp_path):
    config, out = copied(evaluated, tmp_path)
    shutil.copytree(prepared, tmp_path / "prepared")
    table = tmp_path / "prepared" / "participants.tsv"
    table.write_text(table.read_text().replace("\ttest\t", "\tvalidation\t"))
    evaluate_files(replace(config, data=[str(tmp_path / "prepared")], split="validation"))
    for name in ("summary.md", "report.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "2 subjects of split validation" in text and "2 test subjects" not in text


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("finer", lambda data: np.pad(data, 8), "was prepared on"),
        ("same", lambda data: data, "hold the same image"),
    ],
)
def test_training_scans_of_every_folder_are_looked_at(
    evaluated, prepared, tmp_path, name, change, reason
):
    """The second folder has no test subject."""
    for subject in ("sub-03", "sub-04"):
        for path in (prepared / subject).iterdir():
            given = read_volume(path)
            data = change(np.asarray(given.data)).astype(given.data.dtype)
            write_volume(Volume(data, given.affine), tmp_path / name / subject / path.name)
        if name == "same":
            shutil.copytree(prepared / subject, tmp_path / name / subject, dirs_exist_ok=True)
    rows = [
        r
        for r in read_table(prepared / "participants.tsv")
        if r["participant_id"] in ("sub-03", "sub-04")
    ]
    write_table(
        tmp_path / name / "participants.tsv", [r | {"split": "train"} for r in rows], COLUMNS
    )
    config = replace(evaluated[0], data=[str(prepared), str(tmp_path / name)])
    with pytest.raises(VCMError, match=reason):
        evaluate_files(config)


def small_module(latent_channels):
    """A module of random weights that reads the ventricles, on latents of 1/8 or 1/4 of the grid."""
    patch = 4 if latent_channels == 3 else 2
    return tiny_module(1, latent_channels=latent_channels, encoder_patch=patch)


def test_a_model_is_sampled_as_it_recommends_where_nothing_is_said(evaluated):
    assert "scheduler: saved" in (evaluated[2] / "config.yaml").read_text()
    pipeline = brain2mm_like()
    pipeline.register_to_config(sampling={"scheduler": "dpm++-karras", "steps": 7})
    plain = as_recommended(Evaluation(), pipeline)
    assert (plain.scheduler, plain.steps) == ("dpm++-karras", 7)
    said = as_recommended(Evaluation(scheduler="ddim", steps=3), pipeline)
    assert (said.scheduler, said.steps) == ("ddim", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "scheduler", "arms", "told"),
    [
        (brainldm_like, "ddim", {"age only"}, {"sex", "age", "ventricular_volume", "brain_volume"}),
        (maisi_like, "flow", set(), {"spacing_x", "spacing_y", "spacing_z", "contrast"}),
    ],
)
def test_other_families_are_told_what_training_told_and_measured_in_millilitres(
    prepared, segmenter_folder, tmp_path, make, scheduler, arms, told
):
    frozen = make()
    channels = frozen.latent_shape[0]
    frozen.with_module(small_module(channels), ["ventricles"]).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    config = Evaluation(
        data=[str(prepared)], model=str(tmp_path / "model"), segmenter=str(segmenter_folder),
        out=str(out), steps=2, covariate_samples=1, scheduler=scheduler,
    )  # fmt: skip
    summary = evaluate_files(config)
    assert set(summary["covariates"]) == arms
    first, *_ = read_table(out / "subjects.tsv")
    assert set(first) == {"subject", "note", *told}
    if make is maisi_like:
        assert {float(first[f"spacing_{a}"]) for a in "xyz"} == {5.0}
        return
    assert float(first["ventricular_volume"]) == 0.5, "what it means in mL is not known"
    net = segmenter.load_segmenter(str(segmenter_folder))
    for row in read_table(out / "covariates.tsv"):
        (sample,) = (out / "samples").glob(
            f"age-only/age-{'25' if float(row['age']) < 50 else '75'}*.npy"
        )
        image = np.load(sample).astype(np.float32)
        classes = net.classes(torch.from_numpy(image)[None, None])[0].numpy()
        measured = (classes == 3).sum() * 5.0**3 / 1000
        assert float(row["ventricles_measured"]) == pytest.approx(measured)


def test_results_of_another_model_are_replaced_only_if_asked(evaluated):
    config, _, out = evaluated
    changed = load_pipeline(config.model)
    with torch.no_grad():
        next(changed.module.parameters()).add_(0.1)
    changed.save_pretrained(out.parent / "other")
    other = replace(config, model=str(out.parent / "other"), limit=1)
    with pytest.raises(VCMError, match="was not made from the inputs"):
        evaluate_files(other)


def test_measures_of_another_segmenter_are_replaced_only_if_asked(evaluated):
    config, summary, out = evaluated
    assert len(summary["segmenter_sha256"]) > 0
    TissueSegmenter((8, 8), groups=4).save_pretrained(out.parent / "another")
    with pytest.raises(VCMError, match="was not made from the inputs"):
        evaluate_files(replace(config, segmenter=str(out.parent / "another"), limit=1))


def test_a_model_of_other_voxels_is_refused(evaluated, tiny_model):
    with pytest.raises(VCMError, match="was prepared on"):
        evaluate_files(replace(evaluated[0], model=str(tiny_model)))
