"""Time and peak memory of decoding a latent: plain `AutoencoderKL.decode` beside `decode_in_slabs`.

    python benchmarks/decode_memory.py --size small
    python benchmarks/decode_memory.py --size brainldm --thickness 2

Random weights of BrainLDM's decoder (channels 64/128/128/128, 2 residual blocks, 32 groups, latent
of 3 channels) in float32 on the CPU. Every decode runs in a fresh process, one after the other, so
that the ratios compare runs of the same minute on the same machine. Memory is the growth of the
process's peak resident set during the decode; weights and libraries are not counted. CPU time is
what to compare when other work shares the machine.

Expected, small, one thread of a shared 2-core machine, torch 2.13: slabs 1.14 x the CPU time and
0.31 x the memory of the plain decode (1270 MiB); with float16 maps 1.09 x and 0.17 x. At the size
of BrainLDM, there too: with float16 maps 118 s of CPU time and 1492 MiB; the plain decode takes
9816 MiB, 6.6 times as much.
"""

from __future__ import annotations

import argparse
import json
import time

from fresh_process import compare, peak_mib

# torch is imported in the measured process only: on Linux a child inherits its parent's peak.

LATENTS = {"small": (10, 14, 10), "brainldm": (20, 28, 20)}  # image: 8 times these extents
METHODS = ("plain", "slabs", "slabs, float16 maps")


def measure(method: str, size: str, thickness: int) -> dict[str, float]:
    """{wall [s], cpu [s], memory [MiB]} of one decode in this process, which must be fresh."""
    import torch
    from monai.networks.nets.autoencoderkl import AutoencoderKL

    from vcm.nets.slabs import decode_in_slabs

    torch.manual_seed(0)
    net = AutoencoderKL(
        spatial_dims=3,
        channels=(64, 128, 128, 128),
        latent_channels=3,
        num_res_blocks=2,
        norm_num_groups=32,
        attention_levels=[False] * 4,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    ).eval()
    z = torch.randn(1, 3, *LATENTS[size])
    storage = torch.float16 if "float16" in method else None
    with torch.inference_mode():
        before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
        plain = method == "plain"
        image = net.decode(z) if plain else decode_in_slabs(net, z, thickness, storage)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert image.shape[2:] == tuple(8 * n for n in LATENTS[size])
    return {"wall": wall, "cpu": cpu, "memory": peak_mib() - before}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=LATENTS, default="small")
    parser.add_argument("--thickness", type=int, default=2, help="planes per slab")
    parser.add_argument(
        "--measure", choices=METHODS, help="one method, in this process; prints JSON"
    )
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.size, arguments.thickness)))
        return
    print(f"latent {LATENTS[arguments.size]}, slabs of {arguments.thickness} planes")
    options = ["--size", arguments.size, "--thickness", str(arguments.thickness)]
    compare(__file__, METHODS, options, {"wall": "s", "cpu": "s", "memory": "MiB"})


if __name__ == "__main__":
    main()
