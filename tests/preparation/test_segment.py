import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from source_folders import bids

from vcm.errors import VCMError
from vcm.imaging.conditions import class_volumes
from vcm.imaging.contrast import Contrast
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import model_grid
from vcm.imaging.volume import Volume, read_volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.preparation.segment import label_prepared, segment, segment_file


class Thresholds(torch.nn.Module):
    """Names white and grey matter by their intensity, so that the answer is known."""

    device = torch.device("cpu")
    config: ClassVar[dict[str, float]] = {}

    def classes(self, image):
        assert image.shape == (1, 1, 80, 112, 80) and image.min() >= 0 and image.max() == 1
        return ((image > 0.2).byte() * 2 - (image > 0.7).byte())[:, 0]


@pytest.mark.usefixtures("no_registration")
def test_a_scan_is_labelled_on_its_own_voxels_from_python(tmp_path):
    scan = read_volume(bids(tmp_path, [(1, -2, 0)]) / "sub-00" / "anat" / "sub-00_T1w.nii.gz")
    found = segment(scan, Thresholds())
    assert found.data.dtype == np.uint8 and found.data.shape == scan.data.shape
    np.testing.assert_array_equal(found.affine, scan.affine)
    high = np.percentile(scan.data[scan.data > 0], 99.5)
    sure = scan.data > 0.85 * high
    assert (found.data[sure] == 1).mean() > 0.85 and (found.data[scan.data == 0] > 0).mean() < 0.01
    volumes = class_volumes(found.data, found.grid.voxel_volume)
    assert 1000 < sum(volumes.values()) < 2000


def test_a_prepared_scan_is_labelled_inside_its_brain_alone():
    grid = model_grid(1.0)
    image = np.zeros(grid.shape, np.float32)
    image[41:120, 41:180, 41:120] = 1
    classes, at_2mm = label_prepared(Volume(image, grid.affine), Thresholds())
    assert classes.data.shape == grid.shape and at_2mm.data.shape == (80, 112, 80)
    assert (classes.data[image == 0] == 0).all() and (classes.data[image == 1] > 0).mean() > 0.97


def test_the_network_is_given_its_own_device(monkeypatch):
    """A segmenter on another device than the CPU gets its tensors there."""
    net = TissueSegmenter((2, 2, 2, 2), groups=1).to("meta")
    seen = []
    monkeypatch.setattr(
        TissueSegmenter,
        "classes",
        lambda self, image: (seen.append(image.device.type), torch.zeros(1, 80, 112, 80).byte())[1],
    )
    grid = model_grid()
    label_prepared(Volume(np.ones(grid.shape, np.float32), grid.affine), net)
    assert seen == ["meta"]


@pytest.mark.usefixtures("no_registration")
def test_a_label_map_replaces_neither_its_scan_nor_that_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr("vcm.preparation.segment.load_segmenter", lambda name: Thresholds())
    source = bids(tmp_path / "bids", [(0, 0, 0), (3, 0, 0)])
    one, two = (source / f"sub-0{n}" / "anat" / f"sub-0{n}_T1w.nii.gz" for n in (0, 1))
    out, before = tmp_path / "aseg.nii.gz", one.read_bytes()
    assert segment_file(one, out, "segmenter2mm")["white matter"] > 100
    segment_file(one, out, "segmenter2mm")  # the same again
    for scan, target, word in [(one, one, "is an input"), (two, out, "not made from the inputs")]:
        with pytest.raises(VCMError, match=word):
            segment_file(scan, target, "segmenter2mm")
    assert one.read_bytes() == before
    segment_file(two, out, "segmenter2mm", overwrite=True)
    for scan, target, word in [
        (one, tmp_path / "map.txt", "no name of a label map"),
        (tmp_path / "none.nii", out, "does not exist"),
    ]:
        with pytest.raises(VCMError, match=word):
            segment_file(scan, target, "segmenter2mm")


@pytest.mark.usefixtures("no_registration")
def test_a_mask_of_another_scan_does_not_stay_beside_a_label_map(tmp_path, monkeypatch):
    monkeypatch.setattr("vcm.preparation.segment.load_segmenter", lambda name: Thresholds())
    source = bids(tmp_path / "bids", [(0, 0, 0), (3, 0, 0)])
    one, two = (source / f"sub-0{n}" / "anat" / f"sub-0{n}_T1w.nii.gz" for n in (0, 1))
    out, mask = tmp_path / "brain_dseg.nii.gz", tmp_path / "brain_desc-brain_mask.nii.gz"
    with monkeypatch.context() as patch:  # as if the skull had been on
        patch.setattr(
            "vcm.preparation.segment.find_brain",
            lambda scan: replace(find_brain(scan), method="deepbet"),
        )
        segment_file(one, out, "segmenter2mm")
    assert mask.is_file()
    segment_file(two, out, "segmenter2mm", overwrite=True)
    assert not mask.exists()
    assert [*json.loads((tmp_path / "brain_dseg.json").read_text("utf-8"))["Files"]] == [out.name]


@pytest.mark.usefixtures("no_registration")
@pytest.mark.parametrize(
    ("name", "contrast", "chosen"),
    [
        ("sub-00_T1w", Contrast("T1w", "file name", 1.2), "segmenter2mm"),
        ("sub-00_T1w", Contrast("T1w", "file name", 0.1), "anysegmenter2mm"),
        ("scan", Contrast("T1w", "intensities", 1.2), "segmenter2mm"),
        ("scan", Contrast("T1w", "intensities", 0.6, 0.12), "anysegmenter2mm"),
        ("sub-00_T2w", Contrast("T2w", "file name", -1.0), "anysegmenter2mm"),
    ],
)
def test_the_contrast_chooses_the_segmenter(tmp_path, monkeypatch, name, contrast, chosen):
    """Named T1w and not like it, or like it by weak intensities alone: the one for any contrast."""
    asked = []
    monkeypatch.setattr(
        "vcm.preparation.segment.load_segmenter", lambda n: (asked.append(n), Thresholds())[1]
    )
    monkeypatch.setattr("vcm.preparation.segment.find_contrast", lambda *_: contrast)
    monkeypatch.setattr("vcm.preparation.segment.fingerprints", lambda _: {})
    scan = bids(tmp_path, [(0, 0, 0)]) / "sub-00" / "anat" / "sub-00_T1w.nii.gz"
    given = scan.rename(tmp_path / f"{name}.nii.gz")
    segment_file(given, tmp_path / "found_dseg.nii.gz", "auto")
    told = json.loads((tmp_path / "found_dseg.json").read_text("utf-8"))
    assert asked == [chosen] and told["LabelledBy"] == chosen
    assert told["Contrast"] == contrast.name
