import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.fewshot.container import check
from vcm.fewshot.container.check import check_package
from vcm.fewshot.container.check_cases import make_cases
from vcm.fewshot.container.contracts import contract_names, load_contract
from vcm.fewshot.container.predict import FALLBACK
from vcm.fewshot.container.sandbox import Finished, MissingRuntime, choose_runtime, run, works

AGE, TUMOUR = "fomo26:task3", "fomo26:task2"
EMBEDDING, INFARCT = "fomo26:task6_and_7", "fomo26:task1"


def reference(arguments, inputs):
    return nib.load(inputs / next(a for a in arguments if a.startswith("/input/"))[7:])


def answer(arguments, inputs, path):
    """A right answer to every contract."""
    if path.suffix == ".txt":
        path.write_text("0.5\n", encoding="utf-8")
    elif path.suffix == ".npy":
        np.save(path, np.ones(16, np.float32))
    else:
        scan = reference(arguments, inputs)
        labels = np.zeros(scan.shape, np.uint8)
        labels[3, 3, 3] = 1
        nib.save(nib.Nifti1Image(labels, scan.affine), path)


def text(content):
    return lambda arguments, inputs, path: path.write_bytes(content)


def array(make):
    return lambda arguments, inputs, path: np.save(path, make(reference(arguments, inputs)))


def spoil_affine(path):
    """Set the rows of the sform to 0 in the file itself: nibabel would not write them."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:328] = bytes(48)
    path.write_bytes(gzip.compress(bytes(content)))


def label_map(make, move=0.0):
    def write(arguments, inputs, path):
        scan = reference(arguments, inputs)
        image = nib.Nifti1Image(make(scan.shape), scan.affine)
        affine = scan.affine.copy()
        affine[:3, 3] += move or 0.0
        image.set_sform(affine, 1)
        image.set_qform(None, 0)
        nib.save(image, path)
        if move is None:
            spoil_affine(path)

    return write


def ends(code, message=""):
    return lambda arguments, inputs, path: Finished(code, message, 0.1, 0.1)


def says(line):
    def write(arguments, inputs, path):
        answer(arguments, inputs, path)
        return Finished(0, line, 0.1, 0.1)

    return write


def besides(arguments, inputs, path):
    answer(arguments, inputs, path)
    path.with_name("log.txt").write_text("x", encoding="utf-8")


def differs():
    counter = iter(range(99))
    return lambda arguments, inputs, path: path.write_text(f"{next(counter)}", encoding="utf-8")


SPOILED = {
    "probability 5": (INFARCT, text(b"5"), "a probability lies between 0 and 1"),
    "two words": (AGE, text(b"45 years"), "holds 2 words"),
    "NaN": (AGE, text(b"nan"), "must be finite"),
    "list": (AGE, text(b"[45.0]"), "which is no number"),
    "not UTF-8": (AGE, text(b"\xff\xfe4"), "not UTF-8"),
    "empty": (AGE, text(b""), "is empty"),
    "no output": (AGE, ends(0), "was not written"),
    "other shape": (TUMOUR, label_map(lambda s: np.zeros((s[0] + 1, *s[1:]), np.uint8)), "shape"),
    "label 3": (TUMOUR, label_map(lambda s: np.full(s, 3, np.uint8)), "holds the label 3"),
    "half a label": (TUMOUR, label_map(lambda s: np.full(s, 0.5, np.float32)), "whole numbers"),
    "zero affine": (TUMOUR, label_map(lambda s: np.zeros(s, np.uint8), None), "affine differs"),
    "moved": (TUMOUR, label_map(lambda s: np.zeros(s, np.uint8), 4.0), "lies elsewhere"),
    "empty map": ("fomo25:task2", label_map(lambda s: np.zeros(s, np.uint8)), "background alone"),
    "no NIfTI": (TUMOUR, text(b"mask"), "no NIfTI"),
    "matrix": (EMBEDDING, array(lambda i: np.ones((2, 8), np.float32)), "one vector"),
    "whole numbers": (EMBEDDING, array(lambda i: np.ones(8, int)), "floating point"),
    "infinite": (EMBEDDING, array(lambda i: np.array([1.0, np.inf])), "not finite"),
    "length varies": (EMBEDDING, array(lambda i: np.ones(i.shape[2])), "the same length"),
    "too slow": (AGE, ends(None), "took more than 120 s"),
    "fails": (AGE, ends(1, "Traceback\nOSError: Read-only file system: '/app/x'"), "Read-only"),
    "without looking": (AGE, says(f"{FALLBACK} no scan can be read."), "without looking"),
    "besides": (AGE, besides, "log.txt was written beside"),
    "another answer": (AGE, differs(), "second run gave another answer"),
}


@pytest.fixture
def image(tmp_path):
    (tmp_path / "image" / "app").mkdir(parents=True)
    (tmp_path / "image" / "app" / "predict.py").touch()
    return tmp_path / "image"


@pytest.fixture
def pretend(monkeypatch):
    """Let `write` stand for the package."""

    def install(write):
        def ran(runtime, image, arguments, inputs, outputs, limit):
            made = write(arguments, inputs, outputs / arguments[-1].removeprefix("/output/"))
            return made if isinstance(made, Finished) else Finished(0, "", 0.1, 0.1)

        monkeypatch.setattr(check, "run", ran)

    return install


@pytest.mark.parametrize("name", contract_names())
def test_a_right_answer_passes_every_contract(image, pretend, name):
    pretend(answer)
    report = check_package(image, load_contract(name), "process", quick=True)
    assert report.complaints == [] and report.passed
    assert len(report.seconds) == 3


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_package_is_refused_in_a_sentence(image, pretend, spoiled):
    name, write, sentence = SPOILED[spoiled]
    pretend(write)
    report = check_package(image, load_contract(name), "process", quick=True)
    assert not report.passed
    assert any(sentence in c.sentence for c in report.complaints), report.complaints


def test_cases_vary_in_what_packages_get_wrong(tmp_path):
    cases = list(make_cases(load_contract(AGE), tmp_path))
    images = [nib.load(next(iter(c.files.values()))) for c in cases]
    assert {i.shape for i in images} >= {(32, 32, 16), (176, 256, 256)}
    assert {"".join(nib.aff2axcodes(i.affine)) for i in images} >= {"RAS", "LPS", "LAS"}
    assert any(i.dataobj.slope == pytest.approx(0.05) for i in images)
    assert [c.name for c in cases if c.fallback_allowed] == ["constant"]
    assert np.ptp(images[-1].get_fdata()) == 0


def test_cases_fill_a_slot_by_each_of_its_sequences(tmp_path):
    cases = list(make_cases(load_contract(INFARCT), tmp_path, quick=True))
    assert all({"flair", "dwi", "adc"} < set(c.files) for c in cases)
    assert {"t2s", "swi"} <= {s for c in cases for s in c.files}


def test_what_is_no_package_is_refused(tmp_path):
    with pytest.raises(VCMError, match=r"holds no app/predict\.py"):
        check_package(tmp_path, load_contract(AGE), "process")


PROGRAM = """
import os, socket, sys, time
what, path = sys.argv[1], sys.argv[sys.argv.index("--output") + 1]
if what == "sleep":
    time.sleep(60)
