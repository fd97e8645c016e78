import json

import pytest

from vcm.checksums import (
    CHECKSUMS,
    checksums_of,
    record_checksums,
    verify_checksums,
    verify_network,
)
from vcm.embedded import embedded_folder, embedded_models
from vcm.errors import VCMError
from vcm.files import sha256

READ = ("net/a.safetensors", "net/config.json", "model_index.json", "segmenter.json")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net").mkdir()
    for name in (*READ, "README.md"):
        (tmp_path / name).write_text(name)
    record_checksums(tmp_path)
    return tmp_path


def test_what_loading_reads_is_recorded(folder):
    recorded = verify_checksums(folder)
    assert set(recorded) == {*READ} and checksums_of(folder) == recorded
    assert recorded["net/a.safetensors"] == sha256(folder / "net/a.safetensors")
    (folder / "README.md").write_text("a card may be edited")
    assert verify_checksums(folder) == recorded


def test_a_folder_without_checksums_passes(tmp_path):
    assert verify_checksums(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "net/a.safetensors").write_text("x"), "a.safetensors is not what it was"),
        (lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
        (lambda f: (f / CHECKSUMS).write_text("{"), "cannot be read"),
        (lambda f: (f / CHECKSUMS).write_text("[]"), "cannot be read"),
    ],
)
def test_what_changed_is_named(folder, change, reason):
    change(folder)
    with pytest.raises(VCMError, match=reason):
        verify_checksums(folder)


def test_a_part_of_a_model_has_its_checksums_in_the_folder_of_the_model(folder):
    verify_network(folder / "net")
    (folder / "segmenter.json").write_text("of another part")
    verify_network(folder / "net")
    (folder / "net/a.safetensors").write_text("x")
    with pytest.raises(VCMError, match=r"a.safetensors is not what it was"):
        verify_network(folder / "net")


@pytest.mark.parametrize("name", [*embedded_models(), "segmenter2mm"])
def test_embedded_weights_carry_checksums_of_every_tensor_file(name):
    folder = embedded_folder(name)
    recorded = json.loads((folder / CHECKSUMS).read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")}
    assert files <= set(recorded)


def test_no_embedded_file_says_where_it_was_made():
    folder = embedded_folder("brain2mm").parent
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in folder.rglob("*.json")]
    assert tables and not [t for t in tables if isinstance(t, dict) and "_name_or_path" in t]
