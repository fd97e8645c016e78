"""What a run learned from is recorded in its folder, and compared when it resumes."""

import json
from dataclasses import dataclass

import pytest
from small_training import BRIEF, SmallTraining, begin, draw_products

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.learning.origin import Origin
from vcm.learning.run_folder import CHECKPOINT, ORIGIN
from vcm.learning.schedule import MAY_CHANGE

SCANS = {"sub-1": "a" * 64, "sub-2": "b" * 64, "sub-3": "c" * 64}
BEGUN = Origin({"model": "1" * 64, "autoencoder": "2" * 64}, SCANS)


@dataclass
class Steered(SmallTraining):
    model: str = "m2"
    autoencoder: str = "a2"


@dataclass
class Loose(Steered):
    may_change = MAY_CHANGE | {"model", "data"}


def resumed(folder, origin, kind=Steered, *overrides):
    config = load_config(kind, None, [*BRIEF, f"out={folder}", *overrides])
    run, _ = begin(config)
    run.origin = origin
    run.fit(lambda _: draw_products)
    return run


def recorded(folder):
    return Origin(**json.loads((folder / ORIGIN).read_text()))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("model", "began on the frozen model 111111111111, and m2 is 999999999999"),
        ("autoencoder", "began on the autoencoder 222222222222, and a2 is 999999999999"),
    ],
)
def test_another_network_at_the_same_path_is_refused(tmp_path, key, said):
    resumed(tmp_path, BEGUN)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = Origin(BEGUN.networks | {key: "9" * 64}, SCANS)
    with pytest.raises(VCMError, match=f"{said}.* begin another run with another out=FOLDER"):
        resumed(tmp_path, other)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before and recorded(tmp_path) == BEGUN
    assert resumed(tmp_path, BEGUN, Steered, "steps=14").step == 14


@pytest.mark.parametrize(
    ("scans", "said"),
    [
        ({k: v for k, v in SCANS.items() if k != "sub-2"}, r"\(gone: sub-2\)"),
        (SCANS | {"sub-4": "d"}, r"\(new: sub-4\)"),
        (SCANS | {"sub-3": "d"}, r"\(changed: sub-3\)"),
        ({"sub-9": "a"} | SCANS | {"sub-1": "z"}, r"\(new: sub-9; changed: sub-1\)"),
        (SCANS | {f"sub-1{n}": "d" for n in range(9)}, r"\(new: sub-10, .*, sub-14 and 4 more\)"),
    ],
)
def test_other_training_scans_are_refused_by_their_names(tmp_path, scans, said):
    resumed(tmp_path, BEGUN)
    with pytest.raises(VCMError, match=f"other training scans {said}.* another out=FOLDER"):
        resumed(tmp_path, Origin(BEGUN.networks, scans))


def test_what_may_change_is_said_and_recorded(tmp_path, capsys):
    resumed(tmp_path, BEGUN, Loose)
    other = Origin({"model": "9" * 64, "autoencoder": "2" * 64}, {"sub-1": "a" * 64})
    assert resumed(tmp_path, other, Loose, "steps=14").step == 14
    said = "model 111111111111 -> 999999999999", "other training scans (gone: sub-2, sub-3)"
    told, kept = capsys.readouterr().err, (tmp_path / "config.yaml").read_text()
    assert all(f"resumes from step 12 with {one}" in told for one in said)
    assert all(f"# from step 12: {one}" in kept for one in said)
    assert recorded(tmp_path) == other


def test_a_run_begun_before_there_was_a_record_resumes_and_gets_one(tmp_path):
    resumed(tmp_path, None)
    assert not (tmp_path / ORIGIN).exists()
    assert resumed(tmp_path, BEGUN, Steered, "steps=13").resumes
    assert recorded(tmp_path) == BEGUN
    with pytest.raises(VCMError, match="began on other training scans"):
        resumed(tmp_path, Origin(BEGUN.networks, {}))


def test_a_run_without_a_checkpoint_begins_on_what_is_there_now(tmp_path):
    resumed(tmp_path, BEGUN)
    (tmp_path / CHECKPOINT).unlink()
    other = Origin({"model": "9" * 64}, {})
    assert not resumed(tmp_path, other).resumes
    assert recorded(tmp_path) == other


def test_a_damaged_record_is_one_sentence(tmp_path):
    resumed(tmp_path, BEGUN)
    (tmp_path / ORIGIN).write_text('{"networks": {')
    with pytest.raises(VCMError, match=r"origin\.json cannot be read .*: copy it again"):
        resumed(tmp_path, BEGUN)
