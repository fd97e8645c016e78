"""Which frozen model a module belongs to: one sum over its tensors and its latent scale.

A module trained on one frozen model steers another one into noise without any error. So training
and import write the sum into the module's configuration, and it is compared wherever the two meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vcm.errors import VCMError
from vcm.pipeline import VCMPipeline

FROZEN_PARTS = ("autoencoder", "denoiser")
#: Key in the module's configuration; diffusers keeps keys with an underscore without comment.
_KEY = "_trained_on"


def frozen_digest(pipeline: VCMPipeline) -> str:
    """SHA-256 over the tensors of autoencoder and denoiser, as float32, and the latent scale."""
    tensors = (
        (f"{part}.{name}", value)
        for part in FROZEN_PARTS
        for name, value in sorted(getattr(pipeline, part).state_dict().items())
    )
    return digest_of(tensors, latent_scale(pipeline.autoencoder.config))


def digest_of(tensors: Iterable[tuple[str, Tensor]], scale: float) -> str:
    """The same from tensors one by one, part by part, each part sorted by name."""
    digest = hashlib.sha256()
    for name, value in tensors:
        values = value.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy())
    digest.update(f"latent scale {scale!r}".encode())
    return digest.hexdigest()


def latent_scale(autoencoder_config: Any) -> float:
    """Scale of the latents; 1 for an autoencoder that standardises them by statistics of its own."""
    return float(autoencoder_config.get("scale", 1.0))


def record_frozen(pipeline: VCMPipeline) -> str:
    """Write into the module, if there is one, which frozen model it was trained on; returns the sum."""
    digest = frozen_digest(pipeline)
    if pipeline.module is not None:
        scale = latent_scale(pipeline.autoencoder.config)
        pipeline.module.register_to_config(**{_KEY: {"digest": digest, "latent_scale": scale}})
    return digest


def recorded_digest(module_config: Any) -> str | None:
    """The sum that `record_frozen` wrote; None in a module that is older than it."""
    return (module_config.get(_KEY) or {}).get("digest")


def check_module_fits(pipeline: VCMPipeline) -> None:
    """Raise VCMError if the module says that it was trained on another frozen model.

    To be called on the pipeline as loaded, before it is moved to another type of numbers. A module
    without a record passes: which model it belongs to is not known.
    """
    if pipeline.module is None:
        return
    recorded = pipeline.module.config.get(_KEY)
    if not recorded:
        return
    trained, own = float(recorded["latent_scale"]), latent_scale(pipeline.autoencoder.config)
    if trained != own:
        raise VCMError(
            f"The module was trained on latents of scale {trained:.15g}, but this model has {own:.15g}: "
            "load it with the model that it was trained on, or train one for this model."
        )
    found = frozen_digest(pipeline)
    if recorded["digest"] != found:
        raise VCMError(
            f"The module was trained on the frozen model {recorded['digest'][:12]}, but this one is "
            f"{found[:12]}: load it with the model that it was trained on, or train one for this model."
        )


RECORD = "import.json"
