"""The pages of the studies say what their tables say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("study", "pictures"),
    [
        ("data_efficiency", ["classes.png", "ventricles.png"]),
        ("upsampling", ["calibration.png", "example_4mm.png", "example_8mm.png"]),
    ],
)
def test_the_page_is_made_of_the_tables_beside_it(tmp_path, study, pictures):
    tables = ROOT / "docs" / "study" / study
    folder = tmp_path / study
    shutil.copytree(tables, folder)
    script = ROOT / "benchmarks" / f"{study}_page.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, cwd=tmp_path)
    made = folder.with_suffix(".md").read_text(encoding="utf-8")
    assert made == tables.with_suffix(".md").read_text(encoding="utf-8")
    for picture in pictures:
        assert f"{study}/{picture}" in made
        assert (tables / picture).read_bytes().startswith(b"\x89PNG")
