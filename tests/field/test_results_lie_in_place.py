"""Whatever the header, the result of every command that writes in a scan's space lies where the scan lies.

Networks are replaced by what gives back what they are shown, so that a result has to match its input voxel by
voxel: moved by one voxel along any axis it must match less. `vcm evaluate` is not here, as it reads and writes
the model's own voxels alone and refuses others.
"""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_brains import (
    GRID,
    aligned_by_header,
    classes_of,
    image_of,
    save_small_models,
)

from vcm.fewshot.cases.preparation import prepare as prepare_case
from vcm.fewshot.cases.preparation import to_reference
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.preparation.prepare import prepare
from vcm.preparation.segment import segment_file
from vcm.segmentation.apply import segment_files
from vcm.segmentation.segmenter import Prediction
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.synthesize import synthesize_files
from vcm.upsampling.configuration import Simulation, Upsampling
from vcm.upsampling.simulate import simulate_file
from vcm.upsampling.upsample import upsample_files

PLACE = (
    "sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units",
)  # fmt: skip
#: Of the head in its own world: the grid of the tiny models.
CLASSES = Volume(classes_of(1.0), GRID.affine)
HEAD = Volume(700 * image_of(CLASSES.data, 0), GRID.affine)


def random_affine(random, sheared, thick):
    """Axes in any order and direction, turned and perhaps sheared, and the shape that holds the head."""
    turn = Rotation.from_euler("xyz", random.uniform(-40, 40, 3), degrees=True).as_matrix()
    axes = np.eye(3)[:, random.permutation(3)] * random.choice([-1, 1], 3)
    shear = np.eye(3)
    if sheared:
        row, column = random.permutation(3)[:2]
        shear[row, column] = np.tan(np.radians(random.uniform(-20, 20)))
    sizes = random.uniform(4, 6, 3)
    if thick:
        sizes = np.where(np.arange(3) == random.integers(3), 14.0, 5.0)
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ shear * sizes
    points = np.argwhere(CLASSES.data > 0) @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]
    index = points @ np.linalg.inv(affine[:3, :3]).T
    affine[:3, 3] = affine[:3, :3] @ (index.min(0) - 3)
    return affine, tuple(int(n) for n in np.ceil(np.ptp(index, axis=0)) + 7)


def write_head(folder, number, straight=False, thick=False):
    """Scan and label map of the head on the voxels of a random header; their paths."""
    random = np.random.default_rng(number)
    affine, shape = random_affine(random, not straight and random.random() < 0.4, thick)
    sform, qform = (int(n) for n in random.integers(0, 5, 2))
    sform = sform or int(not qform)
    paths = []
    for name, volume, order in (("T1w", HEAD, 1), ("dseg", CLASSES, 0)):
        image = nib.Nifti1Image(np.zeros(shape, np.float32), None)
        image.set_sform(affine, sform)
        image.set_qform(affine, qform, strip_shears=True)
        image.header.set_xyzt_units(*random.choice([("mm", "sec"), ("unknown", "unknown")]))
        there = image.get_sform() if sform else image.get_qform()
        grid = Volume(np.zeros(shape), there).grid
        data = resample(volume, grid, order=order)
        if name == "T1w":
            data = np.where(resample(CLASSES, grid, order=0) > 0, np.maximum(data, 5), 0)
        stored = nib.Nifti1Image(data.astype(np.float32), None, image.header)
        paths.append(folder / f"sub-1_{name}.nii.gz")
        nib.save(stored, paths[-1])
    return paths


