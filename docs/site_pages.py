"""Pages of the site that are made from what lies elsewhere: README, model cards, notebooks, --help, docstrings.

A hook of mkdocs (mkdocs.yml); nothing of it is needed to use vcm. Links between files of the repository
become links between pages; a link to a file that is no page stays as its words.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: Modules whose docstrings make each page of the reference, by what a reader looks for.
REFERENCE = {
    "pipeline": ["vcm.pipeline", "vcm.report.sampled", "vcm.inputs", "vcm.weights.load"],
    "jobs": [
        "vcm.synthesis.configuration", "vcm.synthesis.synthesize",
        "vcm.upsampling.configuration", "vcm.upsampling.upsample", "vcm.upsampling.results.upsampled",
        "vcm.preparation.configuration", "vcm.preparation.prepare", "vcm.preparation.segment",
        "vcm.segmentation.configuration", "vcm.segmentation.fit", "vcm.segmentation.apply",
        "vcm.training.configuration", "vcm.training.module", "vcm.evaluation.configuration",
        "vcm.evaluation.evaluate", "vcm.fewshot.configuration", "vcm.fewshot.study",
        "vcm.fewshot.fitting", "vcm.fewshot.batch", "vcm.derivatives",
    ],
    "imaging": [
        "vcm.imaging.volume", "vcm.imaging.geometry", "vcm.imaging.placing", "vcm.imaging.brain",
        "vcm.imaging.background",
        "vcm.imaging.vocabulary", "vcm.imaging.conditions", "vcm.imaging.acquisition",
        "vcm.imaging.degradation", "vcm.imaging.participants", "vcm.imaging.bids", "vcm.metrics",
    ],
    "networks": [
        "vcm.nets.frozen", "vcm.nets.control", "vcm.nets.vcm", "vcm.nets.controlnet",
        "vcm.nets.t2i_adapter", "vcm.nets.mcm", "vcm.nets.denoiser", "vcm.nets.autoencoder",
        "vcm.nets.detail", "vcm.diffusion.sampling", "vcm.diffusion.steering",
    ],
    "learning": ["vcm.learning.run", "vcm.learning.schedule", "vcm.learning.measures"],
    "weights": [
        "vcm.weights.cards", "vcm.weights.exporting", "vcm.weights.bundle",
        "vcm.weights.importing", "vcm.weights.verifying", "vcm.weights.packing",
    ],
    "report": [
        "vcm.report.page", "vcm.report.layers", "vcm.report.viewer", "vcm.report.folder",
        "vcm.report.frame",
    ],
}  # fmt: skip
#: Files of the repository that become pages elsewhere.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
MOVED |= {
    f"weights/{path.parent.name}/README.md": f"models/{path.parent.name}.md"
    for path in sorted((ROOT / "weights").glob("*/README.md"))
}
MOVED |= {
    f"notebooks/{path.name}": f"notebooks/{path.stem}.md"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
_LINK = re.compile(r"(?P<words>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie in no file of docs/."""
    made = {to: _read(ROOT / source) for source, to in MOVED.items()}
    made |= {f"reference/{name}.md": _reference(name) for name in REFERENCE}
    made |= {"reference/commands.md": _commands(), "models/published.md": _published()}
    for to, content in made.items():
        files.append(File.generated(config, to, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    here = page.file.src_uri
    source = next((old for old, new in MOVED.items() if new == here), f"docs/{here}")
    pages = {file.src_uri for file in files}
    code: list[str] = []

    def keep(found: re.Match[str]) -> str:
        code.append(found[0])
        return f"\0{len(code) - 1}\0"

    text = _LINK.sub(lambda m: _relinked(m, source, here, pages), _CODE.sub(keep, markdown))
    return re.sub(r"\0(\d+)\0", lambda m: code[int(m[1])], text)


def _relinked(link: re.Match[str], source: str, here: str, pages: set[str]) -> str:
    target, _, anchor = link["target"].partition("#")
    if not target or "://" in target:
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    to = MOVED.get(path, path.removeprefix("docs/"))
    if to not in pages and (ROOT / path).exists():
        return link["words"].strip("![]")
    relative = posixpath.relpath(to, posixpath.dirname(here) or ".")
    return f"{link['words']}({relative}{'#' + anchor if anchor else ''})"


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return _notebook(json.loads(text)) if path.suffix == ".ipynb" else text


def _notebook(content: dict[str, Any]) -> str:
    cells = ((c["cell_type"], "".join(c["source"])) for c in content["cells"])
    return "\n\n".join(s if kind == "markdown" else f"```python\n{s}\n```" for kind, s in cells)


def _reference(name: str) -> str:
    return f"# {name.capitalize()}\n\n" + "\n\n".join(f"::: {module}" for module in REFERENCE[name])


def _commands() -> str:
    from vcm.cli.main import COMMANDS

    blocks = ["# Commands", "As `--help` prints them."]
    for command in COMMANDS:
        blocks.append(
            f"## {command.name}\n\n```text\n{command.parser().format_help().rstrip()}\n```"
        )
    return "\n\n".join(blocks)


def _published() -> str:
    from vcm.weights.cards import card_names, describe, load_card

    blocks = [
        "# Published models",
        "What `vcm weights show NAME` prints; see [Models](../weights.md).",
    ]
    for card in map(load_card, card_names()):
        if not card.embedded:
            rows = "\n".join(f"| {k} | {_cell(v)} |" for k, v in describe(card).items())
            blocks.append(f"## {card.name}\n\n| | |\n|---|---|\n{rows}")
    return "\n\n".join(blocks)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[")
