import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_brains import GRID, brain2mm_like

from vcm.cli import main as cli
from vcm.files import sha256
from vcm.imaging.geometry import resample
from vcm.imaging.placing import place_label_map
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.nets.super_resolution import SuperResolutionNet
from vcm.synthesis import synthesize as job
from vcm.synthesis.configuration import Synthesis


def oblique(shape, spacing, angles, axes, flips, centre):
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = (rotation @ (np.eye(3)[:, axes] * flips)) * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


GRIDS = {
    "as the model": oblique(
        (96, 120, 96), (2, 2, 2), (0, 0, 0), [0, 1, 2], [-1, 1, 1], (0, -18, 6)
    ),
    "oblique and flipped": oblique(
        (150, 75, 110), (1.3, 3.0, 2.0), (8, -6, 5), [1, 2, 0], [-1, 1, -1], (30, -60, 55)
    ),
}


@pytest.fixture(scope="module")
def maps(tmp_path_factory, head_map):
    """The same head on several grids; the oblique one also moved and turned in the world."""
    folder = tmp_path_factory.mktemp("maps")
    classes, affine = head_map
    for name, grid in GRIDS.items():
        motion = np.eye(4)
        if name != "as the model":
            motion[:3, :3] = Rotation.from_euler("xyz", [6, 4, -7], degrees=True).as_matrix()
            motion[:3, 3] = (30, -42, 49)
        moved = resample(Volume(classes, affine), grid, motion, order=0).astype(np.int16)
        write_volume(Volume(moved, grid.affine), folder / f"{name.replace(' ', '_')}_dseg.nii.gz")
    return folder


