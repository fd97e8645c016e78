"""Load a tissue segmenter by name or folder."""

from __future__ import annotations

from pathlib import Path

from vcm.errors import VCMError
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights.load import embedded_folder


def segmenter_folder(name: str) -> Path:
    """The folder of a segmenter, embedded under that name or itself a folder.

    Raises:
        VCMError: There is none.
    """
    folder = Path(name)
    if not (folder / "config.json").is_file():
        folder = embedded_folder(name) or folder
    if not (folder / "config.json").is_file():
        raise VCMError(
            f"{name} holds no segmenter (config.json): give the folder 'segmenter' that vcm pretrain "
            "segmenter wrote."
        )
    return folder


def load_segmenter(name: str) -> TissueSegmenter:
    """A segmenter in float32, embedded under that name or in that folder.

    Raises:
        VCMError: There is none.
    """
    return TissueSegmenter.from_pretrained(segmenter_folder(name)).float().eval()
