"""Time and memory until a label map of many voxels is at its first denoising step.

    /usr/bin/time -v python benchmarks/large_label_map.py [--size 512] [--model brain2mm]

Makes a map of size^3 voxels of the example's labels, reads and aligns it, loads the model and encodes the
condition, and prints seconds since the start, those of the CPU (more where several cores work, and what counts
on a machine with other work) and the peak of resident memory [GB]. With --size 512 on two cores it is to stay
below 40 s and 3 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make(path: Path, size: int) -> None:
    """The example's labels on size^3 voxels, as 32-bit whole numbers, compressed as FreeSurfer's are."""
    from vcm.embedded import example_condition
    from vcm.imaging.acquisition import grid_about
    from vcm.imaging.geometry import resample
    from vcm.imaging.volume import read_label_map, write_volume

    example = read_label_map(example_condition())
    extent = max(n * s for n, s in zip(example.grid.shape, example.grid.spacing, strict=True))
    grid = grid_about((size,) * 3, example.grid, (extent / size,) * 3)
    labels = resample(example, grid, order=0).astype(np.int32)
    write_volume(type(example)(labels, grid.affine), path)


def reach_first_step(path: Path, model: str) -> None:
    """What `vcm synthesize` does before it denoises; prints each part's seconds."""
    begun = time.monotonic()

    def tell(part: str) -> None:
        print(f"{part:<9} {time.monotonic() - begun:6.1f} s, {time.process_time():6.1f} s of CPU")

    from vcm.cost import peak_memory
    from vcm.synthesis.configuration import Synthesis
    from vcm.synthesis.synthesize import resolve

    tell("import")
    plan = resolve(Synthesis(condition=path, model=model, device="cpu"))
    tell("place")
    _ = plan.features
    tell("encode")
    print(f"peak      {peak_memory(plan.pipeline.device) / 1e9:6.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="Voxels along each axis.")
    parser.add_argument(
        "--model", default="brain2mm", help="Name of an embedded model, or a folder."
    )
    parser.add_argument("--map", type=Path, help="Measure with this map instead.")
    options = parser.parse_args()
    if options.map:
        reach_first_step(options.map, options.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large_dseg.nii.gz"
        make(path, options.size)
        # In a process of its own, whose peak is not that of making the map.
        command = [sys.executable, __file__, "--map", str(path), "--model", options.model]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
