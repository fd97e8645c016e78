"""What a volume takes on the CPU and on a GPU, and how far the two are from each other.

    python benchmarks/devices.py --model brain2mm --repeats 4

Samples under the label map that travels with the package, with the same seed on every device: seconds of each volume after the
first, peak memory of the GPU, and the largest difference to the CPU's volume in float32, intensities 0 to 1.
"""

from __future__ import annotations

import argparse
import time

import torch

from vcm.embedded import model_folder
from vcm.imaging.conditions import one_hot
from vcm.imaging.placing import place_label_map
from vcm.weights.load import load_pipeline


def main() -> None:
    """A line for each device and type of numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="brain2mm")
    parser.add_argument("--repeats", type=int, default=4)
    given = parser.parse_args()
    example = model_folder("brain2mm") / "example_dseg.nii.gz"
    placed = place_label_map(example, "auto", load_pipeline(given.model).volume_grid)
    assert placed.classes is not None
    condition = torch.from_numpy(one_hot(placed.classes))[None]
    told = torch.tensor([[0.0, 0.5, 0.3, 0.5]])
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    ways = [("cpu", "float32"), ("cpu", "bfloat16")]
    if accelerator is not None:
        ways += [(accelerator.type, "float32"), (accelerator.type, "bfloat16")]
    reference: torch.Tensor | None = None
    for device, precision in ways:
        pipeline = load_pipeline(given.model)
        pipeline.use_scheduler("auto")
        pipeline.to(device)
        seconds = []
        for _ in range(given.repeats + 1):
            began = time.perf_counter()
            volume = pipeline(
                [condition], told, seed=0, precision=precision, output_type="pt"
            ).volumes.cpu()
            seconds.append(time.perf_counter() - began)
        reference = volume if reference is None else reference
        far = float((volume - reference).abs().max())
        held = "" if device == "cpu" else f", {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
        each = ", ".join(f"{s:.2f}" for s in seconds[1:])
        print(f"{device}, {precision}: {each} s{held}; at most {far:.4f} from the first")


if __name__ == "__main__":
    main()
