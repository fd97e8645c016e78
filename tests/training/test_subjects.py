import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.prepared_set import load_prepared
from vcm.training.subjects import choose_subjects

COLUMNS = "participant_id\tsplit\tage\tsex\tventricular_volume\tbrain_volume"


@pytest.fixture
def folder(tmp_path):
    def write(rows):
        lines = [f"{name}\t{split}\t40\tF\t20\t1200" for name, split in rows]
        (tmp_path / "participants.tsv").write_text("\n".join([COLUMNS, *lines]) + "\n")
        return [str(tmp_path)]

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


def test_a_split_of_its_own_is_taken_where_there_is_one(folder):
    data = folder([*TRAIN, ("sub-80", "validation"), *TEST])
    chosen = choose_subjects(data, COVARIATES, None, 0, 4)
    assert names(chosen["validation"]) == ["sub-80"] and len(chosen["train"]) == 30
    assert len(load_prepared(*data)) == 33


def test_more_than_there_are_is_refused(folder):
    with pytest.raises(VCMError, match="max_samples is 31, but 30 scans"):
        choose_subjects(folder(TRAIN + TEST), COVARIATES, 31, 0, 0)
    with pytest.raises(VCMError, match="No scan is left"):
        choose_subjects(folder(TRAIN[:3] + TEST), COVARIATES, None, 0, 3)
