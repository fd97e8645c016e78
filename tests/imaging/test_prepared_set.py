"""A prepared table that somebody has changed is read as it says, or refused by cell."""

import pytest

from vcm.errors import VCMError
from vcm.imaging.prepared_set import load_prepared

HEADER = "participant_id\tsplit\tage\tsex\tventricular_volume\tbrain_volume\n"


def load(folder, rows, header=HEADER, encoding="utf-8"):
    (folder / "participants.tsv").write_bytes((header + rows).encode(encoding))
    return load_prepared(folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_is_known_and_what_is_not(tmp_path, encoding):
    one, two = load(tmp_path, "sub-1\ttrain\t34.5\tF\t20\tn/a\nsub-2\ttest\n", encoding=encoding)
    assert (one.age, one.sex, one.ventricular_volume, one.brain_volume) == (34.5, "F", 20, None)
    assert (two.split, two.age, two.sex) == ("test", None, None)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("sub-1\ttrain\t45Y\tF\t20\t1000\n", "age of sub-1 in .* is '45Y': write a number"),
        ("sub-1\ttrain\t45,5\tF\t20\t1000\n", "age of sub-1 in .* is '45,5'"),
        ("sub-1\ttrain\t45\tmale\t20\t1000\n", "sex of sub-1 in .* is 'male': write F, M or n/a"),
        ("sub-1\ttrain\t45\tM\tinf\t1000\n", "ventricular_volume of sub-1 in .* is 'inf'"),
        (
            "sub-1\tval\t45\tM\t2\t3\n",
            "split of sub-1 in .* is 'val': write train, validation or test",
        ),
        ("sub-1\ttrain\t45\tM\t2\t3\nsub-2\t\t5\tM\t2\t3\n", "split of sub-2 in .* is ''"),
    ],
)
def test_a_cell_that_says_something_else_is_not_taken_for_unknown(tmp_path, rows, sentence):
    with pytest.raises(VCMError, match=sentence):
        load(tmp_path, rows)


def test_columns_and_encodings_of_another_program(tmp_path):
    with pytest.raises(VCMError, match="has no split, sex"):
        load(tmp_path, "sub-1\t3\t4\t5\n", HEADER.replace("\tsplit", "").replace("\tsex", ""))
    with pytest.raises(VCMError, match="is no table in UTF-8"):
        load(tmp_path, "sub-1\ttrain\t3\tF\t4\t5\n", encoding="utf-16")


def test_a_folder_that_is_given_twice_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    load(tmp_path / "set", "sub-1\ttrain\t34.5\tF\t20\tn/a\n")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    with pytest.raises(VCMError, match=r"link is given twice, the first time as .*set: give each"):
        load_prepared(tmp_path / "set", tmp_path / "link")


def test_a_folder_that_is_not_there_or_not_prepared_is_named(tmp_path):
    with pytest.raises(VCMError, match=r"nowhere is not there: give a folder that vcm prepare"):
        load_prepared(tmp_path / "nowhere")
    with pytest.raises(VCMError, match=r"holds no participants.tsv: give a folder"):
        load_prepared(tmp_path)
