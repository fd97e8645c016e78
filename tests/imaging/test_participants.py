import json
import re

import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.participants import (
    Participant,
    ages_of_sessions,
    one_participant,
    parse_age,
    parse_sex,
    read_participants,
    read_rows,
)

TABLE = "participant_id\tage\tsex\tsite\nsub-01\t39\tM\tKöln\nsub-02\t50\tF\tKöln\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_table_of_any_program_is_read(tmp_path, encoding, ends):
    path = tmp_path / "participants.tsv"
    path.write_bytes(TABLE.replace("\n", ends).encode(encoding))
    rows = read_rows(path)
    assert [row["participant_id"] for row in rows] == ["sub-01", "sub-02"]
    assert rows[0] == {"participant_id": "sub-01", "age": "39", "sex": "M", "site": "Köln"}


def test_what_spreadsheets_leave_behind(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text('\r\nParticipant_ID;"Age"\r\n01 ;"32,5"\r\n;;\r\n\t\r\nsub-02\r\n')
    assert read_rows(path) == [
        {"participant_id": "01", "age": "32,5"},
        {"participant_id": "sub-02", "age": ""},
    ]
    assert [p.name for p in read_participants(tmp_path)] == ["sub-01", "sub-02"]
    path.write_text("id\tage\n1\t2\n")
    with pytest.raises(VCMError, match=r"participant_id \(its columns are id, age\)"):
        read_participants(tmp_path)
    path.unlink()
    assert read_participants(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("34", 34), ("34.5", 34.5), ("32,5", 32.5), (" 7 ", 7), ("045Y", 45), ("018M", 1.5),
        ("006W", 6 * 7 / 365.25), ("34 years", 34), ("34y", 34), ("34 yo", 34), ("6 months", 0.5),
        ("n/a", None), ("", None), ("NaN", None), ("unknown", None), ("0", 0), ("120", 120),
    ],
)  # fmt: skip
def test_ages_of_one_meaning_are_understood_without_a_word(text, age):
    assert parse_age(text) == (pytest.approx(age) if age is not None else None, "")


@pytest.mark.parametrize(("text", "age"), [("89+", 89), (">89", 89), (">= 90", 90), ("90 +", 90)])
def test_top_coded_ages_are_taken_with_a_note(text, age):
    assert parse_age(text) == (age, f"age '{text}' is taken for {age}")


@pytest.mark.parametrize("text", ["30-35", "-1", "999", "1,234", "middle", "1945-03-01", "34 cm"])
def test_other_ages_are_named(text):
    age, note = parse_age(text)
    assert age is None and text in note and "unknown" in note


@pytest.mark.parametrize(
    ("text", "sex"),
    [("F", "F"), ("f", "F"), ("Female", "F"), ("W", "F"), ("weiblich", "F"), ("woman", "F"),
     ("M", "M"), ("male", "M"), ("Man", "M"), ("männlich", "M"), ("n/a", None), ("", None)],
)  # fmt: skip
def test_sexes_of_one_meaning_are_understood_without_a_word(text, sex):
    assert parse_sex(text, {"f", "m"}) == (sex, "")


def test_codes_are_understood_only_where_they_have_one_meaning():
    assert parse_sex("1", {"1", "2"})[0] == "M" and parse_sex("2", {"1", "2"})[0] == "F"
    assert "ISO/IEC 5218" in parse_sex("2", {"1", "2", "n/a"})[1]
    for text, column in [
        ("1", {"0", "1"}),
        ("0", {"0", "1"}),
        ("1", {"1"}),
        ("2", {"0", "1", "2"}),
    ]:
        sex, note = parse_sex(text, column)
        assert sex is None and "write F or M" in note
    for text in ("other", "X", "3", "M/F"):
        assert parse_sex(text, set()) == (
            None, f"sex '{text}' is not understood, so it is unknown: write F or M"
        )  # fmt: skip
    assert parse_sex("M", {"h", "m"})[0] is None  # hombre, mujer


