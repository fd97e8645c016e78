"""The pages of the studies say what their tables say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("study", "pictures"),
    [
        ("data_efficiency", ["classes.png"]),
        ("data_efficiency_former", ["classes.png", "ventricles.png"]),
        ("upsampling", ["calibration.png", "example_4mm.png", "example_8mm.png"]),
    ],
)
def test_the_page_is_made_of_the_tables_beside_it(tmp_path, study, pictures):
    tables = ROOT / "docs" / "study" / study
    folder = tmp_path / study
    shutil.copytree(tables, folder)
    script = ROOT / "benchmarks" / f"{study.removesuffix('_former')}_page.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, cwd=tmp_path)
    made = folder.with_suffix(".md").read_text(encoding="utf-8")
    assert made == tables.with_suffix(".md").read_text(encoding="utf-8")
    for picture in pictures:
        assert f"{study}/{picture}" in made
        assert (tables / picture).read_bytes().startswith(b"\x89PNG")


def test_parts_of_a_benchmark_join_into_the_whole(tmp_path):
    """Tables of the first subjects and of the rest, joined, are the tables of all."""
    whole = ROOT / "docs" / "study" / "upsampling"
    parts = [tmp_path / "1", tmp_path / "2"]
    for part in parts:
        part.mkdir()
    tables = sorted(whole.glob("*.tsv"))
    for table in tables:
        head, *rows = table.read_text(encoding="utf-8").splitlines()
        subjects = sorted({row.split("\t")[0] for row in rows})
        for part, own in zip(parts, (subjects[:3], subjects[3:]), strict=True):
            lines = [head, *(row for row in rows if row.split("\t")[0] in own)]
            (part / table.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    joined = tmp_path / "upsampling"
    script = ROOT / "benchmarks" / "upsampling_page.py"
    subprocess.run([sys.executable, str(script), *map(str, (joined, *parts))], check=True)
    assert len(tables) == 3
    for table in tables:
        assert (joined / table.name).read_bytes() == table.read_bytes()
