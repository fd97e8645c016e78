import json
import shutil
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass
from scipy.spatial.transform import Rotation
from small_heads import cut, head

from vcm.checksums import record_checksums
from vcm.cli.main import run_command
from vcm.errors import VCMError, VCMWarning
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.nets.detail import DetailNet
from vcm.upsampling.detail import head_detail
from vcm.upsampling.example import example_truth
from vcm.upsampling.upsample import upsample as upsample_volumes
from vcm.weights.load import load_pipeline

PLACES = {
    "straight": {},
    "oblique and flipped": {
        "turn": (7, -5, 9), "shift": (12, -20, 15), "flips": (-1, 1, -1), "order": (1, 2, 0),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def upsample(thick_model):
    def run(*arguments):
        options = ["--model", thick_model, "--spacing", "2", "--samples", "2", "--steps", "2"]
        return run_command(["upsample", *map(str, [*options, *arguments])])

    return run


@pytest.fixture(scope="module")
def straight(upsample, tmp_path_factory):
    """Axial slices of a head that stands straight, and the folder of what comes of them."""
    folder = tmp_path_factory.mktemp("straight")
    path = write_volume(cut(head(), "axial", 6.0)[0], folder / "sub-1_T1w.nii.gz")
    assert upsample(path, "--out", folder / "out") == 0
    return path, folder / "out"


@pytest.mark.parametrize("place", PLACES)
def test_the_result_lies_where_the_head_lies_and_explains_the_slices(
    upsample, straight, tmp_path, place
):
    """A bright landmark is found within half a millimetre of where it was put, in the world."""
    whole = head(**PLACES[place])
    mark = np.array(whole.data.shape) // 2 + [6, -4, 5]
    centre = whole.affine[:3, :3] @ mark + whole.affine[:3, 3]
    index = np.indices(whole.data.shape).reshape(3, -1).T - mark
    bump = 1500 * np.exp(-0.5 * (index**2).sum(1) / 2.0**2).reshape(whole.data.shape)
    marked = whole.with_data((whole.data + bump).astype(np.float32))
    plain, out = tmp_path / "plain", tmp_path / "out"
    if place == "straight":
        plain = straight[1]
    else:
        path = write_volume(cut(whole, "axial", 6.0)[0], tmp_path / "sub-1_T1w.nii.gz")
        assert upsample(path, "--out", plain, "--samples", "0") == 0
    thick, _ = cut(marked, "axial", 6.0)
    path = write_volume(thick, tmp_path / "marked" / "sub-1_T1w.nii.gz")
    assert upsample(path, "--out", out) == 0
    found = read_volume(out / "sub-1_desc-upsampled_T1w.nii.gz")
    assert found.grid.spacing == pytest.approx((2, 2, 2), abs=1e-4)
    np.testing.assert_allclose(found.grid.centre, thick.grid.centre, atol=1e-3)
    assert found.grid.orientation == thick.grid.orientation
    rise = found.data - read_volume(plain / "sub-1_desc-upsampled_T1w.nii.gz").data
    high = np.where(rise > 0.3 * rise.max(), rise, 0)
    world = found.affine[:3, :3] @ center_of_mass(high) + found.affine[:3, 3]
    np.testing.assert_allclose(world, centre, atol=0.5)

    record = json.loads((out / "sub-1_desc-upsampled_T1w.json").read_text())
    residual = record["ResidualRMS"]
    assert residual["after"] < 0.3 * residual["before"]
    assert "axial slices 6 mm apart" in record["Acquisition"]
    names = {p.name for p in out.iterdir()}
    assert {f"sub-1_desc-upsampled_seed-{k}_T1w.nii.gz" for k in (0, 1)} < names
    assert {"sub-1_desc-generatedT1w_mask.nii.gz", "sub-1_desc-upsampledT1w_comparison.png"} < names
    spread = read_volume(out / "sub-1_desc-upsampledstd_T1w.nii.gz").data
    generated = read_volume(out / "sub-1_desc-generatedT1w_mask.nii.gz").data
    assert spread[generated > 0].mean() > 10 * spread[generated == 0].mean()
    # What came out, thick again, is what was measured.
    again, _ = cut(found, "axial", 6.0)
    inside = thick.data > 100
    error = np.abs(again.data - thick.data)[inside].mean()
    assert error < 0.03 * thick.data[inside].mean()
    # Interpolation beside the bright landmark would go below 0.
    assert found.data.min() == pytest.approx(thick.data.min(), abs=1e-3)


def test_the_same_command_gives_the_same_files(upsample, straight, tmp_path):
    path, out = straight
    assert upsample(path, "--out", tmp_path) == 0
    one, two = ({p.name: p.read_bytes() for p in f.glob("*.nii.gz")} for f in (out, tmp_path))
    assert one == two


@pytest.mark.slow
def test_samples_change_nothing_of_the_result(upsample, straight, tmp_path):
    """Without them, and without a detail network, nothing tells the uncertainty, and none is written."""
    path, two = straight
    folders = {0: tmp_path / "0", 1: tmp_path / "1", 2: two}
    for samples in (0, 1):
        assert upsample(path, "--out", folders[samples], "--samples", samples) == 0
    name = "sub-1_desc-upsampled_T1w.nii.gz"
    assert len({(folder / name).read_bytes() for folder in folders.values()}) == 1
    written = [len(list(folder.glob("*.nii.gz"))) for folder in folders.values()]
    assert written == [2, 3, 5]
    record = json.loads((folders[0] / "sub-1_desc-upsampled_T1w.json").read_text())
    assert record["Uncertainty"].startswith("none")


def regridded(whole: Volume, turn) -> Volume:
    """The same head, where it is, on a grid that is turned about its centre."""
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine = whole.affine.copy()
    affine[:3, :3] = rotation @ affine[:3, :3]
    middle = (np.array(whole.data.shape) - 1) / 2
    affine[:3, 3] = whole.grid.centre - affine[:3, :3] @ middle
    grid = Grid(whole.grid.shape, affine)
    return Volume(resample(whole, grid, order=1).astype(np.float32), affine, source="turned")


@pytest.mark.slow
@pytest.mark.parametrize("turn", [(4, -6, 5), pytest.param((0, 0, 0), marks=pytest.mark.slow)])
def test_several_scans_of_one_head_are_combined(upsample, straight, tmp_path, turn):
    whole, (axial, one) = head(), straight
    thick, _ = cut(regridded(whole, turn), "sagittal", 6.0)
    sagittal = write_volume(thick, tmp_path / "sub-1_acq-sagittal_T1w.nii.gz")
    assert upsample(axial, sagittal, "--out", tmp_path / "both") == 0
    errors = []
    for out in (one, tmp_path / "both"):
        found = read_volume(out / "sub-1_desc-upsampled_T1w.nii.gz")
        truth = resample(whole, found.grid, order=1)
        errors.append(np.sqrt(np.square(found.data - truth)[truth > 0].mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow
def test_without_a_network_other_contrasts_are_interpolated_and_this_is_said(
    upsample, tmp_path, capsys
):
    other, _ = cut(inverted(head()), "axial", 6.0)
    for name, contrast in (("sub-1_T2w", "T2w"), ("sub-1_T1w", "T1w")):
        path = write_volume(other, tmp_path / f"{name}.nii.gz")
        out = tmp_path / name
        assert upsample(path, "--detail", "none", "--out", out) == 0
        said = capsys.readouterr().err
        how = "is T2w by its file name" if contrast == "T2w" else "does not look T1-weighted"
        assert how in said and "without detail from the model" in said
        record = json.loads((out / f"{name[:-4]}_desc-upsampled_{contrast}.json").read_text())
        assert (record["Contrast"], record["ModelTookPart"]) == (contrast, False)
        assert not record["FrozenModelTookPart"]
        assert record["ResidualRMS"]["after"] < 0.7 * record["ResidualRMS"]["cubic"]
        assert sorted(p.name for p in out.glob("*.nii.gz")) == [
            f"sub-1_desc-generated{contrast}_mask.nii.gz", f"sub-1_desc-upsampled_{contrast}.nii.gz"
        ]  # fmt: skip
        found = read_volume(out / f"sub-1_desc-upsampled_{contrast}.nii.gz").data
        assert found.min() >= 0 and found.max() <= other.data.max() * (1 + 1e-6)
    t1w = write_volume(cut(head(), "axial", 6.0)[0], tmp_path / "sub-2_T1w.nii.gz")
    assert upsample(t1w, tmp_path / "sub-1_T2w.nii.gz", "--out", tmp_path / "both") == 2
    assert "give scans of one contrast" in capsys.readouterr().err


def test_what_is_said_of_another_contrast_is_what_is_done(thick_model):
    """Without the projection no network adds detail, and nothing is made consistent."""
    other = replace(cut(inverted(head()), "axial", 6.0)[0], source="sub-1_T2w.nii.gz")
    net = DetailNet((4, 4, 4, 4, 4, 4), 2, expects=False)
    with pytest.warns(VCMWarning, match="without detail from any network, as consistency is false"):
        made = upsample_volumes(
            other, load_pipeline(thick_model), spacing=2.0, samples=0, detail=net, consistency=False
        )
    assert not made.model_took_part and np.array_equal(made.mean, made.scan.interpolated())


@pytest.mark.slow
def test_a_network_adds_the_detail_of_other_contrasts(upsample, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(head_detail, "TRAINED", 2.0)  # a small grid
    torch.manual_seed(0)
    net = DetailNet((4, 4, 4, 4, 4, 4), 2, expects=False)
    torch.nn.init.normal_(net.head.weight, std=0.3)
    net.save_pretrained(tmp_path / "net")
    record_checksums(tmp_path / "net")
    path = write_volume(cut(inverted(head()), "axial", 6.0)[0], tmp_path / "sub-1_T2w.nii.gz")
    out = tmp_path / "out"
    assert upsample(path, "--detail", tmp_path / "net", "--out", out) == 0
    assert "its detail comes from a network that knows no contrast" in capsys.readouterr().err
    record = json.loads((out / "sub-1_desc-upsampled_T2w.json").read_text())
    assert record["ModelTookPart"] and not record["FrozenModelTookPart"]
    assert record["DetailSHA256"]
    std, mask = (
        read_volume(out / f"sub-1_desc-{n}.nii.gz").data
        for n in ("upsampledstd_T2w", "generatedT2w_mask")
    )
    assert (std[mask > 0] > 0).all() and std[mask == 0].mean() < 0.1 * std[mask > 0].mean()
    weights = tmp_path / "net" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert upsample(path, "--detail", tmp_path / "net", "--out", tmp_path / "not") == 2
    assert "is not what it was when the model was saved" in capsys.readouterr().err


def inverted(volume: Volume) -> Volume:
    return volume.with_data(np.where(volume.data > 0, 800 - volume.data, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("make", "options", "word"),
    [
        (lambda: head(), [], "no axis that stands out"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--slice-axis", "oblique"], "unknown"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--noise", "0"], "noise is 0"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--output", "best"], "mean or sample"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--output", "sample", "--samples", "0"], "draw at"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--slice-thickness", "40"], "thickness"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--age", "200"], "age is 200"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--seed", str(2**63 - 1)], "seed is"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--whole-head", "--detail", "none"], "detail is"),
        (lambda: cut(head(), "axial", 6.0)[0], ["--whole-head", "--output", "sample"], "is sample"),
    ],
)
def test_what_cannot_be_upsampled_is_refused(upsample, tmp_path, capsys, make, options, word):
    path = write_volume(make(), tmp_path / "sub-1_T1w.nii.gz")
    assert upsample(path, "--out", tmp_path / "out", *options) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_module_that_reads_something_else_is_refused(straight, tiny_model, capsys):
    assert run_command(["upsample", str(straight[0]), "--model", str(tiny_model)]) == 2
    assert "expects classes, not thick" in capsys.readouterr().err


def test_units_codes_and_header_come_from_the_scan(upsample, tmp_path):
    thick, _ = cut(head(), "axial", 6.0)
    image = nib.Nifti1Image(thick.data, thick.affine)
    image.set_sform(thick.affine, 2)
    image.set_qform(thick.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "sub-1_T1w.nii.gz")
    options = ("--samples", "0", "--out", tmp_path / "out")
    assert upsample(tmp_path / "sub-1_T1w.nii.gz", *options) == 0
    found = nib.load(tmp_path / "out" / "sub-1_desc-upsampled_T1w.nii.gz")
    assert int(found.header["sform_code"]) == 2 and int(found.header["qform_code"]) == 1
    values, given = found.get_fdata(), thick.data
    assert np.median(values[values > 50]) == pytest.approx(np.median(given[given > 50]), rel=0.1)


@pytest.mark.slow
def test_the_example_is_upsampled_where_the_template_lies(upsample, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vcm", "upsample", "example"])
    assert upsample("example", "--out", tmp_path) == 0
    thick = nib.load(tmp_path / "tpl-MNI152_acq-6mm_T1w.nii.gz")
    assert np.allclose(thick.header.get_zooms(), (1, 1, 6))
    found = read_volume(tmp_path / "tpl-MNI152_acq-6mm_desc-upsampled_T1w.nii.gz")
    truth = resample(example_truth(), found.grid, order=1)
    brain = truth > 100
    assert np.corrcoef(found.data[brain], truth[brain])[0, 1] > 0.8
    sidecar = tmp_path / "tpl-MNI152_acq-6mm_desc-upsampled_T1w.json"
    assert "example" in json.loads(sidecar.read_text())["Command"]


def test_a_refusal_leaves_no_example_behind(upsample, tmp_path):
    assert upsample("example", "--out", tmp_path / "out", "--detail-noise", "0") == 2
    assert not (tmp_path / "out").exists()


def test_from_python_it_is_what_the_command_writes(straight, thick_model):
    """On volumes in memory, and the pipeline is left as it was."""
    path, out = straight
    pipeline = load_pipeline(thick_model)
    scheduler, steps = pipeline.scheduler, []
    result = upsample_volumes(
        read_volume(path), pipeline, spacing=2, samples=2, steps=2,
        on_step=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    names = ("T1w", "seed-1_T1w", "std_T1w")
    made = (result.volume, result.sample(1), result.uncertainty)
    for name, volume in zip(names, made, strict=True):
        joined = f"sub-1_desc-upsampled{'' if name.startswith('std') else '_'}{name}.nii.gz"
        written = read_volume(out / joined)
        np.testing.assert_array_equal(volume.data, written.data)
        np.testing.assert_allclose(volume.affine, written.affine, atol=1e-6)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert pipeline.scheduler is scheduler


def test_lost_slices_are_generated_marked_and_named(upsample, tmp_path, capsys):
    whole = head()
    thick, acquisition = cut(whole, "axial", 6.0)
    broken = thick.data.copy()
    np.moveaxis(broken, acquisition.axis, 0)[13:15] = 0
    path = write_volume(thick.with_data(broken), tmp_path / "sub-1_T1w.nii.gz")
    assert upsample(path, "--out", tmp_path / "out") == 0
    assert "sub-1_T1w.nii.gz: slice 13, 14" in capsys.readouterr().err
    found = read_volume(tmp_path / "out" / "sub-1_desc-upsampled_T1w.nii.gz")
    marked = read_volume(tmp_path / "out" / "sub-1_desc-generatedT1w_mask.nii.gz").data
    spread = read_volume(tmp_path / "out" / "sub-1_desc-upsampledstd_T1w.nii.gz").data
    gap = np.zeros(found.data.shape, bool)
    np.moveaxis(gap, acquisition.axis, 0)[40:44] = True  # 13 and 14 are 39 to 44 at 2 mm
    brain = gap & (resample(whole, found.grid, order=1) > 150)
    truth = resample(whole, found.grid, order=1)
    assert marked[brain].mean() > 0.95 and (spread[brain & (marked > 0)] > 0).all()
    error = np.sqrt(np.square(found.data - truth)[brain].mean())
    assert error < 0.3 * np.sqrt(np.square(truth[brain]).mean())
    record = json.loads((tmp_path / "out" / "sub-1_desc-upsampled_T1w.json").read_text())
    assert record["LostSlices"] == [13, 14]


def test_the_same_scan_twice_is_refused(upsample, straight, tmp_path, capsys):
    one = straight[0]
    two = write_volume(read_volume(one), tmp_path / "copy.nii")
    assert upsample(one, two, "--out", tmp_path / "out") == 2
    assert "hold the same scan" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_detail_outside_the_brain_of_several_scans_is_refused(straight, thick_model):
    """From Python too, where nothing would add it."""
    scan, pipeline = read_volume(straight[0]), load_pipeline(thick_model)
    with pytest.raises(VCMError, match="2 scans are given: leave whole_head out"):
        upsample_volumes([scan, scan], pipeline, whole_head=True)
    with pytest.raises(VCMError, match="detail is none"):
        upsample_volumes(scan, pipeline, whole_head=True)


@pytest.mark.slow
def test_a_result_of_another_scan_is_replaced_only_if_asked(upsample, straight, tmp_path, capsys):
    """Two subjects whose files have one name; and the scan itself is never replaced."""
    one, made = straight
    out, options = tmp_path / "out", ("--samples", "0", "--out", tmp_path / "out")
    shutil.copytree(made, out)
    thick = read_volume(one)
    two = write_volume(thick.with_data(2 * thick.data), tmp_path / "two" / one.name)
    result = out / "sub-1_desc-upsampled_T1w.nii.gz"
    first = result.read_bytes()
    assert upsample(two, *options) == 2
    assert "was not made from the inputs" in capsys.readouterr().err
    assert result.read_bytes() == first
    assert upsample(two, *options, "--overwrite") == 0
    assert result.read_bytes() != first
    assert upsample(two, *options) == 0
    assert upsample(result, "--slice-axis", "axial", "--out", "/dev/null") == 2
    assert "cannot be written" in capsys.readouterr().err
