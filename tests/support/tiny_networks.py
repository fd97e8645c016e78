"""Networks of few channels and random weights, made the same way wherever a test needs them."""

from typing import Any

import torch

from vcm.diffusion.sampling import make_scheduler
from vcm.imaging.volume import Grid
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.pipeline import VCMPipeline

#: Of VolumetricConditioningModule; each voxel of a condition is read, 4 x 4 x 4 at a time.
FEW = {
    "latent_channels": 4, "encoder_channels": (8,), "encoder_res_blocks": 1, "encoder_groups": 2,
    "encoder_patch": 4, "unet_channels": (8, 8), "unet_res_blocks": 1,
    "unet_attention": (False, True), "unet_head_channels": (8, 8), "unet_groups": 2,
    "unet_out_channels": 8, "head_channels": 8, "head_norm": "none",
}  # fmt: skip
#: What the embedded models know of their training subjects.
SUBJECTS: dict[str, Any] = {
    "covariate_ranges": {
        "sex": (0, 1), "age": (20, 80), "ventricular_volume": (5, 110), "brain_volume": (900, 1900),
    },
    "population": {
        "typical_age": 50.0,
        "expected_volumes": {
            "ventricular_volume": [2.5, 0.1, 0.01], "brain_volume": [7.1, 0.1, -0.002],
        },
    },
}  # fmt: skip


def tiny_module(*reads: int, seed: int | None = None, **sizes: Any) -> VolumetricConditioningModule:
    """A module that reads conditions of so many channels; sizes replace those of FEW."""
    if seed is not None:
        torch.manual_seed(seed)
    return VolumetricConditioningModule(condition_channels=reads, **(FEW | sizes))


def tiny_denoiser(latent_shape: tuple[int, ...] | None = None) -> LatentDenoiser:
    """Of latents with 4 channels, at the shape (x, y, z) if one is given."""
    return LatentDenoiser(
        4, channels=(8, 8), head_channels=(0, 8), groups=2, res_blocks=1, latent_shape=latent_shape
    )


def tiny_pipeline(grid: Grid, condition: str = "classes", reads: int = 8) -> VCMPipeline:
    """The family of the embedded models on that grid, with a module that changes what is predicted."""
    torch.manual_seed(0)
    latent_shape = tuple(n // 8 for n in grid.shape)
    autoencoder = LatentAutoencoder((8, 16), 4, groups=2, patch=4, latent_shape=latent_shape)
    denoiser = tiny_denoiser(latent_shape)
    module = tiny_module(reads)
    torch.nn.init.normal_(module.mlp_beta.weight, std=0.1)
    torch.nn.init.normal_(autoencoder.synthesis.weight, std=0.1)
    torch.nn.init.constant_(autoencoder.synthesis.bias, 0.4)
    return VCMPipeline(
        autoencoder, denoiser, make_scheduler("ddim"), module, conditions=[condition],
        grid={"shape": list(grid.shape), "affine": grid.affine.tolist()}, **SUBJECTS,
    )  # fmt: skip


def steered_by(
    pipeline: VCMPipeline, module: VolumetricConditioningModule, conditions: list[str]
) -> VCMPipeline:
    """The pipeline itself, with another module, as one that was saved without a record has it."""
    pipeline.register_modules(module=module)
    pipeline.register_to_config(conditions=conditions)
    return pipeline
