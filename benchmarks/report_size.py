"""How large a page is: one scan, its label map and a map of uncertainty, as `report.html` carries them.

    python benchmarks/report_size.py SCAN.nii.gz

The scan is a T1w scan; the label map is that of `vcm segment tissues`. The uncertainty is a stand-in that
compresses as badly as a real one: the magnitude of what smoothing takes from the scan.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.imaging.volume import read_volume
from vcm.preparation.segment import segment
from vcm.report.folder import write_report
from vcm.report.layers import Layer, encode_layers
from vcm.report.page import Page
from vcm.report.viewer import Viewer
from vcm.weights.segmenter import load_segmenter


def main(path: Path) -> None:
    """Write the page to a temporary folder and print its size."""
    scan = read_volume(path)
    labels = segment(scan, load_segmenter("segmenter2mm"))
    rough = np.abs(scan.data - gaussian_filter(scan.data.astype(np.float32), 1)).astype(np.float32)
    names = dict(enumerate(CLASS_NAMES))
    overlays = [
        Layer("tissues", labels, "labels", names, shown=True),
        Layer("uncertainty", scan.with_data(rough), "uncertainty"),
    ]
    viewer = Viewer([Layer("scan", scan)], overlays)
    encoded, note = encode_layers([*viewer.images, *viewer.overlays])
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(Path(folder), lambda: Page("size", viewer=viewer))
        assert page is not None
        sizes = " x ".join(f"{s:.3g}" for s in scan.grid.spacing)
        print(f"{path.name}: {scan.data.shape} voxels of {sizes} mm")
        for layer in encoded:
            print(f"  {layer.layer.name}: {len(layer.base64) / 1e6:.2f} MB")
        print(f"  page: {page.stat().st_size / 1e6:.2f} MB. {note or 'Nothing was given up.'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
