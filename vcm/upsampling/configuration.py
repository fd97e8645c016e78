"""What a user may choose for `vcm upsample`, `vcm simulate` and `vcm pretrain detail`.

Knows names and defaults; checks nothing, loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from vcm.learning.schedule import MAY_CHANGE, TrainingSchedule

#: Stands for a scan that travels with the package.
EXAMPLE = Path("example")


@dataclass
class Upsampling:
    """Configuration of `vcm upsample`.

    Attributes:
        scans: Scan of thick slices (NIfTI), or several of one head and contrast, or 'example'. The
            result lies in the space of the first.
        masks: Brain masks (NIfTI), one per scan, in their order. Default: the brain is found, with the
            skull or without.
        slice_axis: Direction across the slices: axial, coronal or sagittal. Default: from the
            header.
        slice_thickness: Thickness of a slice [mm]. Default: SliceThickness in the JSON file beside the scan,
            else the spacing between slices.
        profile: Sensitivity of a slice across its thickness: gaussian, boxcar, or auto (a Gaussian whose
            width is found in each scan; not with slice_thickness).
        out: Folder for the volumes, the sidecar and the picture.
        overwrite: Replace earlier results in that folder that were made from other scans.
        spacing: Voxel size of the result [mm].
        in_plane: Keep the scan's own voxels in the plane of the slices; `spacing` holds across them alone.
        like: Scan in the same place, registered to the first, whose voxels the result gets (such as the
            T1w scan of 1 mm of the same session). Default: voxels along the first scan's own axes.
        guide: Scan of the same head in another contrast and of finer voxels across the slices (such as a T1w scan
            of 1 mm beside a thick FLAIR), whose edges sharpen the result. It need not be registered. Default: none.
        output: What the result is: mean (the expected brain, least error) or sample (sharper,
            larger error).
        samples: Number of samples to generate in addition to the result. 0 is fastest and leaves
            the result as it is. Default: 1 where a detail network states the uncertainty, else 4,
            whose spread is it.
        model: Name of an embedded model, or folder of a model.
        steps: Number of denoising steps of each sample.
        seed: Seed of the first sample; the others count up from it.
        consistency: Project every volume onto the measured slices. Without, no network adds detail, and one
            scan is taken.
        noise: Assumed noise of the measured slices relative to the error of the model (small:
            follow the slices closely).
        detail_noise: As noise, for the result after the detail network; smaller follows the slices
            more closely.
        detail: Network that adds the detail of scans that are not T1w: its name, a folder that vcm
            pretrain contrasts wrote, or none, and they are interpolated.
        to: Contrast of a further result, T1w: the T1w brain that is expected under a scan of another contrast,
            with the standard deviation of its error. Synthetic throughout. Default: none.
        translator: Network that makes it: its name, or a folder that vcm pretrain translator wrote.
        whole_head: Let the detail network add the detail outside the brain of a T1w scan too, which is
            interpolated otherwise.
        mirrors: Average the detail network over two mirror images: twice as slow, slightly better.
        age: Age of the subject [years]. Default: typical of the training subjects.
        sex: Sex of the subject: F or M. Default: F, recorded as not given.
        allow_extrapolation: Accept ages outside the range of the training subjects.
        device: Where to compute: auto, cpu, cuda, cuda:1, mps.
        precision: Number format of the denoising: bfloat16, float32, or auto (bfloat16 where the
            hardware computes it).
    """

    headings: ClassVar[dict[str, str]] = {
        "scans": "Scans",
        "out": "Result",
        "model": "Model and sampling",
        "consistency": "Consistency with the slices",
        "age": "Subject",
        "device": "Machine",
    }
    aliases: ClassVar[dict[str, str]] = {"brain_mask": "masks"}

    scans: list[Path] = field(default_factory=list)
    out: Path = Path("upsampled")
    model: str = "brain1mm"
    spacing: float = 1.0
    in_plane: bool = False
    like: Path | None = None
    guide: Path | None = None
    slice_axis: str | None = None
    slice_thickness: float | None = None
    profile: str = "gaussian"
    masks: list[Path] = field(default_factory=list)
    samples: int | None = None
    steps: int = 10
    seed: int = 0
    output: str = "mean"
    consistency: bool = True
    noise: float = 0.1
    detail_noise: float = 0.5
    detail: str = "heads1mm"
    to: str | None = None
    translator: str = "t1w2mm"
    whole_head: bool = False
    mirrors: bool = True
    age: float | None = None
    sex: str | None = None
    device: str = "auto"
    precision: str = "auto"
    allow_extrapolation: bool = False
    overwrite: bool = False


@dataclass
class Simulation:
    """Configuration of `vcm simulate`.

    Attributes:
        scan: Isotropic scan (NIfTI) of any contrast, with the skull or without.
        out: Thick scan to write, for instance sub-01_acq-4mm_T1w.nii.gz.
        overwrite: Replace a scan that is there and was made from another.
        slice_axis: Direction across the slices: axial, coronal or sagittal.
        spacing: Between the centres of slices [mm].
        slice_thickness: Thickness of a slice [mm]. Default: the spacing, or the spacing without the gap.
        gap: Between slices [mm], in place of slice_thickness.
        profile: Sensitivity of a slice across its thickness: gaussian (whose full width at half maximum
            is the thickness) or boxcar.
        noise: Standard deviation of the noise, as a share of the bright end of what the scan shows.
        uneven: Standard deviation of the gain from slice to slice, as a share.
        seed: Seed of noise and gains.
    """

    headings: ClassVar[dict[str, str]] = {
        "scan": "Scan and result",
        "slice_axis": "Slices",
        "noise": "Faults",
    }

    scan: Path | None = None
    out: Path | None = None
    slice_axis: str = "axial"
    spacing: float = 5.0
    slice_thickness: float | None = None
    gap: float = 0.0
    profile: str = "gaussian"
    noise: float = 0.0
    uneven: float = 0.0
    seed: int = 0
    overwrite: bool = False


@dataclass
class ContrastTraining(TrainingSchedule):
    """Configuration of `vcm pretrain contrasts`.

    Attributes:
        data: Folders of T1w scans in BIDS layout, with the skull or without; the brains of split train
            are learned from, in random contrasts.
        labelmaps: Folders of whole-head label maps of 1 mm, FreeSurfer's numbers for the brain and
            others above 85; two of five images are painted from one of them.
        start: Folder of a network of the same sizes to start from, which an earlier run wrote. Default:
            random weights that change nothing yet.
        out: Folder of the training run.
        noise: Assumed noise of the slices in the projection, as in vcm upsample.
        crop: Edge of the training crops [voxel].
        channels: Channels of the levels of the network, and of its last layer.
        fold: Edge of the blocks of voxels that are folded into channels [voxel].
        nll_weight: Weight of the likelihood of the stated error in the loss.
        measured: Random images of test scans that the network is measured with at the end.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network and loss"}

    data: list[str] = field(default_factory=list)
    labelmaps: list[str] = field(default_factory=list)
    start: str = ""
    out: str = "runs/contrasts"
    noise: float = 0.1
    crop: int = 64
    channels: list[int] = field(default_factory=lambda: [48, 64, 96, 128, 128, 48])
    fold: int = 2
    nll_weight: float = 0.1
    measured: int = 32
    batch_size: int = 1
    learning_rate: float = 4e-4
    ema_decay: float = 0.995


