"""vcm synthesize is killed at moments of a seed: each volume is whole and beside its sidecar, or not there; the
next run ends the work."""

import json

import pytest
import torch
from killed import MOMENTS, Whole, content
from small_brains import brain2mm_like

from vcm.files import sha256
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.synthesize import synthesize_files


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
    """A whole run of it, beside its inputs."""
    folder = tmp_path_factory.mktemp("killed")
    torch.manual_seed(0)
    brain2mm_like().save_pretrained(folder / "model")
    return Whole.of(synthesize, folder)


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(whole, share):
    whole.kill(share)
    out, files = whole.out, whole.files
    for volume in out.glob("[!.]*.nii.gz"):
        plain = volume.name.replace("space-model_", "").removesuffix(".nii.gz")
        record = json.loads((out / f"{plain}.json").read_text())
        assert record["Files"][volume.name] == sha256(volume)
    whole.again()
    assert content(out) == files
