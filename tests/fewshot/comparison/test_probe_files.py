"""Embeddings and the classes of a table, as files."""

import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.layouts import Case
from vcm.fewshot.comparison.probe_files import probe_folder
from vcm.imaging.participants import subject_of


@pytest.fixture
def probed(tmp_path):
    """Probe vectors by the name of their case, with a row each."""

    def run(vectors, classes):
        (tmp_path / "vectors").mkdir(exist_ok=True)
        for name, vector in vectors.items():
            np.save(tmp_path / "vectors" / f"{name}.npy", vector.astype(np.float32))
        rows = [f"{name}\t{label}" for name, label in classes.items()]
        table = tmp_path / "participants.tsv"
        table.write_text("\n".join(["participant_id\tgroup", *rows]) + "\n", encoding="utf-8")
        return probe_folder(tmp_path / "vectors", table, "participant_id", "group", ["group"])

    return run


def test_two_sessions_of_a_subject_tell_nothing_of_others(probed):
    """Each subject has a vector and a class at random: what a head knows of it, it knows by heart."""
    random = np.random.default_rng(0)
    vectors, classes = {}, {}
    for number in range(40):
        own = 3 * random.standard_normal(64)
        for session in (1, 2):
            name = f"sub-{number:02}_ses-{session}"
            vectors[name] = own + 0.1 * random.standard_normal(64)
            classes[name] = "ab"[number % 2]
    assert probed(vectors, classes).auroc < 0.7


@pytest.mark.parametrize("unknown", ["NA", "n/a", "NaN", ""])
def test_an_unknown_class_is_no_class(probed, unknown):
    random = np.random.default_rng(0)
    names = [f"sub-{number:02}" for number in range(30)]
    classes = {name: ("a", "b", unknown)[number % 3] for number, name in enumerate(names)}
    found = probed({name: random.standard_normal(8) for name in names}, classes)
    assert set(found.groups["f1"]["group"]) == {"a", "b"}


def test_a_class_of_few_subjects_is_refused_however_many_sessions_they_have(probed):
    names = [f"sub-{n}_ses-{s}" for n in range(9) for s in range(3)]
    classes = {name: "b" if name < "sub-4" else "a" for name in names}
    with pytest.raises(VCMError, match="The class 1 has 4 subjects, but a probe needs five"):
        probed({name: np.ones(4) for name in names}, classes)


def test_subjects_are_those_of_cases():
    for name in ("sub-1_ses-2", "sub_1_ses_2", "P0", "P0_ses-1_run-1", "BraTS-GLI-00001-001"):
        assert subject_of(name) == Case(name, {}).subject
    assert subject_of("BraTS-GLI-00001-001") == "BraTS-GLI-00001"


def test_an_unknown_group_is_no_group_and_cases_without_a_vector_are_named(tmp_path):
    random = np.random.default_rng(0)
    rows = ["participant_id\tgroup\tsex"]
    for number in range(40):
        rows.append(
            f"sub-{number:02}\t{'ab'[number % 2]}\t{'n/a' if number < 4 else 'FM'[number // 2 % 2]}"
        )
        if number < 38:
            np.save(tmp_path / f"sub-{number:02}.npy", random.standard_normal(8))
    table = tmp_path / "participants.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.warns(VCMWarning, match="2 of 40 cases with a group .*: sub-38, sub-39"):
        found = probe_folder(tmp_path, table, "participant_id", "group", ["sex"])
    assert set(found.groups["f1"]["sex"]) == {"F", "M"}


def measured(found):
    return found.auroc, found.f1, found.groups["f1"]


def test_a_row_that_is_there_twice_counts_once(probed, tmp_path):
    random = np.random.default_rng(0)
    names = [f"sub-{number:02}" for number in range(30)]
    classes = {name: "ab"[number % 2] for number, name in enumerate(names)}
    expected = probed({name: random.standard_normal(8) for name in names}, classes)
    table = tmp_path / "participants.tsv"
    rows = table.read_text(encoding="utf-8").splitlines()

    def again(*further):
        table.write_text("\n".join([*rows, *further]) + "\n", encoding="utf-8")
        return probe_folder(tmp_path / "vectors", table, "participant_id", "group", ["group"])

    assert measured(again(*rows[-3:])) == measured(expected)
    with pytest.raises(VCMError, match=r"are of sub-29\.npy, with the group 'b' and 'a': keep one"):
        again("sub-29\ta")


def test_an_embedding_that_holds_no_numbers_is_refused_by_its_name(probed):
    """One value that is none would make all of a head so, and every case the worst."""
    random = np.random.default_rng(0)
    vectors = {f"sub-{number:02}": random.standard_normal(8) for number in range(30)}
    classes = {name: "ab"[number % 2] for number, name in enumerate(vectors)}
    rows = {name: vector[None] for name, vector in vectors.items()}
    assert measured(probed(rows, classes)) == measured(probed(vectors, classes))
    vectors["sub-07"][3] = np.nan
    with pytest.raises(VCMError, match=r"sub-07.npy has the shape \(8,\) and 1 values that"):
        probed(vectors, classes)
