"""Train a model of a band-limited latent for some minutes wherever there is a GPU, and bring it back.

Purpose:  a training in slices on a GPU that is at hand for minutes: a small folder travels there, with
          packed scans and the state of before, and the new state comes back. Nothing else is needed.
Command:  python benchmarks/train_slice.py pack PREPARED... --out scans.npz
          python benchmarks/train_slice.py train --pack scans.npz --state STATE --out OUT \
              --plan diffusion=6,steering=3
          python benchmarks/train_slice.py join OUT --state STATE       where the next slice starts from

STATE is a pipeline's folder in half precision (autoencoder, denoiser and, later, module); the first holds
an autoencoder alone. Beside them lies super_resolution, which finer trains from a pack of 1 mm voxels; it
needs nothing else, and then STATE need not exist. A slice starts from averaged weights with a fresh optimiser, so that a state is a
few megabytes; OUT gets it in parts, state.tar.00 and so on, and the losses. A plan names decoder,
diffusion, reading, steering or finer, each with its minutes; they are done in this order.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

ORDER = ("decoder", "diffusion", "reading", "steering", "finer")
#: Folder of the network that halves a pipeline's voxel size, which may lie there without a pipeline.
FINER = "super_resolution"
#: Largest file that comes back [bytes].
PART = 15 * 2**20


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("data", nargs="+")
    packing.add_argument("--out", type=Path, required=True)
    training = verbs.add_parser("train")
    training.add_argument("--pack", type=Path, required=True)
    training.add_argument("--state", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--plan", type=plan, required=True, help="name=minutes, joined by commas")
    training.add_argument("--scans", type=int, default=32, help="per step")
    training.add_argument("--draws", type=int, default=4, help="noises per scan")
    training.add_argument("--rate", type=float, default=5e-4)
    training.add_argument("--precision", default="bf16", help="bf16, or no")
    training.add_argument("--deform", type=float, default=1.0)
    training.add_argument(
        "--focus", type=float, nargs=2, default=(2.0, 3.0), help="focus_a and focus_b of BrainDraws"
    )
    training.add_argument("--steps", type=int, default=10**6, help="at most, of each")
    training.add_argument(
        "--seed", type=int, default=0, help="of the draws: another for each slice"
    )
    training.add_argument("--wing", type=int, default=48, help="channels of a denoiser's wings")
    training.add_argument("--crop", type=int, default=64, help="edge of what finer learns from")
    training.add_argument("--adversarial", type=float, default=0.0, help="weight in finer")
    training.add_argument("--blur", type=float, nargs=2, default=(0.8, 1.8), help="range in finer")
    training.add_argument("--module-wing", type=int, default=32, help="and of a module's")
    joining = verbs.add_parser("join")
    joining.add_argument("out", type=Path)
    joining.add_argument("--state", type=Path, required=True)
    given = parser.parse_args()
    {"pack": pack_folders, "train": train, "join": join}[given.verb](given)


def plan(text: str) -> dict[str, float]:
    """Minutes by name, of a plan as it is typed."""
    found = {name: float(minutes) for name, minutes in (p.split("=") for p in text.split(","))}
    unknown = set(found) - set(ORDER)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose {', '.join(ORDER)}")
    return found


def pack_folders(given: argparse.Namespace) -> None:
    """Prepared folders -> one file."""
    from vcm.imaging.scan_pool import pack_scans

    print(f"{given.out}: {pack_scans(given.data, given.out) / 1e6:.1f} MB")


def train(given: argparse.Namespace) -> None:
    """One slice."""
    from vcm.weights.packing import pack

    torch.backends.cudnn.benchmark = True
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        state = Path(work, "state")
        state.mkdir()
        if given.state.is_dir():
            shutil.copytree(given.state, state, dirs_exist_ok=True)
        try:
            for name in (n for n in ORDER if n in given.plan):
                out = Path(work, name)
                train_stage(name, given.plan[name], state, out, given)
                shutil.copy(out / "log.csv", given.out / f"{name}.csv")
                if (out / "validation.csv").is_file():
                    shutil.copy(out / "validation.csv", given.out / f"{name}-validation.csv")
        finally:  # what a stage has trained comes back, whatever the next one meets
            if (state / "model_index.json").is_file():
                keep_finer(state, given.state)
                pack(state, Path(work, "half"))
                state = Path(work, "half")
            write_parts(state, given.out)


def train_stage(
    name: str, minutes: float, state: Path, out: Path, given: argparse.Namespace
) -> None:
    """Train one network from a state, and put the result into it."""
    from vcm.training.band_decoder import pretrain_band_decoder
    from vcm.training.fine_configuration import (
        BandDecoderTraining,
        FineDiffusionTraining,
        FineModuleTraining,
    )
    from vcm.training.fine_diffusion import pretrain_fine_diffusion
    from vcm.training.fine_module import train_fine_module

    common: dict[str, Any] = {
        "data": [str(given.pack)],
        "out": str(out),
        "max_minutes": minutes,
        "steps": given.steps,
        "batch_size": given.scans,
        "learning_rate": given.rate,
        "mixed_precision": given.precision,
        "tracker": "none",
        "seed": given.seed,
    }
    draws = {
        "draws": given.draws, "deform": given.deform,
        "focus_a": given.focus[0], "focus_b": given.focus[1],
    }  # fmt: skip
    if name == "finer":
        finer(common, state, out, given)
    elif name == "decoder":
        # Gradients of gradients are taken in full precision.
        own: dict[str, Any] = {"mixed_precision": "no", "adversarial_weight": 0.01}
        start = str(state / "autoencoder")
        own["fold"] = json.loads(Path(start, "config.json").read_text("utf-8")).get("fold", 2)
        pretrain_band_decoder(BandDecoderTraining(**{**common, **own}, start=start))
        replace(out / "autoencoder", state / "autoencoder")
    elif name == "diffusion":
        autoencoder, start = str(state / "autoencoder"), there(state / "denoiser")
        pretrain_fine_diffusion(
            FineDiffusionTraining(
                **common, **draws, wing=given.wing, start=start, autoencoder=autoencoder
            )
        )
        kept = out / "module"
        if (state / "module").is_dir():
            shutil.move(state / "module", kept)
        replace(out / "model", state)
        if kept.is_dir():
            shutil.move(kept, state / "module")
    else:
        model, start = str(without_module(state, out)), there(state / "module")
        train_fine_module(
            FineModuleTraining(
                **common, **draws, unet_wing=given.module_wing, start=start, stage=name, model=model
            )
        )
        if name == "reading":
            replace(out / "module", state / "module")
        else:
            replace(out / "model", state)


def finer(common: dict[str, Any], state: Path, out: Path, given: argparse.Namespace) -> None:
    """Train the network that halves the voxel size, and measure it once, at the end."""
    import numpy as np

    from vcm.training.super_resolution import pretrain_super_resolution
    from vcm.training.super_resolution_configuration import SuperResolutionTraining

    own: dict[str, Any] = {
        "adversarial_weight": given.adversarial,
        "crop": given.crop, "ema_decay": 0.998,
        "blur": list(given.blur),
        "start": there(state / FINER),
    }  # fmt: skip
    with np.load(given.pack) as held:
        if "validation" in held["splits"]:
            own["validate_every"] = given.steps
    measures = pretrain_super_resolution(SuperResolutionTraining(**{**common, **own}))
    print(", ".join(f"{key} {value:.4g}" for key, value in measures.items()))
    replace(out / FINER, state / FINER)


def keep_finer(state: Path, before: Path) -> None:
    """Let the pipeline of a state hold the network that halves its voxels, be it new or of before."""
    if not (state / FINER).is_dir() and (before / FINER).is_dir():
        shutil.copytree(before / FINER, state / FINER)
    if (state / FINER).is_dir():
        set_part(state, FINER, ["vcm.nets.super_resolution", "SuperResolutionNet"])


def set_part(folder: Path, name: str, kind: list[str] | list[None]) -> None:
    """Write into a pipeline's index of what module and class a part is."""
    from vcm.checksums import record_checksums

    index = folder / "model_index.json"
    table = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(table | {name: kind}, indent=2), encoding="utf-8")
    record_checksums(folder)


