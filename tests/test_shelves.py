"""Who may import whom: ground <- shelves <- pipeline, inputs <- jobs <- cli. A job never imports a job."""

import ast
from collections.abc import Iterator
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


def rooms_imported(source: str) -> Iterator[str]:
    """First part of the name of every module of vcm that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "vcm":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("vcm."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("vcm."))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(files: dict[Path, str]) -> list[str]:
    found = []
    for path, source in files.items():
        room = room_of(path)
        for other in rooms_imported(source):
            if other not in ALLOWED.get(room, set()) | {room, "__version__"}:
                found.append(f"{path.relative_to(PACKAGE)} imports {other}")
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
