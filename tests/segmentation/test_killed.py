"""vcm segment apply is killed at moments of a seed: what is there is whole, and the next run ends the work."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from killed import MOMENTS, Whole, content
from small_brains import aligned_by_header, write_files

from vcm.files import read_table
from vcm.imaging.volume import read_volume, write_volume
from vcm.segmentation.apply import segment_files
from vcm.segmentation.segmenter import Prediction


def predict(image, voices, match):
    """Bright or not, at once: only what is written matters here."""
    level = np.clip(image, 0, 1).astype(np.float32)
    return Prediction(np.stack([1 - level, level]).astype(np.float16), level, np.zeros(2))


def segment(given, out):
    with pytest.MonkeyPatch.context() as patch:
        aligned_by_header(patch)
        patch.setattr(
            "vcm.imaging.brain.warn_unless_upright", lambda *arguments: None
        )  # takes seconds
        for name in ("write_report", "write_index"):
            patch.setattr(f"vcm.segmentation.apply.{name}", lambda *arguments: None)
        patch.setattr("vcm.segmentation.apply.outlined", lambda *arguments: arguments[2].touch())
        segmenter = SimpleNamespace(
        contrasts={"T1w"},
            features=SimpleNamespace(spacing=2.0), predict=predict, indices=[0, 7], trust={}, other_side=None,
            names=["background", "bright"], choose_voices=lambda voices: ("features",),
        )  # fmt: skip
        scans = [given / f"sub-{n}_T1w.nii.gz" for n in (1, 2)]
        segment_files(scans, given / "model", segmenter, out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run of it, beside its inputs."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    scan = read_volume(write_files(folder)["scan"])
    write_volume(scan.with_data(scan.data * 2), folder / "sub-2_T1w.nii.gz")
    return Whole.of(segment, folder)


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(whole, share):
    whole.kill(share)
    out, files = whole.out, whole.files
    for volume in out.glob("[!.]*.nii.gz"):  # none without the sidecar that says what it is
        (sidecar,) = out.glob(f"{volume.name.split('_')[0]}_dseg.json")
        assert volume.name in json.loads(sidecar.read_text())["Files"]
    whole.again()
    rows = read_table(out / "volumes.tsv")
    assert [row["status"] in ("done", "kept") for row in rows] == [True, True]
    found = content(out)
    assert {name: found[name] for name in found if name != "volumes.tsv"} == {
        name: files[name] for name in files if name != "volumes.tsv"
    }
