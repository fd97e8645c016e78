"""The network that a training run starts from, of a folder: it is there, and of the same sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vcm.checksums import verify_network
from vcm.errors import VCMError


def check_network(folder: str, name: str, command: str) -> None:
    """Refuse a folder without a network.

    Args:
        folder: That a user gave.
        name: Of the folder that is meant, autoencoder, denoiser or module.
        command: That writes it.

    Raises:
        VCMError: It holds no config.json.
    """
    if not (Path(folder) / "config.json").is_file():
        raise VCMError(
            f"{folder} holds no {name} (config.json): give the folder '{name}' that {command} wrote."
        )


def load_start(net: Any, folder: str) -> None:
    """Copy the weights of a saved network of the same class and sizes into another, in float32.

    Raises:
        VCMError: Its sizes are others, or its files are not those that were saved.
    """
    verify_network(Path(folder))
    begun = type(net).from_pretrained(folder).float()
    own, theirs = net.state_dict(), begun.state_dict()
    other = [n for n in own.keys() | theirs.keys() if _size(own, n) != _size(theirs, n)]
    if other:
        raise VCMError(
            f"The network in {folder} has other sizes than this run's ({sorted(other)[0]} differs): give "
            f"the run the sizes in {folder}/config.json, or start without it."
        )
    net.load_state_dict(theirs)


def _size(tensors: dict[str, Any], name: str) -> object:
    return tensors[name].shape if name in tensors else None