def test_the_sidecar_says_what_codes_mean(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-1\t0\nsub-2\t1\n")
    levels = {"sex": {"Levels": {"0": "Male participant", "1": "female"}}}
    (tmp_path / "participants.json").write_text(json.dumps(levels))
    assert [(p.sex, p.notes) for p in read_participants(tmp_path)] == [("M", ()), ("F", ())]
    (tmp_path / "participants.json").write_text("{")
    assert [p.sex for p in read_participants(tmp_path)] == [None, None]


def test_split_words(tmp_path):
    words = ["train", "Training", "val", "dev", "TEST", "n/a", "", "fold1"]
    rows = "".join(f"sub-{n}\t{word}\t1\n" for n, word in enumerate(words))
    (tmp_path / "participants.tsv").write_text("participant_id\tsplit\tx\n" + rows)
    assert [p.split for p in read_participants(tmp_path)] == [
        "train", "train", "validation", "validation", "test", "", "", "fold1",
    ]  # fmt: skip


def test_one_row_of_several():
    def row(age, session="", **other):
        return Participant("sub-1", session, age, **other)

    assert one_participant([row(3.0), row(3.0)], "") == (row(3.0), "")
    assert one_participant([row(3.0)], "ses-2") == (row(3.0), "")
    assert one_participant([row(3.0, "ses-1"), row(4.0, "ses-2")], "ses-2")[0].age == 4.0
    assert one_participant([row(3.0, "ses-1")], "")[0].age == 3.0
    for rows, session, word in [
        ([], "", "no row"),
        ([row(3.0), row(4.0)], "", "2 rows in participants.tsv that differ"),
        ([row(3.0, "ses-1"), row(4.0, "ses-1")], "ses-1", "2 rows"),
        ([row(3.0, "ses-1"), row(4.0, "ses-2")], "ses-3", "no row for ses-3"),
        ([row(3.0, "ses-1")], "ses-3", "no row for ses-3"),
    ]:
        found, problem = one_participant(rows, session)
        assert found is None and word in problem
    both, problem = one_participant([row(3.0, "ses-1", sex="F"), row(4.0, "ses-2", sex="F")], "")
    assert (both.age, both.sex, problem) == (None, "F", "") and "differ in age" in both.notes[0]


@pytest.mark.parametrize(
    ("unit", "age"),
    [("years", 30), ("Year", 30), ("yr", 30), ("a", 30), ("", 30), ("months", 2.5), ("[mo]", 2.5),
     ("weeks", 30 * 7 / 365.25), ("wk", 30 * 7 / 365.25), ("days", 30 / 365.25), ("decades", None)],
)  # fmt: skip
def test_ages_are_in_the_unit_that_the_description_gives(tmp_path, unit, age):
    described = {"Age": {"Description": "at the scan", "Units": unit}, "sex": {"Levels": []}}
    (tmp_path / "participants.json").write_text(json.dumps(described))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\nsub-2\t3 years\n")
    first, second = read_participants(tmp_path)
    assert first.age == (pytest.approx(age) if age is not None else None) and second.age == 3
    assert ("'decades', which is not understood" in "".join(first.notes)) == (age is None)
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1" / "sub-1_sessions.json").write_text(json.dumps(described))
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tage\nses-a\t30\n")
    told, note = ages_of_sessions(tmp_path, "sub-1")["ses-a"]
    assert told == (pytest.approx(age) if age is not None else None)
    assert ("'decades', which is not understood" in note) == (age is None)


def test_levels_of_sex_may_be_described_by_objects(tmp_path):
    levels = {
        "1": {"Description": "Female, by report"},
        "2": {"Description": "male"},
        "3": "",
        "4": None,
    }
    (tmp_path / "participants.json").write_bytes(
        json.dumps({"sex": {"Levels": levels}}).encode("utf-16")
    )
    rows = "".join(f"sub-{n}\t{n}\n" for n in (1, 2, 3))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    assert [p.sex for p in read_participants(tmp_path)] == ["F", "M", None]


@pytest.mark.parametrize(
    ("sex", "found"),
    [
        ({"Levels": {"1": "The subject is female", "2": "Biological sex: male"}}, ["F", "M", None]),
        ({"Levels": {"1": "first group", "2": "second group"}}, [None, None, None]),
        ({"Levels": {"1": "male, not female", "2": "is female, not male"}}, ["M", None, None]),
        ({"Description": "Sex (1 = female, 2 = male)"}, ["F", "M", None]),
        ({"Levels": {"1": "Not female", "2": "non-male"}}, [None, None, None]),
        ({"Description": "female: 1; male: 2"}, ["F", "M", None]),
        ({"Description": "1 = female"}, ["F", None, None]),
        ({"Description": "sex: 1=female, 2=male"}, ["F", "M", None]),
        ({"Description": "2/1 = male/female"}, [None, None, None]),
        ({"Description": "as told by the participant"}, ["M", "F", None]),
    ],
)
def test_a_description_of_the_codes_counts_more_than_the_standard(tmp_path, sex, found):
    (tmp_path / "participants.json").write_text(json.dumps({"sex": sex}))
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nA\t1\nB\t2\nC\tn/a\n")
    assert [p.sex for p in read_participants(tmp_path)] == found


@pytest.mark.parametrize("cell", ['"left handed', '"left" handed', 'a "quoted" word', '"both"'])
def test_a_quotation_mark_takes_no_row_with_it(tmp_path, cell):
    rows = f"sub-1\t{cell}\t30\nsub-2\tok\t31\n"
    (tmp_path / "participants.tsv").write_text("participant_id\tremark\tage\n" + rows)
    assert [(p.name, p.age) for p in read_participants(tmp_path)] == [("sub-1", 30), ("sub-2", 31)]


def test_a_quotation_mark_between_commas_is_refused_where_nothing_closes_it(tmp_path):
    table = tmp_path / "participants.tsv"
    table.write_text('participant_id,remark,age\nsub-1,"a, b",30\n')
    assert read_participants(tmp_path)[0].age == 30
    table.write_text('participant_id,remark,age\nsub-1,"a, b,30\nsub-2,,31\n')
    with pytest.raises(VCMError, match="close every quotation mark"):
        read_participants(tmp_path)


def test_a_row_of_more_cells_than_columns_is_refused(tmp_path):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id,sex,age\nsub-1,F,34,,\n")
    assert read_participants(tmp_path)[0].age == 34
    table.write_text("participant_id,sex,age\nsub-1,F,34,5\n")
    with pytest.raises(VCMError, match=r"more cells than there are columns \(sub-1, F, 34, 5\)"):
        read_participants(tmp_path)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tAge\nsub-1\t30\t\n")
    with pytest.raises(VCMError, match="has the column age 2 times"):
        read_participants(tmp_path)


@pytest.mark.parametrize("column", ["Age (years)", "age_at_scan", "AgeAtScan", "scan_age"])
def test_a_column_of_ages_with_another_name_is_named(tmp_path, column):
    table = tmp_path / "participants.tsv"
    table.write_text(f"participant_id\t{column}\nsub-1\t40\n")
    with pytest.warns(
        VCMWarning, match=rf"no column age, .* but one called '{re.escape(column.lower())}'"
    ):
        (row,) = read_participants(tmp_path)
    assert row.age is None
    table.write_text(f"participant_id\tage\t{column}\tagent\nsub-1\t40\t41\tx\n")
    (row,) = read_participants(tmp_path)
    assert row.age == 40
