import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: workers beside each other, and what they start, take a core each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from shape_checks import check_shapes

check_shapes()
SHARED = Path(os.environ.get("VCM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_configure() -> None:
    """The first backward pass of a process fixes which devices autograd knows: let it know the fake one."""
    if torch.cuda.is_available():
        return
    from other_device import plugged_in

    with plugged_in() as other:
        torch.ones(1, requires_grad=True).to(other).sum().backward()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks come first: each takes minutes, and one process runs a file."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(autouse=True)
def kept_denormals() -> Iterator[None]:
    """Trainings and sampling take denormals for 0 in the whole process; hypothesis refuses to draw then."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def real_scans() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real scans are not at {SHARED}; set VCM_TEST_DATA")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A pipeline of random weights and few channels on the real grid, saved as one folder."""
    from tiny_networks import tiny_pipeline

    from vcm.imaging.geometry import model_grid

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline(model_grid()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def thick_model(tmp_path_factory, tiny_model):
    """The tiny model with a module of random weights that reads thick slices."""
    from tiny_networks import steered_by, tiny_module

    from vcm.weights.load import load_pipeline

    folder = tmp_path_factory.mktemp("models") / "thick"
    made = steered_by(load_pipeline(tiny_model), tiny_module(2, seed=1), ["thick"])
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def head_map() -> tuple[np.ndarray, np.ndarray]:
    """(eight-class map, affine) cut from the MNI152 template that nilearn ships, by intensity."""
    from scipy.ndimage import binary_erosion

    from vcm.imaging.registration import common_template

    template = common_template()
    brain = template.data > 0.15
    classes = np.where(brain, 7, 0)
    classes[brain & (template.data > 0.45)] = 2
    classes[brain & (template.data > 0.75)] = 1
    deep = binary_erosion(brain, iterations=12)
    classes[deep & (template.data < 0.45)] = 3
    return classes.astype(np.uint8), template.affine


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, head_map) -> Path:
    """Five subjects on the model's grid as `vcm prepare` writes them: three train, two test."""
    from vcm.imaging.conditions import ventricular_and_brain_volume
    from vcm.imaging.geometry import model_grid, resample
    from vcm.imaging.registration import common_template
    from vcm.imaging.volume import Volume, write_volume

    folder, grid, template = tmp_path_factory.mktemp("prepared"), model_grid(), common_template()
    rows = ["participant_id\tsplit\tage\tsex\tventricular_volume\tbrain_volume"]
    for n, split in enumerate(["train", "train", "train", "test", "test"]):
        size = np.diag([0.92 + 0.02 * n] * 3 + [1])
        classes = resample(Volume(head_map[0], head_map[1]), grid, size, order=0).astype(np.uint8)
        image = resample(Volume(template.data, template.affine), grid, size, order=1)
        image = np.where(classes > 0, np.clip(image, 0, 1), 0).astype(np.float32)
        name = f"sub-{n}"
        write_volume(Volume(image, grid.affine), folder / name / f"{name}_T1w.nii.gz")
        write_volume(Volume(classes, grid.affine), folder / name / f"{name}_dseg.nii.gz")
        ventricles, brain = ventricular_and_brain_volume(classes, grid.voxel_volume)
        rows.append(f"{name}\t{split}\t{30 + 10 * n}\t{'FM'[n % 2]}\t{ventricles}\t{brain}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def small_prepared(tmp_path_factory) -> Path:
    """Five subjects of 5 mm voxels as `vcm prepare` writes them: three train, two test."""
    from small_brains import write_prepared

    return write_prepared(tmp_path_factory.mktemp("small_prepared"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A pipeline of random weights and few channels on 5 mm voxels, with a module of classes."""
    from small_brains import brain2mm_like

    folder = tmp_path_factory.mktemp("models") / "small"
    brain2mm_like().save_pretrained(folder)
    return folder