def vcm(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["vcm", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture
def synthesize(monkeypatch, tiny_model):
    def run(*arguments):
        rest = ("--model", tiny_model, "--steps", 2, "--labels", "vcm8")
        return vcm(monkeypatch, "synthesize", *arguments, *rest)

    return run


@pytest.mark.parametrize("name", [name.replace(" ", "_") for name in GRIDS])
def test_classes_come_back_where_they_were(maps, name):
    """Through registration, the model's grid and back: the map overlaps itself."""
    from vcm.imaging.geometry import model_grid

    path = maps / f"{name}_dseg.nii.gz"
    place = place_label_map(path, "vcm8", model_grid())
    before = read_volume(path).data
    white = place.placement.to_scan_space((place.classes == 1).astype(np.float32)) > 0.5
    brain = place.placement.to_scan_space((place.classes > 0).astype(np.float32)) > 0.5
    for found, truth in ((white, before == 1), (brain, before > 0)):
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > (
            0.97 if found is brain else 0.85
        )


def test_the_result_lies_on_the_condition_and_can_be_repeated(
    synthesize, monkeypatch, maps, tmp_path
):
    path, out = maps / "oblique_and_flipped_dseg.nii.gz", tmp_path / "out"
    assert synthesize(path, "--out", out, "--seeds", "0-1", "--sex", "F", "--model-grid") == 0
    names = sorted(p.name for p in out.iterdir())
    stem = "oblique_and_flipped_dseg"
    assert names == sorted(
        ["report.html", f"{stem}_desc-synthetic_mosaic.png"]
        + [f"{stem}_desc-synthetic_seed-{s}_T1w.{e}" for s in (0, 1) for e in ("nii.gz", "json")]
        + [f"{stem}_space-model_desc-synthetic_seed-{s}_T1w.nii.gz" for s in (0, 1)]
    )
    given = nib.load(path)
    found = nib.load(out / f"{stem}_desc-synthetic_seed-1_T1w.nii.gz")
    assert found.shape == given.shape
    np.testing.assert_allclose(found.affine, given.affine, atol=1e-5)
    assert found.header.get_xyzt_units() == given.header.get_xyzt_units()
    assert b"synthetic" in found.header["descrip"].tobytes()
    assert 0 <= found.get_fdata().min() < found.get_fdata().max() <= 1

    record = json.loads((out / f"{stem}_desc-synthetic_seed-1_T1w.json").read_text())
    assert record["Synthetic"] is True
    assert record["Inputs"]["sex"] == {"value": 0.0, "source": "given"}
    assert record["Inputs"]["ventricular_volume"]["source"] == "condition"
    assert record["Inputs"]["age"]["source"] == "population"
    before = {p.name: p.read_bytes() for p in out.glob("*seed-1*.nii.gz")}
    command = record["Command"]
    command[command.index("0-1")] = "1"
    command[command.index(str(out))] = str(tmp_path / "again")
    assert vcm(monkeypatch, *command[1:]) == 0
    after = {p.name: p.read_bytes() for p in (tmp_path / "again").glob("*seed-1*.nii.gz")}
    assert after == before
    first = nib.load(out / f"{stem}_desc-synthetic_seed-0_T1w.nii.gz").get_fdata()
    assert np.abs(first - found.get_fdata()).max() > 0.01


def test_uncontrolled_needs_no_condition(synthesize, tmp_path):
    from vcm.imaging.geometry import model_grid

    assert synthesize("--uncontrolled", "--out", tmp_path, "--age", 30) == 0
    image = nib.load(tmp_path / "uncontrolled_desc-synthetic_seed-0_T1w.nii.gz")
    np.testing.assert_allclose(image.affine, model_grid().affine)
    record = json.loads((tmp_path / "uncontrolled_desc-synthetic_seed-0_T1w.json").read_text())
    assert not record["Steered"]
    expected = np.exp(2.5 + 0.01 * 30)
    assert record["Inputs"]["ventricular_volume"]["value"] == pytest.approx(expected)


def test_a_dry_run_tells_the_plan_and_writes_nothing(synthesize, maps, tmp_path, capsys):
    path = maps / "as_the_model_dseg.nii.gz"
    assert synthesize(path, "--out", tmp_path / "out", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert all(w in shown for w in ("expected time", "expected memory", "mL; condition", "vcm8"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--age", "200"], "--allow-extrapolation"),
        (["--sex", "x"], "knows F and M"),
        (["--seeds", "a-b"], "seeds is"),
        (["--seeds", "3-1"], "seeds is"),
        (["--steps", "0"], "steps is 0"),
        (["--scheduler", "magic"], "choose ddim"),
        (["--scheduler", "flow"], "choose ddim"),
        (["--precision", "half"], "auto, float32, bfloat16"),
        (["--contrast", "t2"], "T1w only"),
        (["--control-guidance-start", "0.8", "--control-guidance-end", "0.2"], "start <= end"),
        (["--labels", "dlmuse"], "does not name: 2 ("),
        (["--labels", "nothing.yaml"], "neither built in"),
        (["--device", "abacus"], "cpu or auto"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    monkeypatch, tiny_model, maps, tmp_path, capsys, arguments, word
):
    path = maps / "as_the_model_dseg.nii.gz"
    rest = ["--model", tiny_model, "--out", tmp_path / "out", "--labels", "vcm8", *arguments]
    assert vcm(monkeypatch, "synthesize", path, *rest) == 2
    shown = capsys.readouterr().err.strip()
    assert word in shown and shown.count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_maps_that_are_no_brain_are_refused(synthesize, tmp_path, capsys, head_map):
    classes, affine = head_map
    small = tmp_path / "small_dseg.nii.gz"
    write_volume(Volume(classes, affine @ np.diag([0.4, 0.4, 0.4, 1])), small)
    assert synthesize(small, "--out", tmp_path / "out") == 2
    assert "mL as brain" in capsys.readouterr().err
    rod = np.zeros((400, 60, 60), np.uint8)
    rod[5:-5, 10:-10, 10:-10] = 1
    write_volume(Volume(rod, np.diag([1.0, 1.0, 1.0, 1.0])), small)
    assert synthesize(small, "--out", tmp_path / "out") == 2
    assert "field of view" in capsys.readouterr().err
    assert synthesize(tmp_path / "none.nii", "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_one_sentence(monkeypatch, capsys):
    assert vcm(monkeypatch, "synthesize", "--outt", "x") == 2
    assert "--outt" in capsys.readouterr().err
    assert vcm(monkeypatch, "synthesise") == 2
    assert "synthesise" in capsys.readouterr().err


@pytest.fixture(scope="module")
def coarse_model(tmp_path_factory):
    """A model of a 5 mm grid, which samples in a blink."""
    folder = tmp_path_factory.mktemp("models") / "coarse"
    brain2mm_like().save_pretrained(folder)
    return folder


def free(monkeypatch, model, out, *options):
    given = ("--uncontrolled", "--model", model, "--steps", 1, "--out", out)
    return vcm(monkeypatch, "synthesize", *given, *options)


def test_many_seeds_make_many_files_and_one_picture_of_the_first(
    monkeypatch, coarse_model, tmp_path
):
    """No more volumes are held than are shown, however many there are."""
    shown = []
    monkeypatch.setattr(job, "outlined", lambda images, *_: shown.append(len(images)))
    assert free(monkeypatch, coarse_model, tmp_path, "--seeds", "0-11") == 0
    assert len(list(tmp_path.glob("*.nii.gz"))) == 12 and shown == [job.SHOWN]


@pytest.mark.parametrize("seeds", ["99999999999999999999", str(2**63), "1,1"])
def test_seeds_that_cannot_be_used(monkeypatch, coarse_model, tmp_path, capsys, seeds):
    code = free(monkeypatch, coarse_model, tmp_path / "out", "--seeds", seeds)
    if seeds == "1,1":  # on the command line a number twice is the number
        assert code == 0
        return
    assert code == 2 and "2^63" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_results_of_another_map_of_the_same_name_are_replaced_only_if_asked(
    monkeypatch, coarse_model, head_map, tmp_path, capsys
):
    """Two subjects' aseg.nii.gz into one folder; a map is never replaced by its result."""
    classes, affine = head_map
    for n, name in enumerate(("one", "two")):
        moved = np.roll(classes, n, axis=1)
        write_volume(Volume(moved, affine), tmp_path / name / "aseg.nii.gz")
    out = tmp_path / "out"
    options = ("--model", coarse_model, "--steps", 1, "--out", out, "--labels", "vcm8")

    def run(name, *more):
        return vcm(monkeypatch, "synthesize", tmp_path / name / "aseg.nii.gz", *options, *more)

    assert run("one") == 0
    result = out / "aseg_desc-synthetic_seed-0_T1w.nii.gz"
    first = result.read_bytes()
    for more in ((), ("--seeds", "1")):  # with other seeds the picture would be replaced
        assert run("two", *more) == 2
        assert "was not made from the inputs" in capsys.readouterr().err
    assert result.read_bytes() == first and len(list(out.iterdir())) == 4
    assert run("one", "--seeds", "1") == 0
    assert run("two", "--overwrite") == 0
    assert json.loads(result.with_name("aseg_desc-synthetic_seed-0_T1w.json").read_text())[
        "ConditionSHA256"
    ] == sha256(tmp_path / "two" / "aseg.nii.gz")


@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/deeper"])
def test_an_impossible_folder_is_found_before_the_model_is_loaded(monkeypatch, out, capsys):
    monkeypatch.setattr(job, "load_pipeline", lambda name: pytest.fail("too late"))
    assert free(monkeypatch, "brain2mm", out) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [("auto", "DPMSolverMultistep"), ("saved", "DDIM"), ("euler", "EulerDiscrete")],
)
def test_the_scheduler_is_the_one_that_was_asked_for(tmp_path, scheduler, name):
    chosen = Synthesis(uncontrolled=True, scheduler=scheduler, out=str(tmp_path))
    plan = job.resolve(chosen)
    assert type(plan.pipeline.scheduler).__name__ == f"{name}Scheduler"
    assert plan.steps == 20


@pytest.fixture(scope="module")
def halving_model(tmp_path_factory):
    """A model with a network that halves its voxels, which adds a little of its own."""
    folder = tmp_path_factory.mktemp("halving")
    made = brain2mm_like()
    torch.manual_seed(0)
    net = SuperResolutionNet((4, 4), (1, 1))
    torch.nn.init.normal_(net.detail.write.weight, std=0.02)
    made.register_modules(super_resolution=net)
    made.save_pretrained(folder)
    return folder


def test_a_map_of_finer_voxels_gets_detail_of_its_own(
    halving_model, head_map, tmp_path, monkeypatch
):
    classes, affine = head_map
    head = Volume(classes, affine)
    extent = np.array(head.grid.shape) * head.grid.spacing
    for name, size in (("coarse", GRID.spacing[0]), ("fine", GRID.spacing[0] / 2)):
        shape = tuple(int(n / size) for n in extent)
        grid = oblique(shape, (size,) * 3, (5, -3, 4), [0, 1, 2], [-1, 1, 1], head.grid.centre)
        moved = resample(head, grid, np.eye(4), order=0).astype(np.int16)
        write_volume(Volume(moved, grid.affine), tmp_path / f"{name}.nii.gz")

    def made(name, *more):
        out = tmp_path / f"{name}{len(more)}"
        code = vcm(
            monkeypatch, "synthesize", tmp_path / f"{name}.nii.gz", "--model", halving_model, "--steps", 2,
            "--labels", "vcm8", "--out", out, *more,
        )  # fmt: skip
        assert code in (0, None)
        record = json.loads(next(out.glob("*seed-0_T1w.json")).read_text())
        return read_volume(next(out.glob("*seed-0_T1w.nii.gz"))), record["SuperResolution"]

    (sharp, says), (plain, silent) = made("fine"), made("fine", "--no-super-resolution")
    assert (says, silent) == (True, False)
    assert sharp.data.shape == plain.data.shape
    difference = np.abs(sharp.data - plain.data)
    # It lies where interpolation puts it, and is not the same.
    assert 0.001 < difference.mean() < 0.02
    both = [made("coarse", *more)[0].data for more in ((), ("--no-super-resolution",))]
    np.testing.assert_array_equal(*both)
