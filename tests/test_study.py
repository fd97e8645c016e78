"""The pages of the studies say what their tables say."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "study" / "data_efficiency"


def test_the_page_is_made_of_the_tables_beside_it(tmp_path):
    folder = tmp_path / TABLES.name
    shutil.copytree(TABLES, folder)
    script = ROOT / "benchmarks" / "data_efficiency_page.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, cwd=tmp_path)
    made = folder.with_suffix(".md").read_text(encoding="utf-8")
    assert made == TABLES.with_suffix(".md").read_text(encoding="utf-8")
    for picture in ("classes.png", "ventricles.png"):
        assert f"{TABLES.name}/{picture}" in made
        assert (TABLES / picture).read_bytes().startswith(b"\x89PNG")


def test_the_page_of_upsampling_is_made_of_the_tables_beside_it(tmp_path):
    tables = TABLES.with_name("upsampling")
    folder = tmp_path / tables.name
    shutil.copytree(tables, folder)
    script = ROOT / "benchmarks" / "upsampling_page.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, cwd=tmp_path)
    made = folder.with_suffix(".md").read_text(encoding="utf-8")
    assert made == tables.with_suffix(".md").read_text(encoding="utf-8")
    assert (tables / "calibration.png").read_bytes().startswith(b"\x89PNG")
