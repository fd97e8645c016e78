"""One training step of each control method, side by side in one run.

    python benchmarks/control_step.py [--size brainldm]

`brain2mm` steers that model as its configurations do, 2 conditions with 2 draws each; `brainldm` a frozen U-Net
of BrainLDM's size with random weights, one condition and one draw. bfloat16. Prints seconds per step (the
fastest of five after one to warm up; of one at the large size), peak memory and parameters.
"""

from __future__ import annotations

import argparse
import json
import time

from fresh_process import compare, peak_mib

WAYS = ("vcm", "mcm", "controlnet", "controlnet-lite", "t2i-adapter")


def measure(way: str, size: str) -> dict[str, float]:
    """{seconds [s], memory [MiB], parameters [M]} in this process, which must be fresh."""
    import torch

    from vcm.nets.controlnet import ControlNetLite, ControlNetModule
    from vcm.nets.denoiser import LatentDenoiser
    from vcm.nets.mcm import ModulatingConditionModule
    from vcm.nets.t2i_adapter import T2IAdapter
    from vcm.nets.vcm import VolumetricConditioningModule
    from vcm.training.batches import ModuleBatch
    from vcm.training.controls import ControlSizes, make_control
    from vcm.training.module import ModuleObjective
    from vcm.weights.load import load_pipeline

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    if size == "brain2mm":
        pipeline = load_pipeline("brain2mm")
        frozen, latent = pipeline.denoiser, pipeline.latent_shape
        control = make_control(ControlSizes(control=way), frozen, latent, pipeline.latent_factor)
        scans, draws, repeats = 2, 2, 6
    else:
        latent = (3, 20, 28, 20)
        frozen = LatentDenoiser(
            3, 4, (256, 512, 768), (False, True, True), (0, 512, 768), 2, 32, "epsilon"
        )
        large = {
            "vcm": VolumetricConditioningModule, "mcm": ModulatingConditionModule,
            "controlnet": ControlNetModule, "controlnet-lite": ControlNetLite,
            "t2i-adapter": T2IAdapter,
        }  # fmt: skip
        control = large[way]()
        scans, draws, repeats = 1, 1, 2
    objective = ModuleObjective(control, frozen.eval(), torch.ones(latent[0]), ["classes"])
    optimizer = torch.optim.AdamW(control.parameters(), lr=1e-5)
    z, noise = torch.randn(2, scans, draws, *latent)
    volumes = (torch.rand(scans, 8, *(8 * n for n in latent[1:])) > 0.9).float()
    batch = ModuleBatch(
        volumes, z, noise, torch.rand(scans, draws), torch.full((scans, 4), 0.5),
        torch.ones(scans, 1, dtype=torch.bool),
    )  # fmt: skip
    before, seconds = peak_mib(), []
    for _ in range(repeats):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            objective(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    parameters = sum(p.numel() for p in control.parameters()) / 1e6
    return {
        "seconds": min(seconds[1:]), "memory": peak_mib() - before, "parameters": parameters,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("brain2mm", "brainldm"), default="brain2mm")
    parser.add_argument("--measure", choices=WAYS, help="one way, in this process; prints JSON")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.size)))
        return
    units = {"seconds": "s", "memory": "MiB", "parameters": "M"}
    compare(__file__, WAYS, ["--size", given.size], units)


if __name__ == "__main__":
    main()
