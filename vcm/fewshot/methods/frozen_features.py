"""Features of a frozen diffusion model: latents of its autoencoder, activations of its denoiser.

Knows the embedded 2 mm model; nothing of labels. Scans are centred, not registered, so features are
pooled. It loads diffusers and MONAI, so it is never imported where a container answers a case.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcm.errors import VCMError
from vcm.pipeline import VCMPipeline
from vcm.weights.load import load_pipeline

#: Latents are averaged over 2 x 2 x 2 parts of the volume.
PARTS = 2
#: Steps of the diffusion process at which the denoiser looks.
TIMESTEPS = (20, 200, 500)


def load_frozen(feature: str, model: str) -> tuple[nn.Module, str]:
    """Load what makes the features `latents` or `denoiser`, and the checksum of its weights.

    Raises:
        VCMError: There is no such model, or it is told other things than covariates.
    """
    pipeline = load_pipeline(model)
    if pipeline.input_rule.reads_contrast:
        raise VCMError(
            f"The features '{feature}' need a model that reads covariates, but {model} reads the contrast: "
            "choose brain2mm."
        )
    checksums = "|".join(f"{n}={s}" for n, s in sorted(pipeline.file_checksums.items()))
    network = LatentFeatures(pipeline) if feature == "latents" else DenoiserFeatures(pipeline)
    return network.eval(), hashlib.sha256(f"{feature}|{checksums}".encode()).hexdigest()


class LatentFeatures(nn.Module):
    """Mean latents over the octants of the volume: 8 numbers per channel."""

    def __init__(self, pipeline: VCMPipeline) -> None:
        super().__init__()
        self.autoencoder: Any = pipeline.autoencoder
        self.mirrored = bool(pipeline.volume_grid.affine[0, 0] < 0)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        found: torch.device = self.autoencoder.device
        return found

    @property
    def feature_count(self) -> int:
        """How many features a scan has."""
        return int(self.autoencoder.latent_shape[0]) * PARTS**3

    def latent(self, image: Tensor) -> Tensor:
        """(1, 1, X, Y, Z), axes right, anterior, superior -> mean latent (1, C, x, y, z)."""
        mean: Tensor = self.autoencoder.encode(image.flip(2) if self.mirrored else image)[0]
        return mean

    def features(self, image: Tensor) -> Tensor:
        """(1, 1, X, Y, Z) -> (1, F)."""
        return functional.adaptive_avg_pool3d(self.latent(image), PARTS).flatten(1)


class DenoiserFeatures(LatentFeatures):
    """Mean and spread of every channel of the denoiser's middle and last blocks, at three noise levels.

    The noise is the same for all scans, and the covariates lie in the middle of their ranges, so the model is
    told nothing of the case.
    """

    def __init__(self, pipeline: VCMPipeline) -> None:
        super().__init__(pipeline)
        self.denoiser: Any = pipeline.denoiser
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, *pipeline.latent_shape, generator=generator)
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer(
            "covariates", torch.full((1, len(pipeline.config.inputs)), 0.5), persistent=False
        )

    @property
    def feature_count(self) -> int:
        """How many features a scan has."""
        channels = self.denoiser.config.channels
        return 2 * len(TIMESTEPS) * (channels[-1] + channels[0])

    def features(self, image: Tensor) -> Tensor:
        """(1, 1, X, Y, Z) -> (1, F)."""
        z = self.latent(image)
        seen: list[Tensor] = []
        blocks = (self.denoiser.net.middle_block, self.denoiser.net.up_blocks[-1])
        hooks = [b.register_forward_hook(lambda _, __, out: seen.append(out)) for b in blocks]
        try:
            for step in TIMESTEPS:
                t = torch.tensor([step], device=z.device)
                z_t = self.denoiser.add_noise(z, self.get_buffer("noise"), t)
                self.denoiser(z_t, t, self.get_buffer("covariates"))
        finally:
            for hook in hooks:
                hook.remove()
        flat = [x.float().flatten(2) for x in seen]
        return torch.cat([p for x in flat for p in (x.mean(2), x.std(2, correction=0))], 1)