def there(folder: Path) -> str:
    """A folder to start from, or nothing."""
    return str(folder) if folder.is_dir() else ""


def without_module(state: Path, out: Path) -> Path:
    """The frozen model alone: a module of an earlier frozen model would be refused with it."""
    alone = out.with_name(f"{out.name}-frozen")
    shutil.copytree(state, alone, ignore=shutil.ignore_patterns("module"))
    set_part(alone, "module", [None, None])
    return alone


def replace(new: Path, old: Path) -> None:
    """Move a folder to where another may lie."""
    shutil.rmtree(old, ignore_errors=True)
    shutil.move(new, old)


def write_parts(state: Path, out: Path) -> None:
    """A folder as files of at most PART."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        tar.add(state, arcname=".")
    whole = held.getvalue()
    for number, first in enumerate(range(0, len(whole), PART)):
        (out / f"state.tar.{number:02d}").write_bytes(whole[first : first + PART])
    print(f"{len(whole) / 1e6:.1f} MB in {-(-len(whole) // PART)} parts in {out}")


def join(given: argparse.Namespace) -> None:
    """What `train` wrote -> the state for the next slice."""
    parts = sorted(given.out.glob("state.tar.*"))
    if not parts:
        sys.exit(f"{given.out} holds no state.tar.00: give the folder that train wrote.")
    new = given.state.with_name(f".new-{given.state.name}")
    shutil.rmtree(new, ignore_errors=True)
    whole = io.BytesIO(b"".join(p.read_bytes() for p in parts))
    with tarfile.open(fileobj=whole) as tar:
        tar.extractall(new, filter="data")
    replace(new, given.state)
    print(f"{given.state} is what {given.out} holds")


if __name__ == "__main__":
    main()
