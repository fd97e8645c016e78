"""Who may import whom: ground <- shelves <- pipeline, inputs <- jobs <- cli. A job never imports a job."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vcm"

GROUND = {
    "errors",
    "files",
    "checksums",
    "embedded",
    "cost",
    "heap",
    "progress",
    "metrics",
    "config",
    "precision",
    "device",
}
SHELVES = {
    "imaging",
    "nets",
    "diffusion",
    "learning",
    "report",
    "weights",
    "pipeline",
    "inputs",
    "derivatives",
}
JOBS = {
    "preparation",
    "synthesis",
    "training",
    "upsampling",
    "evaluation",
    "fewshot",
    "segmentation",
}

#: Beside itself and the ground below it, what each room may import.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "checksums": {"errors", "files"},
    "embedded": {"errors"},
    "cost": set(),
    "heap": set(),
    "progress": set(),
    "metrics": set(),
    "config": {"embedded", "errors"},
    "precision": {"errors"},
    "device": {"errors"},
    "imaging": GROUND,
    "nets": GROUND,
    "diffusion": GROUND,
    "learning": GROUND,
    "report": GROUND | {"imaging"},
    "inputs": GROUND | {"imaging"},
    "derivatives": GROUND | {"imaging", "report"},
    "pipeline": GROUND | {"imaging", "inputs", "nets", "diffusion", "report"},
    "weights": GROUND | {"imaging", "nets", "diffusion", "pipeline"},
    **{job: GROUND | SHELVES | {job} for job in JOBS},
    "cli": GROUND | SHELVES | JOBS,
    "__main__": {"cli"},
}

#: Within a job of several rooms, what each of them may import of the job; files beside the rooms, all.
WITHIN: dict[str, dict[str, set[str]]] = {
    "fewshot": {
        "cases": set(),
        "comparison": {"configuration"},
        "methods": {"cases", "configuration"},
        "pretraining": {"cases", "methods", "configuration"},
        "container": {"cases", "methods"},
    },
    "upsampling": {
        "scans": set(),
        "detail": {"scans"},
        "results": {"scans", "detail"},
        "pretraining": {"scans", "detail", "configuration"},
    },
}


def parts_imported(source: str, package: str) -> set[str]:
    """Of every module of a package that a file imports, wherever it does so, the part of its name after the package."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    start = f"{package}."
    return {name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(files: dict[Path, str]) -> list[str]:
    found = []
    for path, source in files.items():
        room = room_of(path)
        for other in sorted(parts_imported(source, "vcm")):
            if other not in ALLOWED.get(room, set()) | {room, "__version__"}:
                found.append(f"{path.relative_to(PACKAGE)} imports {other}")
    return found


def violations_within(files: dict[Path, str]) -> list[str]:
    found = []
    for path, source in files.items():
        job, *inner = path.relative_to(PACKAGE).parts
        if job in WITHIN and len(inner) > 1:
            allowed = WITHIN[job].get(inner[0], set()) | {inner[0]}
            others = sorted(parts_imported(source, f"vcm.{job}") - allowed)
            found += [f"{path.relative_to(PACKAGE)} imports {other}" for other in others]
    return found


@pytest.fixture(scope="module")
def files() -> dict[Path, str]:
    return {
        path: path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def test_rooms_import_only_what_the_table_allows(files):
    assert violations(files) == []


def test_every_room_is_in_the_table(files):
    assert {room_of(path) for path in files} == set(ALLOWED)
    assert len(files) > 90


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("imaging/volume.py", "from vcm.nets import frozen"),
        ("synthesis/synthesize.py", "from vcm.upsampling.upsample import upsample"),
        ("learning/run.py", "def f():\n    import vcm.pipeline"),
        ("nets/vcm.py", "from vcm import inputs"),
    ],
)
def test_a_planted_violation_is_found(files, path, line):
    planted = {**files, PACKAGE / path: files[PACKAGE / path] + f"\n{line}\n"}
    assert len(violations(planted)) == 1


def test_rooms_of_a_job_import_only_what_the_table_allows(files):
    assert violations_within(files) == []


def test_every_room_of_a_job_is_in_the_table():
    folders = {
        job: {p.name for p in (PACKAGE / job).iterdir() if (p / "__init__.py").is_file()}
        for job in JOBS
    }
    assert {job: rooms for job, rooms in folders.items() if rooms} == {
        job: set(rooms) for job, rooms in WITHIN.items()
    }


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("fewshot/cases/shots.py", "from vcm.fewshot.methods.pool import Pool"),
        ("fewshot/comparison/ranks.py", "def f():\n    import vcm.fewshot.study"),
        ("fewshot/methods/model.py", "from vcm.fewshot import fitting"),
    ],
)
def test_a_violation_planted_within_a_job_is_found(files, path, line):
    planted = {**files, PACKAGE / path: files[PACKAGE / path] + f"\n{line}\n"}
    assert len(violations_within(planted)) == 1
