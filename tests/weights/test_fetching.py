"""Licences are shown and asked for before anything is fetched; what comes is checked."""

import hashlib
import sys
from dataclasses import replace

import pytest

from vcm.cli import main as cli
from vcm.errors import VCMError
from vcm.weights import fetching
from vcm.weights.cards import load_card
from vcm.weights.fetching import LicenceNotAccepted, fetch


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


def test_files_come_to_the_folder_and_the_missing_one_is_named(hub, tmp_path):
    said = []
    found = fetch(as_on_hub(load_card("brainldm-vcm")), tmp_path / "files", False, said.append)
    assert {part: path.name for part, path in found.items()} == {
        "autoencoder": "autoencoder.pt",
        "denoiser": "model.pt",
    }
    assert all(path.is_relative_to(tmp_path / "files") for path in found.values())
    assert "licence Apache-2.0" in said[0]
    assert said[-1].startswith("module: get its file yourself")


@pytest.mark.parametrize("name", ["maisi-mr", "maisi-ct", "maisi-mr-brain"])
def test_a_licence_is_shown_and_asked_for_first(hub, tmp_path, name):
    said = []
    card = as_on_hub(load_card(name))
    with pytest.raises(LicenceNotAccepted, match="read it, then accept it"):
        fetch(card, tmp_path, False, said.append)
    assert hub == [] and "NVIDIA" in "".join(said)
    assert set(fetch(card, tmp_path, True)) == {"autoencoder", "denoiser"}


def test_a_file_of_another_sum_or_size_is_refused(hub, tmp_path):
    card = load_card("brainldm")
    with pytest.raises(VCMError, match=r"55\.1 were published"):
        fetch(card, tmp_path, False)
    files = {part: replace(file, megabytes=None) for part, file in card.files.items()}
    with pytest.raises(VCMError, match="329e97b3085643ff235f11f049856242 was published"):
        fetch(replace(card, files=files), tmp_path, False)


def test_an_embedded_model_is_not_fetched(hub):
    with pytest.raises(VCMError, match="travels with the package"):
        fetch("brain2mm", None, True)


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("cannot find the requested files in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(VCMError, match=r"could not be fetched .* HF_ENDPOINT"):
        fetch("brainldm", tmp_path, False)


@pytest.mark.parametrize("accepts", [False, True])
def test_the_command_names_its_option_and_the_next_step(
    hub, tmp_path, monkeypatch, capsys, accepts
):
    card = as_on_hub(load_card("maisi-mr"))
    monkeypatch.setattr(fetching, "load_card", lambda name: card)
    options = ["--accept-license"] if accepts else []
    monkeypatch.setattr(
        sys, "argv", ["vcm", "weights", "fetch", "maisi-mr", "--out", str(tmp_path), *options]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == (0 if accepts else 2)
    said = capsys.readouterr().err
    assert ("--accept-license" in said) != accepts
    assert ("Next: vcm weights import maisi-mr --autoencoder" in said) == accepts