elif what == "app":
    open(__file__ + ".log", "w").close()
elif what == "root":
    open("/usr/vcm-was-here", "w").close()
elif what == "network":
    socket.create_connection(("192.0.2.1", 80), timeout=3)
elif what == "input":
    open(os.path.join("/input", "x"), "w").close()
for _ in range(300000):
    pass
open("/tmp/allowed", "w").close()
open(path, "w").write(open("/input/a.txt").read() if what == "read" else what)
"""
bubblewrap = pytest.mark.skipif(not works("bubblewrap"), reason="bubblewrap does not work here")


@pytest.fixture
def call(image, tmp_path):
    (image / "app" / "predict.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("read it", encoding="utf-8")
    (tmp_path / "out").mkdir()

    def runs(runtime, what, limit=30.0):
        arguments = [what, "--output", "/output/a.txt"]
        return run(runtime, image, arguments, tmp_path / "in", tmp_path / "out", limit)

    return runs


@bubblewrap
def test_bubblewrap_gives_input_output_and_tmp(call, tmp_path):
    done = call("bubblewrap", "read")
    assert (done.code, done.output.strip()) == (0, "")
    assert (tmp_path / "out" / "a.txt").read_text(encoding="utf-8") == "read it"
    assert 0 < done.cpu_seconds < 5


@bubblewrap
@pytest.mark.parametrize("what", ["app", "root", "network", "input"])
def test_bubblewrap_forbids_the_rest(call, what):
    done = call("bubblewrap", what)
    assert done.code == 1
    assert "Read-only" in done.output or "unreachable" in done.output


@pytest.mark.parametrize("runtime", ["process", pytest.param("bubblewrap", marks=bubblewrap)])
def test_what_takes_too_long_is_stopped(call, runtime):
    done = call(runtime, "sleep", 0.5)
    assert done.code is None and done.seconds < 20


def test_a_plain_process_reads_the_files_of_this_machine(call, tmp_path):
    done = call("process", "anything")
    assert done.code == 0
    assert (tmp_path / "out" / "a.txt").read_text(encoding="utf-8") == "anything"


def test_a_runtime_that_is_demanded_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert choose_runtime(None, tmp_path) == "process"
    with pytest.raises(MissingRuntime, match="apt-get install bubblewrap"):
        choose_runtime("bubblewrap", tmp_path)
    with pytest.raises(MissingRuntime, match="apptainer is demanded"):
        choose_runtime(None, tmp_path / "x.sif")
    with pytest.raises(VCMError, match="cannot run"):
        choose_runtime("process", tmp_path / "x.sif")
    with pytest.raises(VCMError, match="'docker' is unknown"):
        choose_runtime("docker", tmp_path)
