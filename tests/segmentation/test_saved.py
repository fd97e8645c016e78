"""A folder of a segmenter that was cut, changed or copied in part is refused in a sentence."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vcm.checksums import CHECKSUMS
from vcm.errors import VCMError
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.unet_fit import fit_unet

NAMES = ["background", "left", "right", "dark"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tiny_features, phantom, tmp_path_factory):
    """A segmenter of all voices and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vcm.segmentation.segmenter.fit_unet", partial(fit_unet, steps=1))
        made = FewShotSegmenter(tiny_features, NAMES).fit(
            [phantom()], settings=FitSettings(1, 5), copies=0, voxels=2000, judged=0
        )
    folder = tmp_path_factory.mktemp("saved") / "model"
    made.save_pretrained(folder)
    return made, folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(saved[1], tmp_path / "model"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def without_voices(path):
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "voices"}))  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "part", "reason"),
    [
        (remove, "slices", "slices/config.json is missing"),
        (remove, "classifier", "classifier/config.json is missing"),
        (remove, "unet", "unet/config.json is missing"),
        (remove, "atlas.safetensors", "atlas.safetensors is missing"),
        (cut, "segmenter.json", "segmenter.json is not what it was"),
        (change, f"classifier/{WEIGHTS}", f"classifier/{WEIGHTS} is not what it was"),
        (change, "atlas.safetensors", "atlas.safetensors is not what it was"),
    ],
)
def test_what_differs_from_its_checksum_is_refused(copied, damage, part, reason):
    damage(copied / part)
    with pytest.raises(VCMError, match=f"{reason}.*: copy the model again"):
        FewShotSegmenter.from_pretrained(copied)


@pytest.mark.parametrize(
    ("damage", "part", "reason"),
    [
        (remove, "slices", r"slices is missing"),
        (remove, "classifier", r"classifier is missing"),
        (remove, "unet", r"unet is missing"),
        (remove, "atlas.safetensors", r"atlas.safetensors is missing"),
        (remove, f"classifier/{WEIGHTS}", r"OSError: .*"),
        (cut, "segmenter.json", r"JSONDecodeError: .*"),
        (without_voices, "segmenter.json", r"KeyError: 'voices'"),
        (cut, "atlas.safetensors", r"SafetensorError: .*"),
        (cut, f"classifier/{WEIGHTS}", r"OSError: .*"),
        (cut, f"unet/{WEIGHTS}", r"OSError: .*"),
    ],
)
def test_what_cannot_be_read_is_refused_where_there_are_no_checksums(copied, damage, part, reason):
    """As earlier versions wrote it."""
    (copied / CHECKSUMS).unlink()
    damage(copied / part)
    sentence = rf"^The segmenter in .*model cannot be loaded \({reason}\): copy it again\.$"
    with pytest.raises(VCMError, match=sentence):
        FewShotSegmenter.from_pretrained(copied)


def test_a_segmenter_of_an_earlier_version_is_loaded(saved, copied, phantom):
    """Without checksums, and without what its description did not hold."""
    (copied / CHECKSUMS).unlink()
    path = copied / "segmenter.json"
    said = json.loads(path.read_text())
    later = ("contrasts", "completed", "other_side")
    path.write_text(json.dumps({k: v for k, v in said.items() if k not in later}))
    again = FewShotSegmenter.from_pretrained(copied)
    assert again.contrasts == {"T1w"} and not again.completed and again.other_side is None
    assert np.array_equal(again.brains[0].labels, saved[0].brains[0].labels)


def test_a_folder_without_a_segmenter_is_refused(tmp_path):
    with pytest.raises(VCMError, match=r"holds no segmenter \(segmenter.json\): give a folder"):
        FewShotSegmenter.from_pretrained(tmp_path)
