"""The page of a training run."""

from pathlib import Path

import pytest

import vcm
from vcm.report.training import write_training_report

#: Fit networks inside a study or a fine-tuning, which leaves a page of its own.
WITHIN = {"fewshot/methods/end_to_end.py", "fewshot/methods/segmentation.py"}


def test_every_job_that_trains_leaves_a_page():
    package = Path(vcm.__file__).parent
    trains = {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
        if " = TrainingRun(" in path.read_text(encoding="utf-8")
    }
    assert len(trains) >= 10 and trains.keys() > WITHIN
    without = {name for name, text in trains.items() if "    write_training_report(" not in text}
    assert without == WITHIN


def test_curves_measures_and_configuration_are_shown(tmp_path):
    rows = "".join(f"{n},{n},{1 / n}\n" for n in range(1, 6))
    (tmp_path / "log.csv").write_text("step,minutes,loss\n" + rows)
    (tmp_path / "config.yaml").write_text("steps: 5\nseed: 7\n")
    path = write_training_report(tmp_path, "Training of a thing", {"dice": 0.75})
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 1 and "0.75" in page and "seed: 7" in page


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ("test", "Means over the test scans"),
        ("validation", "Means over the validation scans"),
        ("training", "Losses of the last training step"),
    ],
)
def test_the_page_says_which_scans_were_measured(tmp_path, measured, said):
    page = write_training_report(tmp_path, "Training of a thing", {"dice": 0.75}, measured)
    text = page.read_text(encoding="utf-8")
    assert said in text and ("over the test scans" in text) == (measured == "test")
