"""Where to compute: the device that a user names, or the best one that is there."""

from __future__ import annotations

import torch

from vcm.errors import VCMError


def choose_device(name: str) -> torch.device:
    """auto: a GPU where there is one. Raises VCMError for a device that is not there."""
    torch.set_flush_denormal(True)
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        # On Apple GPUs some of what is computed here has no kernel.
        return found if found is not None and found.type != "mps" else torch.device("cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise VCMError(
            f"The device '{name}' cannot be used ({str(error).splitlines()[0]}): choose cpu or auto."
        ) from error
    return torch.device(name)
