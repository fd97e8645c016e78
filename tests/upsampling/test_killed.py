"""vcm upsample is killed at moments of a seed: what is there is whole, what was there is not lost, and the
next run ends the work."""

import json
import shutil

import killed
import pytest
import torch
from killed import MOMENTS, content, seen
from small_brains import aligned_by_header, thick_model_with_detail, write_files

from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.upsample import upsample_files


def upsample(given, out, seed):
    with pytest.MonkeyPatch.context() as patch:
        aligned_by_header(patch)
        config = Upsampling(
            scans=[given / "sub-1_acq-thick_T1w.nii.gz"], out=out, model=str(given / "model"), spacing=5,
            samples=1, steps=1, seed=seed, precision="float32", device="cpu", mirrors=False,
        )  # fmt: skip
        upsample_files(config)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folder of the inputs; results of a seed and of another, by file; and the moments of one run."""
    folder = tmp_path_factory.mktemp("killed")
    torch.manual_seed(0)
    write_files(folder)
    thick_model_with_detail(folder / "model")
    out, found = folder / "out", {}
    for seed in (1, 2):
        moments = killed.run(upsample, folder, out, seed, folder=out)
        found[seed] = content(out)
        out.rename(folder / f"seed-{seed}")
    return folder, found, moments


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(results, share):
    """Over results of another seed, whose files have the same names but for those of the samples.

    The sample of the other seed goes when all is there, and its sidecar lists it until then.
    """
    folder, found, moments = results
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder / "seed-2", out)
    killed.run(upsample, folder, out, 1, folder=out, moment=killed.at(share, moments))
    left = seen(out)
    (sidecar,) = out.glob("[!.]*.json")
    volumes = {name: checksum for name, checksum in left.items() if name != sidecar.name}
    assert volumes.items() <= found[1].items() | found[2].items()
    files = json.loads(sidecar.read_text())["Files"]
    gone = found[2].keys() - left.keys()
    assert gone <= found[2].keys() - found[1].keys()
    if gone:
        assert all(left[name] == found[1][name] for name in files.keys() - gone)
    # A volume that its sidecar does not speak of gives itself away.
    assert files.keys() >= {name for name in volumes if name.endswith((".nii.gz", ".png"))}
    if left[sidecar.name] == found[2][sidecar.name]:
        assert all(left[name] == checksum for name, checksum in files.items())
    killed.run(upsample, folder, out, 1, folder=out)
    assert content(out) == found[1]
