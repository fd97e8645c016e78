"""Licences are shown and asked for before anything is fetched; what comes is checked."""

import hashlib
import io
from dataclasses import replace

import pytest
from rich.console import Console

from vcm.errors import VCMError
from vcm.weights import fetching
from vcm.weights.cards import load_card
from vcm.weights.fetching import fetch


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local folder in place of the hub; counts what is asked of it."""
    asked = []

    def download(file, out):
        asked.append(file.path)
        path = (out or tmp_path / "cache") / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.path.encode())
        return path

    monkeypatch.setattr(fetching, "_download", download)
    return asked


def as_on_hub(card):
    """That card with the sums of what the local hub gives."""
    files = {
        part: replace(file, megabytes=None, md5=hashlib.md5((file.path or "").encode()).hexdigest())
        for part, file in card.files.items()
    }
    return replace(card, files=files)


def quiet():
    return Console(file=io.StringIO(), width=200)


def test_files_come_to_the_folder_and_the_missing_one_is_named(hub, tmp_path):
    console = quiet()
    found = fetch(as_on_hub(load_card("brainldm-vcm")), tmp_path / "files", False, console)
    assert {part: path.name for part, path in found.items()} == {
        "autoencoder": "autoencoder.pt",
        "denoiser": "model.pt",
    }
    assert all(path.is_relative_to(tmp_path / "files") for path in found.values())
    said = console.file.getvalue()
    assert "Next: vcm weights import brainldm-vcm --autoencoder" in said
    assert said.index("licence Apache-2.0") < said.index("module: get its file yourself")


@pytest.mark.parametrize("name", ["maisi-mr", "maisi-ct", "maisi-mr-brain"])
def test_a_licence_is_shown_and_asked_for_first(hub, tmp_path, name):
    console = quiet()
    card = as_on_hub(load_card(name))
    with pytest.raises(VCMError, match="which is to be accepted"):
        fetch(card, tmp_path, False, console)
    assert hub == [] and "NVIDIA" in console.file.getvalue()
    assert set(fetch(card, tmp_path, True, console)) == {"autoencoder", "denoiser"}


def test_a_file_of_another_sum_or_size_is_refused(hub, tmp_path):
    card = load_card("brainldm")
    with pytest.raises(VCMError, match=r"55\.1 were published"):
        fetch(card, tmp_path, False, quiet())
    files = {part: replace(file, megabytes=None) for part, file in card.files.items()}
    with pytest.raises(VCMError, match="329e97b3085643ff235f11f049856242 was published"):
        fetch(replace(card, files=files), tmp_path, False, quiet())


def test_an_embedded_model_is_not_fetched(hub):
    with pytest.raises(VCMError, match="travels with the package"):
        fetch("brain2mm", None, True, quiet())


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("cannot find the requested files in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(VCMError, match=r"could not be fetched .* HF_ENDPOINT"):
        fetch("brainldm", tmp_path, False, quiet())
