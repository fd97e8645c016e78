"""Prepared scans and models on a coarse grid, where a training run takes seconds.

Voxels of 5 mm, 32 x 48 x 32 in common space; a brain is nested ellipsoids.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import tiny_pipeline

from vcm.diffusion.sampling import flow_shift, make_scheduler
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import centred_grid
from vcm.imaging.volume import Volume, write_volume
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.detail import DetailNet
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline

GRID = centred_grid((32, 48, 32), 5.0, (0.0, -18.0, 6.0), "LAS")
LATENT = (4, 6, 4)
SPLITS = ("train", "train", "train", "test", "test")
HEADER = "participant_id\tsplit\tage\tsex\tventricular_volume\tbrain_volume"
#: Classes from the outside in, the size of their ellipsoid relative to the brain's, and intensity.
SHELLS = ((7, 1.0, 0.2), (2, 0.93, 0.6), (1, 0.75, 0.85), (4, 0.35, 0.7), (3, 0.28, 0.15))
#: Class, centre [mm] from the grid's and radius [mm] of what lies beside the middle.
BALLS = ((5, (25, -5, -15), 11.0), (6, (-22, 5, -15), 9.0), (8, (0, -15, -42), 13.0))


def classes_of(size: float) -> np.ndarray:
    """Eight-class map of a brain that is that much larger than the usual one."""
    voxels = np.stack(np.meshgrid(*map(np.arange, GRID.shape), indexing="ij"), -1)
    place = voxels @ GRID.affine[:3, :3].T + GRID.affine[:3, 3] - GRID.centre
    radius = np.linalg.norm(place / (size * np.array([66.0, 86.0, 62.0])), axis=-1)
    classes = np.zeros(GRID.shape, np.uint8)
    for number, share, _ in SHELLS:
        classes[radius <= share] = number
    for number, centre, extent in BALLS:
        classes[np.linalg.norm(place - np.array(centre), axis=-1) <= size * extent] = number
    return classes


def image_of(classes: np.ndarray, seed: int) -> np.ndarray:
    """Intensities 0..1 of a class map, with some noise inside the brain."""
    level = np.zeros(9, np.float32)
    for number, _, intensity in SHELLS:
        level[number] = intensity
    level[[5, 6, 8]] = 0.55, 0.65, 0.8
    noise = np.random.default_rng(seed).normal(0, 0.03, classes.shape)
    return np.where(classes > 0, np.clip(level[classes] + noise, 0.02, 1), 0).astype(np.float32)


def write_prepared(folder: Path, splits=SPLITS) -> Path:
    """A folder as `vcm prepare` writes it, one subject per split."""
    rows = [HEADER]
    for n, split in enumerate(splits):
        classes = classes_of(0.92 + 0.02 * n)
        name = f"sub-{n}"
        image = Volume(image_of(classes, n), GRID.affine)
        write_volume(image, folder / name / f"{name}_T1w.nii.gz")
        write_volume(Volume(classes, GRID.affine), folder / name / f"{name}_dseg.nii.gz")
        ventricles, brain = ventricular_and_brain_volume(classes, GRID.voxel_volume)
        rows.append(f"{name}\t{split}\t{30 + 10 * n}\t{'FM'[n % 2]}\t{ventricles}\t{brain}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def write_files(folder: Path) -> dict[str, Path]:
    """One brain as a user has it: its scan, its label map, and thick slices of it (axial, 15 mm)."""
    classes = classes_of(1.0)
    scan = Volume(700 * image_of(classes, 0), GRID.affine)
    thick, _ = simulate_thick(scan, "axial", 15.0)
    thick = thick.with_data(np.where(thick.data > 80, thick.data, 0).astype(np.float32))
    volumes = {
        "scan": (scan, "sub-1_T1w.nii.gz"),
        "labels": (Volume(classes, GRID.affine), "sub-1_dseg.nii.gz"),
        "thick": (thick, "sub-1_acq-thick_T1w.nii.gz"),
    }
    return {what: write_volume(volume, folder / name) for what, (volume, name) in volumes.items()}


def aligned_by_header(patch: pytest.MonkeyPatch) -> None:
    """These brains lie in common space, so nothing is searched; and ellipsoids are taken for T1w."""
    for room in ("imaging", "weights"):
        patch.setattr(f"vcm.{room}.contrast.t1w_separation", lambda image, grid: 1.0)
    patch.setattr("vcm.weights.contrast._by_its_tissues", lambda image, grid: ("T1w", 1.0))
    patch.setattr("vcm.imaging.brain.align_rigid", lambda image: np.eye(4))
    patch.setattr("vcm.imaging.placing.align_rigid", lambda image: np.eye(4))


def save_small_models(folder: Path) -> None:
    """Random networks: folder/model for label maps, folder/thick for thick slices, folder/segmenter."""
    torch.manual_seed(0)
    brain2mm_like().save_pretrained(folder / "model")
    thick_model_with_detail(folder / "thick")
    TissueSegmenter((8, 8), 2).save_pretrained(folder / "segmenter")


def thick_model_with_detail(folder: Path) -> Path:
    """A model of thick slices on these voxels, saved with a detail network of random weights."""
    pipeline = brain2mm_like(reads=2)
    pipeline.register_modules(detail=DetailNet((4, 4, 4, 4, 4, 4), 2, True))
    pipeline.save_pretrained(folder)
    return folder


def _grid() -> dict:
    return {"shape": list(GRID.shape), "affine": GRID.affine.tolist()}


def brain2mm_like(reads: int = 8) -> VCMPipeline:
    """The family of the embedded models, with a module that reads so many channels."""
    return tiny_pipeline(GRID, {8: "classes", 2: "thick"}[reads], reads)


def maisi_like() -> VCMPipeline:
    """Flow matching, told spacing and contrast."""
    from vcm.nets.maisi import MaisiAutoencoder, MaisiDenoiser

    torch.manual_seed(0)
    shape = tuple(2 * n for n in LATENT)
    autoencoder = MaisiAutoencoder((8, 8, 8), 4, (1, 1, 1), 2, scale=0.9, latent_shape=shape)
    denoiser = MaisiDenoiser(
        4, (8, 8), (False, True), (0, 8), 1, 2, guidance_scale=2.0, shift=flow_shift(shape)
    )
    return VCMPipeline(
        autoencoder, denoiser, make_scheduler("flow", shift=flow_shift(shape)),
        inputs=["spacing_x", "spacing_y", "spacing_z", "contrast"],
        population={"contrasts": {"mri_t1": 9}, "contrast": "mri_t1"}, grid=_grid(),
    )  # fmt: skip


def brainldm_like() -> VCMPipeline:
    """Told sex and age; what its volumes mean is not known."""
    from vcm.nets.published_autoencoder import PublishedAutoencoder

    torch.manual_seed(0)
    autoencoder = PublishedAutoencoder((8, 8, 8, 8), 3, 1, 2, scale=0.9, latent_shape=LATENT)
    denoiser = LatentDenoiser(
        3, channels=(8, 8), head_channels=(0, 8), groups=2, res_blocks=1, prediction_type="epsilon"
    )
    return VCMPipeline(
        autoencoder, denoiser, make_scheduler("ddim"),
        covariate_ranges={
            "sex": (0, 1), "age": (44, 82), "ventricular_volume": (0, 1), "brain_volume": (0, 1),
        },
        grid=_grid(),
    )  # fmt: skip


def write_contrast_sources(folder):
    """Two scans in BIDS layout, one to train on, and a label map; the words that name them."""
    for number in (1, 2):
        data = np.zeros((44, 44, 44), np.float32)
        data[2:-2, 2:-2, 2:-2] = np.random.default_rng(number).random((40, 40, 40)) + 1
        anat = folder / "bids" / f"sub-{number}" / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        volume = Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]))
        write_volume(volume, anat / f"sub-{number}_T1w.nii.gz")
    table = "participant_id\tsplit\nsub-1\ttrain\nsub-2\ttest\n"
    (folder / "bids" / "participants.tsv").write_text(table, encoding="utf-8")
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[6:-6, 6:-6, 6:-6] = 2
    (folder / "maps").mkdir(exist_ok=True)
    write_volume(Volume(labels, np.eye(4)), folder / "maps" / "seg.nii.gz")
    return f"data=[{folder / 'bids'}]", f"labelmaps=[{folder / 'maps'}]"