def matches(found, given):
    """Whether the match is a good one, and moving by a voxel makes it worse along every axis."""

    def fit(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    best = fit(found, given)
    moved = [fit(found, np.roll(given, n, axis)) for axis in range(3) for n in (-1, 1)]
    return best > 0.85 and max(moved) < best


def has_header_of(result, given):
    found, header = nib.load(result).header, nib.load(given).header
    return all(found[name].tobytes() == header[name].tobytes() for name in PLACE)


def transforms_agree(result):
    """Both, where both have a code."""
    image = nib.load(result)
    header = image.header
    if not header["sform_code"] or not header["qform_code"]:
        return True
    return np.allclose(header.get_sform(), header.get_qform(), atol=1e-2)


def check_on_scan(result, scan, given=None):
    assert has_header_of(result, scan)
    assert matches(nib.load(result).get_fdata(), nib.load(given or scan).get_fdata())


def synthesize(given, folder, number):
    _, labels = write_head(folder, number)
    config = Synthesis(
        condition=labels, labels="vcm8", out=folder / "out", model=str(given / "model"), seeds=[0], steps=1,
    )  # fmt: skip
    (result,) = synthesize_files(config)
    check_on_scan(result, labels)


def segment_tissues(given, folder, number):
    scan, _ = write_head(folder, number)
    segment_file(scan, folder / "out" / "found.nii.gz", str(given / "segmenter"))
    check_on_scan(folder / "out" / "found.nii.gz", scan)


def segment_apply(given, folder, number):
    scan, _ = write_head(folder, number)

    def predict(image, voices, match):
        level = np.clip(image, 0, 1)
        posterior = np.stack([1 - level, level]).astype(np.float16)
        return Prediction(posterior, level.astype(np.float32), np.zeros(2))

    fake = SimpleNamespace(
        features=SimpleNamespace(spacing=2.0), predict=predict, indices=[0, 7], trust={},
        names=["background", "bright"], choose_voices=lambda voices: ("features",), contrasts={"T1w"}, other_side=None,
    )  # fmt: skip
    segment_files([scan], given / "segmenter", fake, folder / "out")
    check_on_scan(folder / "out" / "sub-1_desc-uncertainty.nii.gz", scan)
    assert all(
        has_header_of(folder / "out" / f"sub-1_{name}.nii.gz", scan) for name in ("dseg", "probseg")
    )


def prepare_set(given, folder, number):
    scan, _ = write_head(folder, number)
    anat = folder / "bids" / "sub-1" / "anat"
    anat.mkdir(parents=True)
    scan.rename(anat / scan.name)
    prepare(folder / "bids", folder / "out", workers=1, grid=GRID)
    found = read_volume(folder / "out" / "sub-1" / "sub-1_T1w.nii.gz")
    np.testing.assert_allclose(found.affine, GRID.affine, atol=1e-4)
    assert matches(found.data, HEAD.data)


def upsample(given, folder, number):
    scan, _ = write_head(folder, number, straight=True, thick=True)
    config = Upsampling(
        scans=[scan], out=folder / "out", model=str(given / "thick"), spacing=5, samples=0, steps=1,
        mirrors=False, precision="float32", device="cpu",
    )  # fmt: skip
    result, *_ = upsample_files(config)
    assert transforms_agree(result)
    found = read_volume(result)
    thick = read_volume(scan)
    assert matches(resample(found, thick.grid), thick.data)
    masks = list((folder / "out").glob("*_mask.nii.gz"))
    assert all(transforms_agree(path) for path in masks)


def simulate(given, folder, number):
    scan, _ = write_head(folder, number, straight=True)
    result = folder / "out" / "sub-1_acq-thick_T1w.nii.gz"
    simulate_file(Simulation(scan=scan, out=result, slice_axis="axial", spacing=12.0))
    assert transforms_agree(result)
    found = read_volume(result)
    assert matches(found.data, resample(read_volume(scan), found.grid))


def predict_case(given, folder, number):
    path, _ = write_head(folder, number)
    scan = read_volume(path)
    made = prepare_case({"t1": scan}, ("t1",), (5.0, 5.0, 5.0))
    level = made.image[0]
    labels = to_reference(np.stack([1 - level, level]).astype(np.float32), made)
    write_volume(scan.with_data(labels), folder / "labels.nii.gz")
    assert has_header_of(folder / "labels.nii.gz", path)
    bright = scan.data > (scan.data.max() + scan.data[scan.data > 0].min()) / 2
    assert matches(labels.astype(float), bright.astype(float))


COMMANDS = (
    synthesize, segment_tissues, segment_apply, prepare_set, upsample, simulate, predict_case,
)  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Tiny models."""
    folder = tmp_path_factory.mktemp("given")
    save_small_models(folder)
    return folder


@pytest.fixture
def shown_back(monkeypatch):
    """Networks give back what they see; the head lies in the common space; nothing is drawn."""
    aligned_by_header(monkeypatch)
    monkeypatch.setattr(
        "vcm.synthesis.synthesize.Plan.sample",
        lambda self, seed, on_step: (self.placed.classes / 8).astype(np.float32),
    )
    monkeypatch.setattr("vcm.preparation.segment.segmenter_grid", lambda net: GRID)
    monkeypatch.setattr(
        "vcm.preparation.segment._classes", lambda image, net: np.rint(8 * image).astype(np.uint8)
    )
    monkeypatch.setattr("vcm.segmentation.apply.model_grid", lambda spacing: GRID)
    for room in ("synthesis.synthesize", "segmentation.apply"):
        monkeypatch.setattr(f"vcm.{room}.outlined", lambda *a: a[2].touch())
    monkeypatch.setattr("vcm.preparation.prepare.mosaic", lambda *a: a[1].touch())
    monkeypatch.setattr("vcm.upsampling.results.writing._draw", lambda *a: a[1].touch())
    for room in (
        "synthesis.synthesize", "segmentation.apply", "preparation.segment", "preparation.prepare",
        "upsampling.upsample",
    ):  # fmt: skip
        monkeypatch.setattr(f"vcm.{room}.write_report", lambda *a: None)


@pytest.mark.filterwarnings("ignore::vcm.errors.VCMWarning")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "numbers", [range(2), pytest.param(range(2, 14), marks=pytest.mark.slow)], ids=["two", "more"]
)
def test_of_random_headers(given, shown_back, tmp_path, command, numbers):
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            command(given, folder, number)
        except AssertionError as error:
            raise AssertionError(f"header {number}") from error
