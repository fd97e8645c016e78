"""One optimiser step of the module at BrainLDM's size: the published way beside the way here.

    python benchmarks/train_step.py --size full
    python benchmarks/train_step.py --size small     # half the extents, a quarter of the widths

Random weights, a batch of 1, cached latents in both. The published way runs the frozen U-Net in the
precision of the training, float32, and keeps every feature map of the full-resolution condition
encoder. Here the encoder is checkpointed; "bf16" runs all but the weights in bfloat16, the default of `vcm train`.
Each way runs in a fresh process; memory is the growth of its peak resident set over the weights.

Expected at full size on two CPU cores with bfloat16, torch 2.13: published 27.7 s and 7999 MiB; here 30.8 s
and 4804 MiB (0.60 x) in float32, 14.6 s (0.53 x) and 3023 MiB (0.38 x) in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import time

from fresh_process import compare, peak_mib

WAYS = ("published", "here", "here, bf16")


def measure(way: str, size: str) -> dict[str, float]:
    """{seconds [s], memory [MiB]} of the second of two steps, in this process, which must be fresh."""
    import torch

    from vcm.nets.denoiser import LatentDenoiser
    from vcm.nets.vcm import VolumetricConditioningModule
    from vcm.training.batches import ModuleBatch
    from vcm.training.module import ModuleObjective

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    widths = (256, 512, 768) if size == "full" else (64, 128, 192)
    extent = (20, 28, 20) if size == "full" else (12, 16, 12)
    frozen = LatentDenoiser(3, 4, widths, (False, True, True), (0, *widths[1:]), 2, 32, "epsilon")
    module = VolumetricConditioningModule(head_norm="none")
    for encoder in module.encoders:
        encoder.checkpointing = way != "published"
    objective = ModuleObjective(module, frozen.eval(), torch.ones(3), ["classes"])
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    z, noise = torch.randn(2, 1, 1, 3, *extent)
    volumes = (torch.rand(1, 8, *(8 * n for n in extent)) > 0.9).float()
    batch = ModuleBatch(
        volumes, z, noise, torch.tensor([[0.5]]), torch.full((1, 4), 0.5),
        torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip
    before, seconds = peak_mib(), 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=way.endswith("bf16")):
            objective(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": peak_mib() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--measure", choices=WAYS, help="one way, in this process; prints JSON")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.size)))
        return
    compare(__file__, WAYS, ["--size", given.size], {"seconds": "s", "memory": "MiB"})


if __name__ == "__main__":
    main()
