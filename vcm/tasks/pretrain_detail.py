"""Train the network that adds detail between thick slices to a brain that a model expects.

    loss = mean (x' - x)^2 / mean (x_0 - x)^2 + nll_weight * mean (log s + (x' - x)^2 / (2 s^2))

x the scan, x_0 its interpolation, x' the network's image and s the error that it states, inside the brain;
the second term moves s alone. Thick slices of the training scans are drawn and what the frozen model and its
module expect under them is computed once, before training, and kept in the folder `pool`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.dataset import Subject, load_prepared, write_table
from vcm.imaging.geometry import IDENTITY
from vcm.imaging.image_conditions import draw_thick
from vcm.metrics import psnr
from vcm.nets.detail import READS, DetailNet
from vcm.pipeline import VCMPipeline
from vcm.tasks.explanation import Explanation
from vcm.tasks.model_inputs import as_tensor, settle
from vcm.tasks.placing import nowhere
from vcm.tasks.thick_scan import ThickScan
from vcm.tasks.training import Draw, TrainingRun, TrainingSchedule
from vcm.tasks.upsample import Upsampling, expected_brain, load_upsampler
from vcm.weights import fingerprint, model_folder

#: Voxels kept around the brain.
MARGIN = 6
POOLED = "drawn"


@dataclass
class DetailTraining(TrainingSchedule):
    """Configuration of `vcm pretrain detail`. Sizes in voxels.

    model       a model whose module reads thick slices
    pool        folder where drawn slices and expected brains are kept for the next run
    draws       of thick slices per training scan
    noise       as in `vcm upsample`
    crop        edge of the crops
    expects     False: a network without the model, to compare with
    """

    data: list[str] = field(default_factory=list)
    model: str = ""
    out: str = "runs/detail"
    pool: str = "runs/detail_pool"
    draws: int = 3
    noise: float = 0.1
    crop: int = 64
    channels: list[int] = field(default_factory=lambda: [32, 48, 64, 96, 96, 32])
    fold: int = 2
    expects: bool = True
    nll_weight: float = 0.1
    batch_size: int = 2
    learning_rate: float = 1e-3
    ema_decay: float = 0.995


class DetailObjective(nn.Module):
    """What DetailNet reads (B, 3, X, Y, Z), the scan and the brain (B, 1, X, Y, Z) -> losses."""

    def __init__(self, net: DetailNet, nll_weight: float) -> None:
        super().__init__()
        self.net, self.nll_weight = net, nll_weight

    def forward(self, read: Tensor, truth: Tensor, brain: Tensor) -> dict[str, Tensor]:
        found = self.net(read)

        def inside(values: Tensor) -> Tensor:
            total: Tensor = (values * brain).flatten(1).sum(1) / brain.flatten(1).sum(1)
            return total

        squared = (found.image - truth).square()
        relative = inside(squared) / (inside((read[:, :1] - truth).square()) + 1e-4)
        stated = found.std.log() + squared.detach() / (2 * found.std.square())
        nll = inside(stated).mean()
        return {
            "loss": relative.mean() + self.nll_weight * nll,
            "relative": relative.mean().detach(),
            "nll": nll.detach(),
        }


def pretrain_detail(config: DetailTraining) -> dict[str, float]:
    """Train, save the pipeline with its detail in out/model, measure on `test`: means of test.tsv."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a folder written by vcm prepare, "
            "and model=FOLDER with one that vcm train wrote with conditions=[thick]."
        )
    pipeline = load_upsampler(Upsampling(model=config.model, device="cpu"))
    set_seed(config.seed)
    net = DetailNet(tuple(config.channels), config.fold, config.expects)
    net.net.to(memory_format=torch.channels_last_3d)
    run = TrainingRun(config, net, DetailObjective(net, config.nll_weight))
    pool = _Pool(config, pipeline)
    run.fit(lambda: pool.draw_from(load_prepared(*config.data, split="train")))
    if not run.is_main:
        return {}
    pipeline.register_modules(detail=net)
    pipeline.save_pretrained(run.folder / "model")
    return _measure(net, pool, load_prepared(*config.data, split="test"), run.folder)


