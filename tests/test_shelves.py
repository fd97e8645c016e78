"""The shelves imaging, nets and diffusion never import each other or the tasks."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vcm"
SHELVES = ("imaging", "nets", "diffusion")


@pytest.mark.parametrize("shelf", SHELVES)
def test_a_shelf_imports_only_itself(shelf):
    allowed = (f"vcm.{shelf}", "vcm.errors")
    for path in (PACKAGE / shelf).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith("vcm") or name.startswith(allowed), (path.name, name)
