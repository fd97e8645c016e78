import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.container.check_cases import make_cases
from vcm.fewshot.container.contracts import load_contract
from vcm.fewshot.container.package import package, prediction_modules
from vcm.fewshot.container.predict import FALLBACK, main
from vcm.fewshot.methods.closed_form import fit_constant, fit_line
from vcm.fewshot.methods.features import VOXELS_SHAPE, features
from vcm.fewshot.methods.model import Answer, FittedModel
from vcm.fewshot.methods.network import FewShotUNet
from vcm.imaging.volume import read_volume

LENGTH = int(np.prod(VOXELS_SHAPE))


def number_model(contract):
    """A line on voxels of every slot, fitted to noise."""
    task = contract.task
    x = np.random.default_rng(0).normal(size=(6, LENGTH * len(task.slots)))
    y = np.array([0.0, 1, 0, 1, 0, 1]) if task.classes else np.arange(6.0) + 40
    return fit_line("voxels", task, "voxels", x, y)


def map_model(contract):
    torch.manual_seed(0)
    net = FewShotUNet(len(contract.task.slots), len(contract.task.classes) + 1, (4, 8), 2)
    settings = {"spacing": [2.0, 2.0, 2.0], "members": 1, "network": net.settings}
    arrays = {f"net0.{n}": v for n, v in net.state_dict().items()}
    return FittedModel("scratch", contract.task, "network", arrays, settings=settings)


def vector_model(contract):
    arrays = {"mean": torch.zeros(LENGTH), "scale": torch.full((LENGTH,), 2.0)}
    return FittedModel("voxels", contract.task, "embedding", arrays, feature="voxels")


MODELS = {
    "fomo26:task1": number_model, "fomo26:task2": map_model, "fomo26:task3": number_model,
    "fomo26:task6_and_7": vector_model,
}  # fmt: skip


@pytest.fixture
def packed(tmp_path):
    def pack(name):
        contract = load_contract(name)
        return package(MODELS[name](contract), contract, tmp_path / "packed"), contract

    return pack


def call(app, contract, files, out, *more):
    arguments = [x for s, f in files.items() for x in (contract.arguments[s], str(f))]
    return main(app, [*arguments, "--output", str(out), *more])


@pytest.fixture
def tiny(tmp_path):
    return lambda contract: next(iter(make_cases(contract, tmp_path / "cases", quick=True))).files


@pytest.mark.parametrize("name", MODELS)
def test_a_package_answers_a_case(packed, tiny, tmp_path, capsys, name):
    folder, contract = packed(name)
    files = tiny(contract)
    out = tmp_path / "out" / f"case{contract.suffix}"
    assert call(folder / "app", contract, files, out) == 0
    assert FALLBACK not in capsys.readouterr().err
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    scans = {contract.task.slots[i]: read_volume(f) for i, f in enumerate(files.values())}
    expected = FittedModel.load(folder / "app" / "model").answer(scans)
    if name == "fomo26:task1":
        assert float(out.read_text("utf-8")) == pytest.approx(expected.probabilities[1], abs=1e-6)
    elif name == "fomo26:task3":
        assert float(out.read_text("utf-8")) == pytest.approx(expected.value, abs=1e-6)
    elif name == "fomo26:task2":
        image, scan = nib.load(out), nib.load(files["flair"])
        assert np.array_equal(np.asarray(image.dataobj), expected.labels)
        assert image.get_data_dtype() == np.uint8 and np.allclose(image.affine, scan.affine)
    else:
        assert np.array_equal(np.load(out), expected.embedding)
        found = features("voxels", scans, contract.task.slots)
        assert np.allclose(expected.embedding, found / 2)


def test_a_map_has_a_header_of_its_own(packed, tmp_path):
    folder, contract = packed("fomo26:task2")
    cases = make_cases(contract, tmp_path / "cases")
    case = next(c for c in cases if c.name.startswith("integers with a slope"))
    cases.close()
    source = nib.load(case.files["flair"])
    assert source.dataobj.slope == pytest.approx(0.05)
    out = tmp_path / "map.nii.gz"
    assert call(folder / "app", contract, case.files, out) == 0
    image = nib.load(out)
    assert image.get_data_dtype() == np.uint8
    assert image.dataobj.slope == 1 and image.dataobj.inter == 0


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_container_that_runs_as_another_user_can_read_what_is_in_it(packed):
    before = os.umask(0o022)
    try:
        folder, _ = packed("fomo26:task3")
    finally:
        os.umask(before)
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in folder.rglob("*") if p.is_file())


