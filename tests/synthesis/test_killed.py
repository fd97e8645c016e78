"""vcm synthesize is killed at moments of a seed: each volume is whole and beside its sidecar, or not there; the
next run ends the work."""

import json
import shutil

import killed
import pytest
import torch
from killed import MOMENTS, content, seen
from small_brains import brain2mm_like

from vcm.files import sha256
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.synthesize import synthesize_files

pytestmark = pytest.mark.slow


def synthesize(given, out):
    """Two seeds, each on two grids, and a picture."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_report", "outlined"):
            picture = name == "outlined"
            patch.setattr(
                f"vcm.synthesis.synthesize.{name}", lambda *a, draw=picture: draw and a[2].touch()
            )
        config = Synthesis(
            out=out, model=str(given / "model"), uncontrolled=True, seeds=[0, 1], steps=1, model_grid=True,
            device="cpu",
        )  # fmt: skip
        synthesize_files(config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of the model; files of a whole run; and its moments."""
    folder = tmp_path_factory.mktemp("killed")
    torch.manual_seed(0)
    brain2mm_like().save_pretrained(folder / "model")
    moments = killed.run(synthesize, folder, folder / "out", folder=folder / "out")
    return folder, content(folder / "out"), moments


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(whole, share):
    folder, files, moments = whole
    out = folder / "out"
    shutil.rmtree(out)
    killed.run(synthesize, folder, out, folder=out, moment=killed.at(share, moments))
    assert seen(out).items() <= files.items()
    for volume in out.glob("[!.]*.nii.gz"):
        plain = volume.name.replace("space-model_", "").removesuffix(".nii.gz")
        record = json.loads((out / f"{plain}.json").read_text())
        assert record["Files"][volume.name] == sha256(volume)
    killed.run(synthesize, folder, out, folder=out)
    assert content(out) == files
