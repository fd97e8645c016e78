"""vcm weights import is killed at moments of a seed: the model is there and whole, or not there."""

import shutil

import killed
import pytest
import torch
from killed import MOMENTS, content, seen
from published_files import TABLES, published, small_card

from vcm.weights.importing import import_weights
from vcm.weights.verifying import verify


def import_published(given, out):
    parts = [given / f"{part}.pt" for part in ("autoencoder", "denoiser", "module")]
    import_weights(small_card(), *parts, out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of the published files; files of a whole import; and its moments."""
    given = tmp_path_factory.mktemp("published")
    for part in TABLES:
        torch.save(published(part), given / f"{part}.pt")
    folder = tmp_path_factory.mktemp("killed")
    moments = killed.run(import_published, given, folder / "out", folder=folder)
    return given, folder, content(folder / "out"), moments


@pytest.mark.parametrize("share", MOMENTS)
@pytest.mark.parametrize("empty", [False, True], ids=["new", "empty"])
def test_killed(whole, share, empty):
    """An import into a folder that is not there, or that is empty."""
    given, folder, files, moments = whole
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if empty:
        out.mkdir()
    killed.run(import_published, given, out, folder=folder, moment=killed.at(share, moments))
    if seen(out):
        assert content(out) == files
    else:
        killed.run(import_published, given, out, folder=folder)
        assert content(out) == files
    assert seen(folder) == {f"out/{name}": checksum for name, checksum in files.items()}
    assert verify(out)
