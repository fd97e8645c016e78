"""Copy a model in half precision, as the embedded ones are stored."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vcm.checksums import record_checksums
from vcm.embedded import model_folder
from vcm.errors import VCMError
from vcm.files import check_output, write_whole
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights.load import load_pipeline


def pack(model: str | Path, out: Path) -> int:
    """Copy a model, or a segmenter's folder, in half precision.

    Args:
        model: Name of an embedded model, or a folder.
        out: Folder for the copy; must not exist yet.

    Returns:
        Size of its tensors [bytes].

    Raises:
        VCMError: There is no such model, or `out` is there or cannot be written.
    """
    if out.exists():
        raise VCMError(f"{out} exists already: choose another folder for the copy.")
    folder = Path(model) if Path(model).is_dir() else model_folder(model)
    check_output(out, sum(p.stat().st_size for p in folder.rglob("*.safetensors")))
    write_whole(out, lambda part: _write(model, part))
    return sum(path.stat().st_size for path in out.rglob("*.safetensors"))


def _write(model: str | Path, out: Path) -> None:
    folder = Path(model)
    if (folder / "config.json").is_file():
        segmenter = TissueSegmenter.from_pretrained(folder)
        torch.nn.Module.to(segmenter, torch.float16)
        segmenter.save_pretrained(out)
    else:
        pipeline = load_pipeline(model)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                torch.nn.Module.to(part, torch.float16)
        pipeline.record_frozen()
        pipeline.save_pretrained(out)
    for path in out.rglob("*.json"):
        table = json.loads(path.read_text(encoding="utf-8"))
        # Where a copy came from is no business of those who get it.
        if table.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    record_checksums(out)
