"""A module learns on every family of frozen models, by the same command, and samples."""

import csv

import numpy as np
import pytest
import torch
from small_brains import GRID, brainldm_like, maisi_like

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.imaging.geometry import model_grid
from vcm.imaging.prepared_set import Subject
from vcm.inputs import scan_inputs
from vcm.nets.segmenter import TissueSegmenter
from vcm.training import validation
from vcm.training.configuration import ModuleTraining
from vcm.training.module import train
from vcm.weights.load import load_pipeline

pytestmark = pytest.mark.slow

SMALL = [
    "encoder_channels=[8]", "encoder_groups=2", "unet_wing=0", "unet_channels=[8,8]", "unet_head_channels=[8,8]",
    "unet_groups=2", "unet_out_channels=8", "head_channels=8", "draws=1", "batch_size=1", "copies=1",
    "steps=6", "checkpoint_every=6", "warmup_steps=1", "tracker=none", "mixed_precision=no",
    "learning_rate=3e-3",
]  # fmt: skip


@pytest.mark.parametrize(("make", "patch"), [(maisi_like, 4), (brainldm_like, 8)])
def test_a_module_learns_on_a_published_family(small_prepared, tmp_path, monkeypatch, make, patch):
    make().save_pretrained(tmp_path / "frozen")
    TissueSegmenter((8, 8), 2).save_pretrained(tmp_path / "segmenter")
    seen = []
    segment_on = validation.segment_on
    monkeypatch.setattr(
        validation, "segment_on", lambda *given: seen.append(given[1:]) or segment_on(*given)
    )
    given = [
        f"data=[{small_prepared}]", f"model={tmp_path / 'frozen'}", f"out={tmp_path / 'run'}",
        f"cache={tmp_path / 'latents'}", "conditions=[ventricles]", f"encoder_patch={patch}", *SMALL,
        "validate_every=6", "validation_subjects=1", f"segmenter={tmp_path / 'segmenter'}",
    ]  # fmt: skip
    measured = train(load_config(ModuleTraining, None, given))
    assert np.isfinite(list(measured.values())).all()
    assert measured["steered"] < measured["frozen"], "the module taught the frozen model nothing"
    # Validation segments samples as lying on the model's voxels, here of 5 mm, whatever the segmenter's.
    ((sample, grid),) = seen
    assert sample.shape == grid.shape == GRID.shape and grid.spacing == pytest.approx((5, 5, 5))
    with (tmp_path / "run" / "validation.csv").open() as lines:
        (row,) = csv.DictReader(lines)
    assert 0 <= float(row["dice"]) <= 1 and np.isfinite([float(v) for v in row.values()]).all()
    pipeline = load_pipeline(tmp_path / "run" / "model")
    inputs = torch.tensor([[5.0, 5.0, 5.0, 9.0]]) if make is maisi_like else torch.full((1, 4), 0.5)
    options = {"num_inference_steps": 2, "output_type": "latent"}
    steered, plain = (
        pipeline(condition, inputs, generator=torch.Generator().manual_seed(0), **options).volumes
        for condition in (torch.ones(1, 1, 32, 48, 32), None)
    )
    assert torch.isfinite(steered).all() and not torch.equal(steered, plain)


def test_brainldm_is_told_sex_and_age_and_the_middle_of_what_is_not_known(tmp_path):
    rule = brainldm_like().input_rule
    subject = Subject("sub-1", "train", 25.0, "M", None, None, tmp_path)
    assert rule.needs == ("sex", "age")
    assert scan_inputs(rule, subject) == [1.0, 0.0, 0.5, 0.5]
    assert scan_inputs(maisi_like().input_rule, subject) == [5.0, 5.0, 5.0, 9.0]


def test_scans_on_another_grid_are_refused_with_the_remedy(small_prepared, tmp_path):
    pipeline = brainldm_like()
    fine = model_grid(1.0)
    pipeline.register_to_config(grid={"shape": list(fine.shape), "affine": fine.affine.tolist()})
    pipeline.save_pretrained(tmp_path / "fine")
    given = [f"data=[{small_prepared}]", f"model={tmp_path / 'fine'}", *SMALL]
    with pytest.raises(VCMError, match="prepare the scans again, for"):
        train(load_config(ModuleTraining, None, given))