def test_a_map_lies_on_the_scan_that_the_model_reads_first(tmp_path):
    contract = load_contract("fomo26:task2")
    task = task_from({"kind": "segmentation", "inputs": ["dwi", "flair"], "classes": ["tumour"]})
    model = map_model(replace(contract, task=task))
    app = package(model, contract, tmp_path / "packed") / "app"
    random = np.random.default_rng(0)
    files = {"flair": (10, 12, 8), "dwi": (20, 24, 16), "swi": (9, 9, 9)}
    for name, shape in files.items():
        image = nib.Nifti1Image(random.random(shape, dtype=np.float32), np.diag([9, 9, 9, 1.0]))
        nib.save(image, tmp_path / f"{name}.nii.gz")
    paths = {name: tmp_path / f"{name}.nii.gz" for name in files}
    assert call(app, contract, paths, tmp_path / "map.nii.gz") == 0
    assert nib.load(tmp_path / "map.nii.gz").shape == files["dwi"]


@pytest.mark.parametrize("fault", ["NaN", "constant", "4D", "damaged"])
def test_a_scan_that_cannot_be_read_gets_the_prior_and_says_so(packed, tmp_path, capsys, fault):
    folder, contract = packed("fomo26:task3")
    scan = tmp_path / "scan.nii.gz"
    values = np.ones((8, 8, 8), np.float32)
    values[2] = np.nan if fault == "NaN" else 1
    values = np.stack([values, 2 * values], -1) if fault == "4D" else values
    nib.save(nib.Nifti1Image(values, np.eye(4)), scan)
    if fault == "damaged":
        scan.write_bytes(b"no scan")
    out = tmp_path / "out.txt"
    assert call(folder / "app", contract, {"t1": scan}, out) == 0
    assert float(out.read_text("utf-8")) == pytest.approx(42.5)
    assert capsys.readouterr().err.count(FALLBACK) == 1
    out.unlink()
    assert call(folder / "app", contract, {"t1": scan}, out, "--strict") == 2
    assert not out.exists()


def test_a_missing_sequence_is_taken_as_absent_and_said(packed, tiny, tmp_path, capsys):
    folder, contract = packed("fomo26:task1")
    files = tiny(contract)
    files.pop("adc")
    assert call(folder / "app", contract, files, tmp_path / "out.txt") == 0
    assert "no adc; it is taken as absent" in capsys.readouterr().err
    assert call(folder / "app", contract, files, tmp_path / "out.txt", "--strict") == 2


