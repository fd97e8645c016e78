"""What sampling at BrainLDM's size costs the published way, and what it costs here.

    python benchmarks/reference_cost.py --size full
    python benchmarks/reference_cost.py --size small     # a quarter of the widths, half the extents

Random weights, float32, one process, one after the other. The published way runs the frozen U-Net,
the condition encoder and the module at every one of 200 steps and decodes whole feature maps. Here
the condition is encoded once, 20 steps of a higher-order scheduler are the default for models of this
size, and decoding goes in slabs. A step is timed --repeats times and multiplied; the decodings run
each in a process of its own, for their peak memory (see decode_memory.py).

Expected at full size on two CPU cores, torch 2.13: frozen step 4.2 s, condition encoder 7.3 s, module
0.34 s; 200 steps each 2.6 times cheaper here, 200 published steps to 20 here 24 times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

PUBLISHED_STEPS, DEFAULT_STEPS = 200, 20


def seconds(job: Callable[[], Any], repeats: int) -> float:
    """Least wall time [s] of `repeats` runs after one to warm up."""
    job()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(size: str, repeats: int) -> dict[str, float]:
    """Seconds of each part: frozen step, condition encoding, module step."""
    import torch

    from vcm.nets.denoiser import LatentDenoiser
    from vcm.nets.vcm import VolumetricConditioningModule

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    if size == "full":
        frozen = LatentDenoiser(
            3, 4, (256, 512, 768), (False, True, True), (0, 512, 768), 2, 32, "epsilon"
        )
        module, extent = VolumetricConditioningModule(), (20, 28, 20)
    else:
        frozen = LatentDenoiser(
            3, 4, (64, 128, 192), (False, True, True), (0, 128, 192), 2, 32, "epsilon"
        )
        module, extent = VolumetricConditioningModule(), (12, 16, 12)
    frozen.eval(), module.eval()
    z, t, told = torch.randn(1, 3, *extent), torch.tensor([500]), torch.full((1, 4), 0.5)
    condition = torch.rand(1, 8, *(8 * n for n in extent))
    with torch.inference_mode():
        raw, features = frozen(z, t, told), module.encode([condition])
        return {
            "frozen": seconds(lambda: frozen(z, t, told), repeats),
            "encoder": seconds(lambda: module.encode([condition]), repeats),
            "module": seconds(lambda: module.modulation(z, raw, t, features), repeats),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    parts = measure(given.size, given.repeats)
    for name, value in parts.items():
        print(f"{name:>10}: {value:8.2f} s")
    published = sum(parts.values())
    ours = parts["frozen"] + parts["module"]
    print(f"one step: published {published:.2f} s, here {ours:.2f} s, {published / ours:.2f} x")
    same = PUBLISHED_STEPS * published / (PUBLISHED_STEPS * ours + parts["encoder"])
    print(f"{PUBLISHED_STEPS} steps each: {same:.2f} x")
    whole = PUBLISHED_STEPS * published / (DEFAULT_STEPS * ours + parts["encoder"])
    print(f"{PUBLISHED_STEPS} published steps to the default {DEFAULT_STEPS}: {whole:.1f} x")


if __name__ == "__main__":
    main()
