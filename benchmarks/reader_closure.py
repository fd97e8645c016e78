"""How much of vcm someone has to read who follows the imports of a command.

    python benchmarks/reader_closure.py            one row per command: files, lines
    python benchmarks/reader_closure.py verify     the files that the commands with that word reach

Counted are the file of the command and every file that its function imports, directly or through others,
also inside functions; not packages of others, and not what is imported for annotations alone.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "vcm"


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of vcm that are imported below a node, but for those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vcm":
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vcm."))
        else:
            yield from imported(node)


def file_of(module: str) -> Path | None:
    """Source of a module; None for a name that is none, and for the __init__ of a folder."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def closure(function: Callable[..., Any]) -> set[Path]:
    """The files that a command reaches."""
    home = Path(inspect.getfile(function))
    own = [
        node
        for node in parsed(home).body
        if not isinstance(node, ast.FunctionDef) or node.name == function.__name__
    ]
    found, waiting = {home}, list(imported(ast.Module(own, [])))
    while waiting:
        path = file_of(waiting.pop())
        if path is not None and path not in found:
            found.add(path)
            waiting += imported(parsed(path))
    return found


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    from vcm.cli.main import COMMANDS

    words = set(sys.argv[1:])
    print(f"{'command':<24}{'files':>6}{'lines':>8}")
    for command in COMMANDS:
        files = closure(command.run)
        if words and not words & set(command.words):
            continue
        print(f"{' '.join(command.words):<24}{len(files):>6}{sum(map(lines, files)):>8}")
        for path in sorted(files) if words else ():
            print(f"    {path.relative_to(PACKAGE)!s:<40}{lines(path):>6}")


if __name__ == "__main__":
    main()
