"""What the README and docs/ print can be typed: every command is read by the parser, every link leads somewhere."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from vcm.cli.main import find_command
from vcm.errors import VCMError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "weights").glob("*/README.md"))
COMMAND = re.compile(
    r"^ {4,}(?:.* -m )?vcm (?P<words>[^#\n]*)(?:# (?P<refused>.*))?$", re.MULTILINE
)
COMMANDS = [
    pytest.param(found["words"], found["refused"], id=f"{page.stem}-{found['words'].strip()}")
    for page in PAGES
    for found in COMMAND.finditer(page.read_text(encoding="utf-8"))
]
LINKS = [
    pytest.param(page, target, id=f"{page.relative_to(ROOT)}-{target}")
    for page in PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    if not target.startswith("http")
]


def read(words):
    command, rest = find_command(words)
    if command is not None and "--help" not in rest:
        command.read(rest)


def test_there_are_commands_and_links():
    assert len(COMMANDS) > 30 and len(LINKS) > 20


@pytest.mark.parametrize(("words", "refused"), COMMANDS)
def test_a_command_can_be_typed_as_it_is_printed(words, refused):
    if not refused:
        return read(shlex.split(words))
    with pytest.raises(VCMError) as error:
        read(shlex.split(words))
    assert refused.strip() in str(error.value)
    return None


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_link_leads_to_a_file_and_a_heading(page, target):
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_the_readme_is_short_and_says_how_to_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    section = text.split("## Install and test\n")[1].split("\n## ")[0]
    assert [x.strip() for x in section.splitlines() if x.startswith("    ")] == [
        'pip install ".[test]" && python -m pytest -n auto --dist loadfile'
    ]


BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(
            r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_example_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(import_module(node.module), a.name) for a in node.names)
