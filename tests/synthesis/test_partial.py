"""Any subset of a label map and a partial image: together, either alone, in the scan's own space."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from small_brains import GRID as SMALL_GRID
from small_brains import aligned_by_header, write_files
from tiny_networks import tiny_pipeline

from vcm.cli import main as cli
from vcm.errors import VCMError
from vcm.imaging import placing
from vcm.imaging.extraction import Brain
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.placing import place_label_map, place_partial, unconditioned
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.derivation import synthesis_derivation
from vcm.synthesis.synthesize import synthesize_files

GRID = Grid(
    (100, 120, 100), np.array([[0, 2, 0, -100.0], [-2, 0, 0, 85.0], [0, 0, 2, -70], [0, 0, 0, 1]])
)


@pytest.fixture(scope="module")
def head(tmp_path_factory, head_map):
    """The template on a turned grid: map, image, and a mask that leaves the outer shell known."""
    folder = tmp_path_factory.mktemp("head")
    template = common_template()
    image = resample(Volume(template.data, template.affine), GRID, order=1)
    classes = resample(Volume(head_map[0], head_map[1]), GRID, order=0).astype(np.int16)
    image = np.where(classes > 0, 600 * image, 0).astype(np.float32)
    shell = distance_transform_edt(classes > 0, sampling=2.0) <= 14
    for name, data in (("dseg", classes), ("T1w", image), ("mask", shell.astype(np.uint8))):
        write_volume(Volume(data, GRID.affine), folder / f"sub-1_{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model):
    from tiny_networks import steered_by, tiny_module

    from vcm.weights.load import load_pipeline

    pipeline, module = load_pipeline(tiny_model), tiny_module(8, 2, seed=1)
    torch.nn.init.normal_(module.mlp_beta.weight, std=0.1)
    steered_by(pipeline, module, ["classes", "partial"])
    folder = tmp_path_factory.mktemp("models") / "both"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def synthesize(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["vcm", "synthesize", *map(str, arguments), "--labels", "vcm8"]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


@pytest.mark.slow
def test_any_subset_is_obeyed_on_the_voxels_that_it_came_on(synthesize, head, model, tmp_path):
    label = head / "sub-1_dseg.nii.gz"
    part = ["--partial", head / "sub-1_T1w.nii.gz", "--known", head / "sub-1_mask.nii.gz"]
    found = {}
    for name, given in {"map": [label], "both": [label, *part], "part": part}.items():
        out = tmp_path / name
        assert synthesize(*given, "--model", model, "--steps", 2, "--out", out) == 0
        (path,) = out.glob("*seed-0_T1w.nii.gz")
        found[name] = read_volume(path)
        np.testing.assert_allclose(found[name].affine, GRID.affine, atol=1e-4)
        assert found[name].data.shape == GRID.shape
    assert np.abs(found["map"].data - found["both"].data).max() > 1e-3
    assert np.abs(found["part"].data - found["both"].data).max() > 1e-3


@pytest.mark.slow
def test_the_part_lies_where_the_map_does(head):
    """The known shell of the image and the map's border meet on the model's grid."""
    grid = model_grid()
    image, known = head / "sub-1_T1w.nii.gz", head / "sub-1_mask.nii.gz"
    place = place_label_map(head / "sub-1_dseg.nii.gz", "vcm8", grid)
    both = place_partial(image, known, place)
    alone = place_partial(image, known, unconditioned(grid))
    brain = both.classes > 0
    for placed in (both, alone):
        values, mask = placed.partial
        assert (values[mask == 0] == 0).all() and 0.9 < values.max() <= 1
        centre = tuple(n // 2 for n in grid.shape)
        assert mask[centre] == 0
        shown = values > 0.05
        assert (shown & brain).sum() > 0.95 * shown.sum()
    assert alone.placement.header is not None and alone.volumes is None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--partial", "sub-1_T1w.nii.gz"], "known go together"),
        (["--partial", "sub-1_T1w.nii.gz", "--known", "none.nii.gz"], "does not exist"),
    ],
)
def test_what_is_missing_is_said(synthesize, head, model, tmp_path, capsys, arguments, word):
    given = [head / a if a.startswith("sub-1") else a for a in arguments]
    assert synthesize(*given, "--model", model, "--out", tmp_path / "out") == 2
    assert word in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_module_that_reads_no_partial_image_is_not_given_one(
    synthesize, head, tiny_model, tmp_path, capsys
):
    part = ["--partial", head / "sub-1_T1w.nii.gz", "--known", head / "sub-1_mask.nii.gz"]
    assert synthesize(*part, "--model", tiny_model, "--out", tmp_path / "out") == 2
    assert "expects classes" in capsys.readouterr().err


@pytest.fixture
def with_skull(tmp_path, monkeypatch):
    """A scan whose brain a network finds, a part of it to keep, and a module that reads such parts."""
    aligned_by_header(monkeypatch)
    files = write_files(tmp_path)
    scan = read_volume(files["scan"])
    write_volume(scan.with_data((scan.data > 0).astype(np.float32)), tmp_path / "known.nii.gz")
    monkeypatch.setattr(
        placing, "find_brain", lambda image: Brain(image.data > 0, "deepbet 1", 1300.0)
    )
    tiny_pipeline(SMALL_GRID, "partial", 2).save_pretrained(tmp_path / "model")
    return Synthesis(
        partial=files["scan"], known=tmp_path / "known.nii.gz", model=str(tmp_path / "model"), steps=1,
        out=tmp_path / "out",
    )  # fmt: skip


def test_the_mask_of_the_brain_replaces_neither_an_input_nor_a_file_of_another(with_skull):
    name = "sub-1_T1w_desc-brain_mask.nii.gz"
    synthesize_files(with_skull)
    found = with_skull.out / name
    assert found.is_file()
    synthesize_files(with_skull)  # its own
    mine = with_skull.known.with_name(name)
    mine.write_bytes(with_skull.known.read_bytes())
    before = mine.read_bytes()
    beside = replace(with_skull, out=mine.parent)
    with pytest.raises(VCMError, match="is an input of this command"):
        synthesize_files(replace(beside, known=mine, overwrite=True))
    with pytest.raises(VCMError, match="was not made from the inputs given now"):
        synthesize_files(beside)
    assert mine.read_bytes() == before and not list(mine.parent.glob("*synthetic*"))


@pytest.mark.parametrize("name", ["partial", "known"])
def test_a_part_of_one_head_is_not_taken_for_all_of_a_dataset(name, tmp_path):
    config = Synthesis(tmp_path, **{name: tmp_path / "scan.nii.gz"})
    with pytest.raises(VCMError, match=f"{name} belongs to a single head"):
        synthesis_derivation(config)