def test_the_image_loads_no_training_library(packed, tiny, tmp_path):
    folder, contract = packed("fomo26:task3")
    heavy = ("monai", "diffusers", "lightning", "sklearn", "accelerate", "SimpleITK")
    program = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"finally: print([m for m in {heavy} if m in sys.modules])"
    )
    files = tiny(contract)
    arguments = ["--t1", str(files["t1"]), "--output", str(tmp_path / "out.txt")]
    done = subprocess.run(
        [sys.executable, "-c", program.replace("sys.argv[0]", repr(str(folder / "app/predict.py"))),
         *arguments],
        capture_output=True, text=True, cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert (tmp_path / "out.txt").is_file()


def test_the_image_holds_only_what_prediction_imports(packed):
    folder, _ = packed("fomo26:task3")
    names = {p.relative_to(folder / "app").as_posix() for p in (folder / "app").rglob("*.py")}
    assert "vcm/fewshot/container/predict.py" in names and "vcm/imaging/geometry.py" in names
    assert not any("study" in n or "closed_form" in n or "registration" in n for n in names)
    assert len(prediction_modules()) == len(names) - 1
    recipe = (folder / "Apptainer.def").read_text("utf-8")
    assert "PYTHONNOUSERSITE=1" in recipe and "app /app" in recipe
    assert json.loads((folder / "app" / "contract.json").read_text("utf-8"))["suffix"] == ".txt"


def test_models_that_do_not_answer_the_contract_are_refused(tmp_path):
    age, tumour = load_contract("fomo26:task3"), load_contract("fomo26:task2")
    model = number_model(age)
    with pytest.raises(VCMError, match="answers a regression and fomo26:task2 asks for a segm"):
        package(model, tumour, tmp_path / "x")
    flair = task_from({"kind": "regression", "inputs": ["flair"]})
    with pytest.raises(VCMError, match="reads flair, which fomo26:task3 does not give"):
        package(fit_constant(flair, np.ones(2)), age, tmp_path / "x")
    two = task_from({"kind": "segmentation", "inputs": ["flair"], "classes": ["a", "b"]})
    with pytest.raises(VCMError, match="has 2 classes and fomo26:task2 1"):
        package(fit_constant(two, np.zeros(2)), tumour, tmp_path / "x")
    (tmp_path / "x").mkdir()
    with pytest.raises(VCMError, match="exists: give a new folder"):
        package(model, age, tmp_path / "x")


def test_a_model_of_masked_scans_is_refused(tmp_path):
    contract = load_contract("fomo26:task3")
    model = number_model(contract)
    model.record = {"mask": ""}
    package(model, contract, tmp_path / "plain")
    for mask in ("dseg", "found"):
        model.record = {"mask": mask}
        with pytest.raises(VCMError, match=f"masked by '{mask}', and a container gets no mask"):
            package(model, contract, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def renamed(contract, classes):
    """A constant model of the contract, whose classes have these names."""
    task = task_from(contract.task.as_dict() | {"classes": classes})
    return fit_constant(task, np.array([0.0, 1, 1]))


def test_classes_are_told_by_their_order(tmp_path):
    pmg, nerve = load_contract("fomo26:task5"), load_contract("fomo26:task4")
    with pytest.raises(VCMError, match="are 1, 0 and those of fomo26:task5 0, 1, and an answer"):
        package(renamed(pmg, ["1", "0"]), pmg, tmp_path / "x")
    with pytest.raises(VCMError, match="are vessels, nerve and those of fomo26:task4 nerve, vess"):
        package(renamed(nerve, ["vessels", "nerve"]), nerve, tmp_path / "x")
    with pytest.warns(VCMWarning, match="The number is the probability of 'healthy'"):
        package(renamed(pmg, ["patient", "healthy"]), pmg, tmp_path / "number")
    told = "The number is the probability of 'healthy'."
    assert told in (tmp_path / "number" / "README.md").read_text(encoding="utf-8")
    with pytest.warns(VCMWarning, match="In the map 1 is nerve, 2 is artery"):
        package(renamed(nerve, ["nerve", "artery"]), nerve, tmp_path / "map")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        package(renamed(pmg, ["0", "1"]), pmg, tmp_path / "same")
        tumour = load_contract("fomo26:task2")
        package(renamed(tumour, ["tumour"]), tumour, tmp_path / "one")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(VCMError, match="holds no fitted model"):
        FittedModel.load(tmp_path)
    fit_constant(load_contract("fomo26:task3").task, np.ones(2)).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(VCMError, match="cannot be read"):
        FittedModel.load(tmp_path)


def test_a_model_of_one_of_several_sequences_that_a_case_may_have_is_refused(tmp_path):
    contract = load_contract("fomo26:task1")
    given = contract.task.as_dict() | {"inputs": ["flair", "t2s"]}
    model = number_model(replace(contract, task=task_from(given)))
    with pytest.raises(VCMError, match=r"reads t2s, where .* may have swi instead: write {one_of"):
        package(model, contract, tmp_path / "packed")
    model = number_model(replace(contract, task=task_from(given | {"optional": ["t2s"]})))
    package(model, contract, tmp_path / "packed")


def test_small_probabilities_stay_in_order(packed, tiny, tmp_path, monkeypatch):
    folder, contract = packed("fomo26:task1")
    files, written = tiny(contract), []
    for probability in (2.4e-7, 2.6e-7):
        answer = Answer(probabilities=np.array([1 - probability, probability]))
        monkeypatch.setattr(FittedModel, "answer", lambda *_, found=answer: found)
        assert call(folder / "app", contract, files, tmp_path / "case.txt") == 0
        written.append(float((tmp_path / "case.txt").read_text()))
    assert 0 < written[0] < written[1]
