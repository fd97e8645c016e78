import warnings
from pathlib import Path

import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.scan_checksums import check_apart
from vcm.training.subjects import choose_subjects, complete_scans

COLUMNS = "participant_id\tsplit\tage\tsex\tventricular_volume\tbrain_volume\tparticipant"


@pytest.fixture
def folder(tmp_path):
    """Writes a prepared folder of scans (name, split, person, age), of which images are a few bytes."""

    def write(rows, name="prepared"):
        out, lines = tmp_path / name, [COLUMNS]
        for scan, split, *more in rows:
            person, age = (*more, *(scan, 40)[len(more) :])
            lines.append(f"{scan}\t{split}\t{age}\tF\t20\t1200\t{person}")
            (out / scan).mkdir(parents=True, exist_ok=True)
            (out / scan / f"{scan}_T1w.nii.gz").write_text(f"{name} {scan}")
        (out / "participants.tsv").write_text("\n".join(lines) + "\n")
        return [str(out)]

    return write


TRAIN = [(f"sub-{n:02d}", "train") for n in range(30)]
TEST = [("sub-90", "test"), ("sub-91", "test")]


def names(subjects):
    return [s.subject for s in subjects]


def test_subsets_of_one_seed_are_nested_and_another_seed_gives_others(folder):
    data = folder(TRAIN + TEST)
    few, some, all_ = (
        names(choose_subjects(data, COVARIATES, n, 0, 0)["train"]) for n in (5, 12, 30)
    )
    assert few == some[:5] and some == all_[:12] and len(set(all_)) == 30
    assert set(few) != set(names(choose_subjects(data, COVARIATES, 5, 1, 0)["train"]))
    # Not of the order of the table.
    shuffled = [TRAIN[i] for i in np.random.default_rng(3).permutation(30)]
    assert names(choose_subjects(folder(shuffled + TEST), COVARIATES, 5, 0, 0)["train"]) == few


def test_validation_is_held_out_of_train_and_never_of_test(folder):
    data = folder(TRAIN + TEST)
    chosen = choose_subjects(data, COVARIATES, None, 0, 4)
    train, held_out = (set(names(chosen[n])) for n in ("train", "validation"))
    assert len(held_out) == 4 and not train & held_out and len(train | held_out) == 30
    assert names(chosen["test"]) == ["sub-90", "sub-91"]
    # The same scans are held out however many are trained on.
    assert set(names(choose_subjects(data, COVARIATES, 5, 0, 4)["validation"])) == held_out


def test_whole_persons_are_held_out(folder):
    twice = [
        (f"sub-{n:02d}_ses-{k}", "train", f"sub-{n:02d}") for n in range(12) for k in (1, 2, 3)
    ]
    for seed in range(5):
        chosen = choose_subjects(folder(twice + TEST), COVARIATES, None, seed, 4)
        train, held_out = ({s.participant for s in chosen[n]} for n in ("train", "validation"))
        assert len(chosen["validation"]) == 4 and train and not train & held_out
        assert len(chosen["train"]) == 3 * (12 - len(held_out))


def test_a_split_of_its_own_is_taken_where_there_is_one(folder):
    data = folder([*TRAIN, ("sub-80", "validation"), *TEST])
    chosen = choose_subjects(data, COVARIATES, None, 0, 4)
    assert names(chosen["validation"]) == ["sub-80"] and len(chosen["train"]) == 30
    assert len(load_prepared(*data)) == 33
    assert choose_subjects(data, COVARIATES, None, 0, 0)["validation"] == []


def test_validation_takes_the_first_scans_of_which_all_is_known(folder):
    own = [("sub-80", "validation", "sub-80", "n/a"), ("sub-81", "validation")]
    with pytest.warns(VCMWarning, match=r"1 of 2 validation scans .* \(no age\): sub-80\."):
        chosen = choose_subjects(folder([*TRAIN, *own, *TEST]), COVARIATES, None, 0, 1)
    assert names(chosen["validation"]) == ["sub-81"]


def test_more_than_there_are_is_refused(folder):
    with pytest.raises(VCMError, match="max_samples is 31, but 30 scans"):
        choose_subjects(folder(TRAIN + TEST), COVARIATES, 31, 0, 0)
    with pytest.raises(VCMError, match="No scan is left"):
        choose_subjects(folder(TRAIN[:3] + TEST, "few"), COVARIATES, None, 0, 3)


def test_scans_without_an_age_are_counted_and_named(folder):
    rows = [(name, split, name, "n/a" if n < 18 else 40) for n, (name, split) in enumerate(TRAIN)]
    data = folder([*rows[:20], ("sub-90", "test", "sub-90", "n/a"), ("sub-91", "test")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = choose_subjects(data, COVARIATES, None, 0, 0)
    said = [str(w.message) for w in caught if w.category is VCMWarning]
    first = "18 of 20 training scans are left out (no age): sub-00, sub-01, "
    assert said[0].startswith(first) and "sub-09, ...: " not in said[0]
    assert "sub-09, ..." in said[0] and "sub-10" not in said[0] and "then prepare" in said[0]
    assert said[1].startswith("1 of 2 test scans are left out (no age): sub-90.")
    assert names(chosen["train"]) == ["sub-18", "sub-19"] and names(chosen["test"]) == ["sub-91"]


def test_all_that_is_lacking_is_named_and_nothing_where_nothing_is(folder):
    subjects = load_prepared(*folder(TRAIN[:3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert complete_scans(subjects, COVARIATES, "training") == subjects
    object.__setattr__(subjects[0], "age", None)
    object.__setattr__(subjects[2], "brain_volume", None)
    with pytest.warns(VCMWarning, match=r"2 of 3 .* \(no age or brain_volume\): sub-00, sub-02\."):
        assert complete_scans(subjects, COVARIATES, "training") == subjects[1:2]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_an_image_in_train_of_one_folder_and_measured_on_in_another_is_refused(folder, split):
    one, two = folder(TRAIN[:3], "one"), folder([("sub-50", split), ("sub-51", "test")], "two")
    held_out = 1 if split == "validation" else 0
    assert len(choose_subjects([*one, *two], COVARIATES, None, 0, held_out)["train"]) == 3
    copied, over = (
        Path(data, name, f"{name}_T1w.nii.gz")
        for data, name in ((one[0], "sub-01"), (two[0], "sub-50"))
    )
    over.write_bytes(copied.read_bytes())
    with pytest.raises(
        VCMError, match=r"sub-01 in .*one is to be trained on and sub-50 in .*two.* the same image"
    ):
        choose_subjects([*one, *two], COVARIATES, None, 0, held_out)


def test_a_name_in_train_of_one_folder_and_in_test_of_another_is_warned_of(folder):
    one, two = folder(TRAIN[:3], "one"), folder([("sub-01", "test"), ("sub-60", "test")], "two")
    with pytest.warns(VCMWarning, match=r"same names as persons to train on.* \(1\): sub-01\."):
        chosen = choose_subjects([*one, *two], COVARIATES, None, 0, 0)
    assert names(chosen["train"]) == ["sub-00", "sub-01", "sub-02"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_apart(chosen["train"][:1], chosen["test"])