class _Pool:
    """Files of what the network reads, the scan as last channel (4, X, Y, Z), slices last, float16."""

    def __init__(self, config: DetailTraining, pipeline: VCMPipeline) -> None:
        self.config, self.pipeline = config, pipeline
        # As `vcm upsample` has them of a scan of which nothing is known.
        wishes = Upsampling(model=config.model)
        self.inputs = as_tensor(settle(wishes, pipeline, nowhere(pipeline.volume_grid)), pipeline)
        made_by = [fingerprint(model_folder(config.model)), config.noise, config.seed]
        self.digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:12]

    def files(self, subjects: Sequence[Subject], draws: int) -> list[Path]:
        """One per scan and draw; those that are missing are made."""
        wanted = [(subject, draw) for draw in range(draws) for subject in subjects]
        paths = []
        for subject, draw in track(wanted, "Drawing thick slices"):
            path = Path(self.config.pool, f"{self.digest}_{subject.subject}_{draw}.safetensors")
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".part-{path.name}")
                save_file({POOLED: self._drawn(subject, draw)}, part)
                part.replace(path)
            paths.append(path)
        return paths

    @torch.inference_mode()
    def _drawn(self, subject: Subject, draw: int) -> Tensor:
        name = int.from_bytes(hashlib.sha256(subject.subject.encode()).digest()[:4], "big")
        random = np.random.default_rng((self.config.seed, name, draw))
        image, grid = subject.image(), self.pipeline.volume_grid
        thick, acquisition = draw_thick(image, grid, random)
        scan = ThickScan(
            thick, thick.data > 0.02, acquisition, grid, grid, IDENTITY, (0.0, 1.0), 1.0
        )
        own = Explanation(scan, noise=self.config.noise)
        features = self.pipeline.encode([torch.from_numpy(scan.condition())[None]])
        brain = expected_brain(self.pipeline, features, self.inputs, "bfloat16")
        read = own.read(own.explain(own.placed(brain)))
        truth = np.moveaxis(image, own.across, -1)[None]
        kept = (slice(None), *_about(truth[0] > 0, MARGIN))
        return torch.from_numpy(np.concatenate([read, truth])[kept].astype(np.float16))

    def draw_from(self, subjects: Sequence[Subject]) -> Draw:
        """A draw of the training: crops that hold brain, mirrored, turned in plane, scaled at random."""
        files = self.files(subjects, self.config.draws)
        size, count = self.config.crop, self.config.batch_size

        def draw(random: np.random.Generator) -> tuple[Tensor, ...]:
            crops: list[Tensor] = []
            while len(crops) < count:
                crop = _crop(files[random.integers(len(files))], size, random)
                if (crop[-1] > 0).float().mean() > 0.2:
                    crops.append(crop)
            batch = torch.stack(crops)
            gain = torch.from_numpy(random.uniform(0.85, 1.15, (count, 1, 1, 1, 1))).float()
            nearness = READS.index("nearness")
            scaled = gain * batch
            scaled[:, nearness] = batch[:, nearness]
            truth = scaled[:, -1:].contiguous()
            return scaled[:, : len(READS)].contiguous(), truth, (truth > 0).float()

        return draw


def _crop(path: Path, size: int, random: np.random.Generator) -> Tensor:
    """(4, size, size, size) at a random place; only that part of the file is read."""
    with safe_open(path, "pt") as opened:
        part = opened.get_slice(POOLED)
        extent = part.get_shape()[1:]
        if min(extent) < size:
            raise VCMError(
                f"crop is {size}, and a brain in {path} has {min(extent)} voxels: choose less."
            )
        x, y, z = (slice(c, c + size) for c in (int(random.integers(n - size + 1)) for n in extent))
        crop: Tensor = part[:, x, y, z].float()
    mirrored = [axis for axis in (1, 2, 3) if random.random() < 0.5]
    crop = crop.flip(mirrored) if mirrored else crop
    return crop.transpose(1, 2) if random.random() < 0.5 else crop


def _about(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """The box around a mask."""
    where = np.argwhere(mask)
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + 1 + margin, mask.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


@torch.inference_mode()
def _measure(
    net: DetailNet, pool: _Pool, subjects: Sequence[Subject], out: Path
) -> dict[str, float]:
    """PSNR [dB] inside the brain before and after, rank correlation of stated and real error."""
    rows: list[dict[str, object]] = []
    for path in pool.files(subjects, 1):
        with safe_open(path, "pt") as opened:
            drawn = opened.get_tensor(POOLED).float()[None]
        truth = drawn[:, -1:]
        brain = truth > 0
        with torch.autocast("cpu", torch.bfloat16):
            found = net(drawn[:, : len(READS)])
        error = (found.image - truth).abs()[brain][::23]
        rank = spearmanr(found.std[brain][::23].numpy(), error.numpy()).statistic
        rows.append(
            {
                "drawn": path.stem.split("_", 1)[1],
                "psnr_interpolated": psnr(drawn[:, :1], truth, brain),
                "psnr_expected": psnr(drawn[:, 2:3], truth, brain),
                "psnr_detailed": psnr(found.image, truth, brain),
                "rank_correlation": float(rank),
            }
        )
    columns = list(rows[0])
    write_table(out / "test.tsv", rows, columns)
    return {name: float(np.mean([float(str(r[name])) for r in rows])) for name in columns[1:]}
