"""The page of a study, from runs as they are stored."""

import json

from vcm.fewshot.comparison.page import write_page
from vcm.files import write_json, write_table


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
