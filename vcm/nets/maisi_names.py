"""What a released file of the MAISI family holds, by the names of MONAI core.

Unlike BrainLDM, MAISI was trained with networks of MONAI core (`attn.out_proj`, `attn.to_q`), and
their names have stayed: nothing is renamed, only unwrapped. Reports that show the names:
Project-MONAI/tutorials, issue 2042. NVIDIA's own scripts load the U-Net without strictness; load
what is returned here with `vcm.nets.published_names.load_strictly`. It refuses, by name, the older
`ddpm-ct` weights, which know body regions and no contrast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vcm.nets.published_names import PublishedNamesError


def maisi_unet(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """{"unet_state_dict": ..., "scale_factor": ..., ...} -> tensors of `DiffusionModelUNetMaisi`."""
    return _unwrapped(checkpoint)


def maisi_autoencoder(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """autoencoder_v1.pt, a plain dictionary -> tensors of `AutoencoderKlMaisi`.

    Autoencoders that users trained on with NVIDIA's scripts come under "unet_state_dict" as well.
    """
    return _unwrapped(checkpoint)


def maisi_scale(checkpoint: Mapping[str, Any]) -> float:
    """The latent scale, which lies with the U-Net and belongs to `MaisiAutoencoder`."""
    if "scale_factor" not in checkpoint:
        raise PublishedNamesError(
            f"The checkpoint holds {', '.join(checkpoint)} but no scale_factor; "
            "take the scale from the file of the U-Net, where MAISI keeps it"
        )
    return float(checkpoint["scale_factor"])


def _unwrapped(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dictionary, without the "module." of distributed training."""
    tensors = checkpoint.get("unet_state_dict", checkpoint)
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
