"""The page of a study, from runs as they are stored."""

import json
import re

from vcm.fewshot.comparison.page import write_page
from vcm.files import read_table, write_json, write_table


def test_what_a_method_looked_through_is_told_for_every_task(tmp_path):
    for task, network in (("one", "network of T1w"), ("two", "network of any contrast")):
        folder = tmp_path / "runs" / task / "volumes" / "5" / "0"
        folder.mkdir(parents=True)
        rows = [
            {"test": "t", "case": str(n), "truth": str(n), "answer": str(n + 1)} for n in range(4)
        ]
        write_table(folder / "answers.tsv", rows, list(rows[0]))
        record = {"task": task, "kind": "regression", "method": "volumes", "parents": network}
        write_json(folder / "run.json", {**record, "shots": 5, "seed": 0})
    study = {"tasks": [], "out": str(tmp_path), "reference": "mean"}
    (tmp_path / "study.json").write_text(json.dumps({"study": study}), encoding="utf-8")
    text = write_page(tmp_path).read_text(encoding="utf-8")
    assert "the reference `mean` has no runs of this task" in text
    assert "* volumes: network of T1w\n* volumes: network of any contrast" in text


def test_a_correlation_with_one_draw_of_equal_answers_is_undefined_and_no_mean_of_minus_100(
    tmp_path,
):
    for method, flat in (("volumes", ()), ("voxels", (1,))):
        for seed in range(3):
            folder = tmp_path / "runs" / "age" / method / "5" / str(seed)
            folder.mkdir(parents=True)
            rows = [
                {
                    "test": "t",
                    "case": str(n),
                    "truth": str(n),
                    "answer": "2" if seed in flat else str(n % 3),
                }
                for n in range(6)
            ]
            write_table(folder / "answers.tsv", rows, list(rows[0]))
            record = {"task": "age", "kind": "regression", "method": method, "parents": "none"}
            write_json(folder / "run.json", {**record, "shots": 5, "seed": seed})
    study = {"tasks": [], "out": str(tmp_path), "reference": "volumes"}
    (tmp_path / "study.json").write_text(json.dumps({"study": study}), encoding="utf-8")
    text = write_page(tmp_path).read_text(encoding="utf-8")
    assert "| 5 | 3 | voxels | undefined |" in text and "| 5 | voxels | undefined |" in text
    assert {row["metric"] for row in read_table(tmp_path / "comparisons.tsv")} == {"mae"}


def test_tests_of_similar_names_have_pictures_of_their_own(tmp_path):
    tests = ["a b", "a-b", "for $5, $6 (#2)"]
    folder = tmp_path / "runs" / "age" / "mean" / "5" / "0"
    folder.mkdir(parents=True)
    rows = [
        {"test": test, "case": str(n), "truth": str(n), "answer": str(n % (k + 2))}
        for k, test in enumerate(tests)
        for n in range(6)
    ]
    write_table(folder / "answers.tsv", rows, list(rows[0]))
    record = {"task": "age", "kind": "regression", "method": "mean", "parents": "none"}
    write_json(folder / "run.json", {**record, "shots": 5, "seed": 0})
    study = {"tasks": [], "out": str(tmp_path), "reference": "mean"}
    (tmp_path / "study.json").write_text(json.dumps({"study": study}), encoding="utf-8")
    text = write_page(tmp_path).read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*]\((.*)\)", text)
    assert len(set(pictures)) == 6 == len(list(tmp_path.glob("*.png")))
    assert all(re.fullmatch(r"[\w.-]+", name) for name in pictures)


def test_differences_to_an_earlier_reference_do_not_stay(tmp_path):
    for method in ("mean", "voxels"):
        folder = tmp_path / "runs" / "age" / method / "5" / "0"
        folder.mkdir(parents=True)
        rows = [
            {"test": "t", "case": str(n), "truth": str(n), "answer": str(n % 3)} for n in range(6)
        ]
        write_table(folder / "answers.tsv", rows, list(rows[0]))
        record = {"task": "age", "kind": "regression", "method": method, "parents": "none"}
        write_json(folder / "run.json", {**record, "shots": 5, "seed": 0})
    for reference in ("mean", "segmenter"):
        study = {"tasks": [], "out": str(tmp_path), "reference": reference}
        (tmp_path / "study.json").write_text(json.dumps({"study": study}), encoding="utf-8")
        write_page(tmp_path)
        assert (tmp_path / "comparisons.tsv").is_file() == (reference == "mean")
