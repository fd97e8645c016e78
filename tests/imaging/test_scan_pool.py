"""Scans drawn anew: covariates are measured in what came out; a pack holds no test scans."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_pool import small_pool

from vcm.errors import VCMError, VCMWarning
from vcm.files import write_table
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.prepared_set import COLUMNS
from vcm.imaging.scan_pool import load_pool, pack_scans
from vcm.imaging.volume import Volume, write_volume


def test_covariates_are_those_of_the_map() -> None:
    pool = small_pool()
    found = pool.covariates(torch.tensor([1]), pool.classes[1:2])
    ventricles, brain = ventricular_and_brain_volume(pool.classes[1].numpy(), 0.008)
    expected = [1.0, 0.5, ventricles / 5, (brain - 1) / 29]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_covariates_are_measured_after_the_deformation() -> None:
    pool = small_pool()
    brains = pool.make(pool.draw(2, DeformationSizes(), np.random.default_rng(1)))
    ventricles, brain = ventricular_and_brain_volume(brains.classes[0, 0].numpy(), 0.008)
    found = brains.covariates[0, 2:].tolist()
    assert found == pytest.approx([ventricles / 5, (brain - 1) / 29], rel=1e-5)


def test_a_batch_is_the_same_from_the_same_generator() -> None:
    first, second = (
        small_pool().make(small_pool().draw(2, DeformationSizes(), np.random.default_rng(1)))
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.images.shape == first.classes.shape == (2, 1, 16, 16, 16)
    assert first.images.min() >= 0
    assert first.images.max() <= 1
    assert first.covariates.shape == (2, 4)


def test_an_unchanged_scan_keeps_its_map() -> None:
    pool = small_pool(smooth=True)
    brains = pool.make(pool.unchanged(1))
    same = (brains.classes[0, 0] == pool.classes[1]).float().mean()
    assert same > 0.95
    assert (brains.images[0, 0] - pool.images[1].float() / 255).abs().mean() < 0.02


def prepared(folder: Path) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for n, split in enumerate(("train", "train", "validation", "test", "train")):
        name = f"sub-{n}"
        (folder / name).mkdir(parents=True)
        for suffix, high in (("T1w", 255), ("dseg", 9)):
            data = random.integers(0, high, (8, 8, 8))
            values = data.astype(np.uint8) if suffix == "dseg" else (data / 255).astype(np.float32)
            path = folder / name / f"{name}_{suffix}.nii.gz"
            write_volume(Volume(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        row = dict.fromkeys(COLUMNS, "") | {
            "participant_id": name, "split": split, "age": "" if n == 4 else 30.0 + n,
            "sex": "FM"[n % 2], "ventricular_volume": 1.0 + n, "brain_volume": 2.0 + n,
        }  # fmt: skip
        rows.append(row)
    write_table(folder / "participants.tsv", rows, COLUMNS)
    return folder


def test_scans_that_lack_something_are_named(tmp_path: Path) -> None:
    with pytest.warns(
        VCMWarning, match=r"1 of 4 scans are left out, .* label map with ventricles: sub-4\.$"
    ):
        assert load_pool([str(prepared(tmp_path))], "train").names == ["sub-0", "sub-1"]


def test_a_map_without_ventricles_does_not_teach_that_there_are_none(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "set")
    table = folder / "participants.tsv"
    table.write_text(
        table.read_text().replace("\t2.0\t3.0", "\tn/a\t3.0").replace("\t\tF", "\t44\tF")
    )
    with pytest.warns(
        VCMWarning, match=r"1 of 4 scans are left out.*label map with ventricles: sub-1"
    ):
        pool = load_pool([str(folder)], "train")
    assert pool.names == ["sub-0", "sub-4"]


def test_a_pack_has_what_the_folder_has_and_no_test_scan(tmp_path: Path) -> None:
    folder, pack = str(prepared(tmp_path / "prepared")), tmp_path / "scans.npz"
    assert 0 < pack_scans([folder], pack) < 100_000
    for split, names in (("train", ["sub-0", "sub-1"]), ("validation", ["sub-2"])):
        one, other = load_pool([str(pack)], split), load_pool([folder], split)
        assert one.names == other.names == names
        assert one.ranges == other.ranges == load_pool([folder], "train").ranges
        assert one.grid.shape == other.grid.shape
        assert np.array_equal(one.grid.affine, other.grid.affine)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.classes, other.classes)
    with np.load(pack) as held:
        assert set(held["names"]) == {"sub-0", "sub-1", "sub-2"}
    with pytest.raises(VCMError, match="No subject of split 'test'"):
        load_pool([str(pack)], "test")


def test_a_scan_to_train_on_of_one_folder_is_not_validated_with_of_another(tmp_path: Path) -> None:
    folders = [str(prepared(tmp_path / name)) for name in ("one", "two")]
    with pytest.warns(VCMWarning, match="left out"):
        assert len(load_pool(folders, "train")) == 4
    one, two = (tmp_path / name / "sub-2" for name in ("one", "two"))
    trained = tmp_path / "one" / "sub-0" / "sub-0_T1w.nii.gz"
    (one / "sub-2_T1w.nii.gz").write_bytes(trained.read_bytes())
    for use in (
        lambda: load_pool(folders[::-1], "validation"),
        lambda: pack_scans(folders, tmp_path / "p.npz"),
    ):
        with pytest.warns(VCMWarning), pytest.raises(VCMError, match="they hold the same image"):
            use()
    assert not (tmp_path / "p.npz").exists() and two.is_dir()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"\x93NUMPY", None])
def test_a_damaged_pack_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    pack = tmp_path / "scans.npz"
    if content is None:  # one array alone
        np.save(tmp_path / "one.npy", np.zeros(3))
        content = (tmp_path / "one.npy").read_bytes()
    pack.write_bytes(content)
    with pytest.raises(VCMError, match=r"scans.npz is no pack of prepared scans"):
        load_pool([str(pack)], "train")


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(VCMError, match=r"other.npz is no pack of prepared scans"):
        load_pool([str(tmp_path / "other.npz")], "train")
    with pytest.raises(VCMError, match=r"missing.npz is no pack of prepared scans"):
        load_pool([str(tmp_path / "missing.npz")], "train")


def test_a_scan_of_a_pool_is_known_by_its_voxels():
    pool = small_pool()
    before = pool.checksums()
    assert list(before) == ["a", "b", "c"] and small_pool().checksums() == before
    pool.images[1, 0, 0, 0] ^= 1
    pool.classes[2, 0, 0, 0] ^= 1
    after = pool.checksums()
    assert [n for n in before if before[n] != after[n]] == ["b", "c"]
