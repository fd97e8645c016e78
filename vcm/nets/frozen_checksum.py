"""Which frozen model a module belongs to: one checksum over its tensors and its latent scale.

A module trained on one frozen model steers another one into noise without any error. So training
and import write the checksum into the module's configuration, and it is compared wherever the two
meet. Networks in, text out; no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vcm.errors import VCMError

if TYPE_CHECKING:
    from jaxtyping import Shaped

FROZEN_PARTS = ("autoencoder", "denoiser")
#: Key in the module's configuration; diffusers keeps keys with an underscore without comment.
_KEY = "_trained_on"


def frozen_checksum(autoencoder: Any, denoiser: Any) -> str:
    """SHA-256 over the tensors of both networks, as float32, and the latent scale."""
    parts = zip(FROZEN_PARTS, (autoencoder, denoiser), strict=True)
    tensors = (
        (f"{part}.{name}", value)
        for part, network in parts
        for name, value in sorted(network.state_dict().items())
    )
    return checksum_of(tensors, latent_scale(autoencoder.config))


def checksum_of(tensors: Iterable[tuple[str, Shaped[Tensor, " ..."]]], scale: float) -> str:
    """The same from tensors one by one, part by part, each part sorted by name."""
    checksum = hashlib.sha256()
    for name, value in tensors:
        values = value.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        checksum.update(f"{name} {list(values.shape)}\n".encode())
        checksum.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    checksum.update(f"latent scale {scale!r}".encode())
    return checksum.hexdigest()


def latent_scale(autoencoder_config: Any) -> float:
    """Scale of the latents; 1 for an autoencoder that standardises them by statistics of its own."""
    return float(autoencoder_config.get("scale", 1.0))


def record_frozen(module: Any, autoencoder: Any, denoiser: Any) -> str:
    """Write into a module, or None, which frozen model it was trained on; returns the checksum."""
    checksum = frozen_checksum(autoencoder, denoiser)
    if module is not None:
        scale = latent_scale(autoencoder.config)
        module.register_to_config(**{_KEY: {"digest": checksum, "latent_scale": scale}})
    return checksum


def recorded_checksum(module_config: Mapping[str, Any]) -> str | None:
    """The checksum that `record_frozen` wrote; None in a module that is older than it."""
    return (module_config.get(_KEY) or {}).get("digest")


def check_module_fits(module: Any, autoencoder: Any, denoiser: Any) -> None:
    """Refuse a module that was trained on another frozen model.

    To be called on networks as loaded, before they are moved to another type of numbers. A module
    without a record passes: which model it belongs to is not known.

    Args:
        module: A control method, or None.
        autoencoder: Of the frozen model.
        denoiser: Of the frozen model.

    Raises:
        VCMError: The latent scale or the checksum is another.
    """
    recorded = None if module is None else module.config.get(_KEY)
    if not recorded:
        return
    trained, own = float(recorded["latent_scale"]), latent_scale(autoencoder.config)
    if trained != own:
        raise VCMError(
            f"The module was trained on latents of scale {trained:.15g}, but this model has {own:.15g}: "
            "load it with the model that it was trained on, or train one for this model."
        )
    found = frozen_checksum(autoencoder, denoiser)
    if recorded["digest"] != found:
        raise VCMError(
            f"The module was trained on the frozen model {recorded['digest'][:12]}, but this one is "
            f"{found[:12]}: load it with the model that it was trained on, or train one for this model."
        )
