"""A model of 1 mm is measured in millimetres and millilitres, by a segmenter that knows 2 mm alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_brains import HEADER
from tiny_networks import tiny_pipeline

from vcm.evaluation.evaluate import evaluate
from vcm.evaluation.samples import SampleStore
from vcm.imaging.conditions import CLASS_NAMES
from vcm.imaging.geometry import centred_grid, model_grid
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import Volume, write_volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.training.validation import Validation

#: 32 x 48 x 32 mm about the middle of the brain: few voxels, each of 0.001 mL.
GRID = centred_grid((32, 48, 32), 1.0, tuple(model_grid().centre), "LAS")
RADII = {"white matter": 14.0, "ventricles": 8.0}
#: Brighter further in, so that no voxel mixed of two tissues looks like a third.
INTENSITIES = {"white matter": 0.5, "ventricles": 0.9}
SEEN_BY_SEGMENTER = model_grid().shape


def millilitres(radius):
    return 4 / 3 * np.pi * radius**3 / 1000


def ball_brain():
    """(classes, image) of a ball of white matter around one of ventricles."""
    voxels = np.moveaxis(np.indices(GRID.shape), 0, -1)
    place = voxels @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]
    distance = np.linalg.norm(place - GRID.centre, axis=-1)
    classes, image = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.float32)
    for name, radius in RADII.items():
        classes[distance < radius] = CLASS_NAMES.index(name)
        image[distance < radius] = INTENSITIES[name]
    return classes, image


@pytest.fixture
def segmenter(monkeypatch):
    """Names a tissue by its intensity, and is shown voxels of 2 mm alone."""
    net = TissueSegmenter((8, 8), 2)

    def classes(image):
        assert tuple(image.shape[2:]) == SEEN_BY_SEGMENTER
        found = torch.zeros_like(image[:, 0], dtype=torch.uint8)
        for name, value in INTENSITIES.items():
            found[image[:, 0] > value - 0.22] = CLASS_NAMES.index(name)
        return found

    monkeypatch.setattr(net, "classes", classes)
    monkeypatch.setattr(net, "features", lambda image: image.mean((2, 3, 4)))
    return net


@pytest.fixture
def subjects(tmp_path):
    """One subject of each split on voxels of 1 mm."""
    classes, image = ball_brain()
    rows = [HEADER]
    for n, split in enumerate(("train", "test")):
        name = f"sub-{n}"
        for what, data in {"T1w": image, "dseg": classes}.items():
            write_volume(Volume(data, GRID.affine), tmp_path / name / f"{name}_{what}.nii.gz")
        rows.append(f"{name}\t{split}\t50\tF\t20\t1200")
    (tmp_path / "participants.tsv").write_text("\n".join(rows) + "\n")
    return {split: load_prepared(tmp_path, split=split) for split in ("train", "test")}


class Perfect(SampleStore):
    """Draws nothing: every sample is that brain."""

    def volumes(self, requests, title):
        return [ball_brain()[1] for _ in requests]


def test_evaluate_measures_a_model_of_1_mm(subjects, segmenter, tmp_path):
    pipeline = tiny_pipeline(GRID)
    store = Perfect(pipeline, tmp_path / "samples", "", "ddim", 1)
    found = evaluate(pipeline, segmenter, subjects["test"], subjects["train"], store, 0, 1)
    for row in found.tables["covariates"]:
        assert row["ventricles_measured"] == pytest.approx(millilitres(8), rel=0.1)
        assert row["brain_measured"] == pytest.approx(millilitres(14) - millilitres(8), rel=0.1)
    for row in found.tables["adherence"]:
        if row["class"] in RADII:
            assert row["dice_real"] > 0.85 and row["dice_controlled"] > 0.85
    for row in found.tables["spectrum"]:
        bands = [value for name, value in row.items() if name not in ("arm", "subject")]
        assert bands == pytest.approx([1.0] * len(bands)), (
            "0.2 per mm is half of what 1 mm can show"
        )


def test_validation_measures_a_model_of_1_mm(subjects, segmenter, tmp_path, monkeypatch):
    sample = ball_brain()[1]
    watch = Validation(
        SimpleNamespace(device=torch.device("cpu")), None, subjects["test"],
        SimpleNamespace(grid=GRID), segmenter, tmp_path / "validation.png",
    )  # fmt: skip
    monkeypatch.setattr(Validation, "_condition", lambda self, n: [])
    monkeypatch.setattr(Validation, "_losses", lambda self, n, condition: [0.0])
    monkeypatch.setattr(Validation, "_sample", lambda self, n, condition: sample * 0.99)
    measured = watch.measure(0)
    assert measured.dice > 0.85
    # Against the intensities of the scan, inside its brain.
    inside = sample[sample > 0]
    assert measured.psnr == pytest.approx(-10 * np.log10(np.square(0.01 * inside).mean()), rel=1e-3)