@dataclass
class DetailTraining(TrainingSchedule):
    """Configuration of `vcm pretrain detail`.

    Attributes:
        data: Folders of brain-extracted scans in BIDS layout, or of scans with label maps of the
            whole brain; not those of vcm prepare, whose scans are smoothed by resampling.
        labels: Vocabulary of the label maps: auto, freesurfer, synthseg, dlmuse, vcm8, bids, fast,
            5tt, a YAML table, or mask for brain masks in their place.
        model: Folder of a model whose module reads thick slices.
        out: Folder of the training run.
        pool: Folder where simulated slices and expected brains are kept for the next run.
        draws: Simulated sets of thick slices per training scan.
        noise: Assumed noise of the slices relative to the error of the model, as in vcm upsample.
        crop: Edge of the training crops [voxel].
        channels: Channels of the levels of the network, and of its last layer.
        fold: Edge of the blocks of voxels that are folded into channels [voxel].
        expects: Show the network what the model expects; false trains one without it, to compare
            with.
        nll_weight: Weight of the likelihood of the stated error in the loss.
    """

    may_change: ClassVar[frozenset[str]] = MAY_CHANGE | {"pool"}
    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network and loss"}

    data: list[str] = field(default_factory=list)
    labels: str = "auto"
    model: str = ""
    out: str = "runs/detail"
    pool: str = "runs/detail_pool"
    draws: int = 3
    noise: float = 0.1
    crop: int = 96
    channels: list[int] = field(default_factory=lambda: [32, 48, 64, 96, 96, 32])
    fold: int = 2
    expects: bool = True
    nll_weight: float = 0.1
    batch_size: int = 1
    learning_rate: float = 4e-4
    ema_decay: float = 0.995


@dataclass
class TranslatorTraining(TrainingSchedule):
    """Configuration of `vcm pretrain translator`.

    Attributes:
        data: Folders of T1w scans that vcm prepare wrote, or one pack of them (.npz); the brains of split
            train are learned from, in random contrasts.
        start: Folder of a network of the same sizes to start from, which an earlier run wrote. Default:
            random weights.
        out: Folder of the training run.
        deform: Factor on all deformations; 0: the brains as they are, mirrored half of the time.
        channels: Channels of the levels of the network, and of its last layer.
        fold: Edge of the blocks of voxels that are folded into channels [voxel].
        nll_weight: Weight of the likelihood of the stated error in the loss.
        measured: Random scans of the brains of split validation that the network is measured with at the
            end.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network and loss"}

    data: list[str] = field(default_factory=list)
    start: str = ""
    out: str = "runs/translator"
    deform: float = 1.0
    channels: list[int] = field(default_factory=lambda: [32, 48, 64, 96, 128, 32])
    fold: int = 2
    nll_weight: float = 0.1
    measured: int = 32
    batch_size: int = 1
    learning_rate: float = 1e-3
    ema_decay: float = 0.995
