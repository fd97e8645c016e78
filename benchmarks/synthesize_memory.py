"""Peak memory of `vcm synthesize` for 10, 100 and 300 seeds: it must not grow with their number.

    python benchmarks/synthesize_memory.py

The model has random weights and few channels, on the grid of brain2mm (80 x 112 x 80 voxels), so that a seed
takes about a second; what could grow, the volumes (3 MB each), their features and the picture, is as large as
with a trained one. Prints a row for each number of seeds: seconds, and the largest resident memory [MB].
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

COUNTS = (10, 100, 300)


def write_model(folder: Path) -> None:
    """A pipeline without a module, whose denoiser does next to nothing."""
    from vcm.diffusion.sampling import make_scheduler
    from vcm.imaging.geometry import model_grid
    from vcm.nets.autoencoder import LatentAutoencoder
    from vcm.nets.denoiser import LatentDenoiser
    from vcm.pipeline import VCMPipeline

    torch.manual_seed(0)
    grid = model_grid()
    VCMPipeline(
        LatentAutoencoder((8, 16), 4, groups=2, patch=4),
        LatentDenoiser(
            4, channels=(8, 8), head_channels=(0, 8), groups=2, res_blocks=1,
            latent_shape=(10, 14, 10),
        ),
        make_scheduler("ddim"),
        covariate_ranges={
            "sex": (0, 1), "age": (20, 80), "ventricular_volume": (5, 110),
            "brain_volume": (900, 1900),
        },
        grid={"shape": list(grid.shape), "affine": grid.affine.tolist()},
    ).save_pretrained(folder)  # fmt: skip


def measure(model: Path, out: Path, seeds: int) -> tuple[float, float]:
    """(seconds, MB) of one run in a process of its own."""
    code = (
        "import resource, sys; from vcm.cli.main import run_command;"
        "assert run_command(['synthesize', '--uncontrolled', '--model', sys.argv[1], '--out', sys.argv[2],"
        " '--seeds', sys.argv[3], '--steps', '1', '--device', 'cpu', '--quiet']) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", code, str(model), str(out), f"0-{seeds - 1}"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return time.perf_counter() - start, float(ran.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    print("seeds\tseconds\tpeak [MB]")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model")
        for count in COUNTS:
            seconds, peak = measure(Path(folder) / "model", Path(folder) / str(count), count)
            print(f"{count}\t{seconds:.0f}\t{peak:.0f}", flush=True)


if __name__ == "__main__":
    main()
