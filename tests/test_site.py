"""The documentation builds as a site, strictly: no warning, no broken link, nothing from a network."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from vcm.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings")
MISSING = [name for name in NEEDED if find_spec(name) is None]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if MISSING:
        pytest.skip(f'{", ".join(MISSING)} is not installed: pip install ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_link_inside_the_site_leads_to_a_page(site):
    broken, followed = [], 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                followed += 1
                broken += [] if (page.parent / target).exists() else [(page.name, target)]
    assert followed > 500 and broken == []


@pytest.mark.slow
def test_the_site_asks_nothing_of_a_network(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(http[^"]*)',
            page.read_text("utf-8"),
        )
        assert loaded == [], page


@pytest.mark.slow
def test_the_reference_has_docstrings_and_commands(site):
    text = (site / "reference" / "pipeline.html").read_text(encoding="utf-8")
    assert "vcm.pipeline.VCMPipeline" in text and "Sample volumes that obey the conditions" in text
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(command.name in commands for command in COMMANDS)


def test_the_page_of_commands_names_every_command():
    text = (ROOT / "docs" / "which_command.md").read_text(encoding="utf-8")
    assert [c.name for c in COMMANDS if c.name not in text] == []
