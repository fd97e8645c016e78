"""Load one network that travels alone, by name or folder, with every check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from vcm.checksums import verify_network
from vcm.embedded import NETWORK, network_folder
from vcm.errors import VCMError
from vcm.nets.saved import ModelMixin

Net = TypeVar("Net", bound=ModelMixin)


def load_network(kind: type[Net], name: str | Path, what: str, remedy: str, argument: str) -> Net:
    """A network in float32, ready to be asked.

    Args:
        kind: Its class.
        name: Of an embedded network, or its folder.
        what: It is, in words, for a refusal.
        remedy: What to give instead, likewise.
        argument: Of the command that named it.

    Raises:
        VCMError: No such network lies there, or its files are not those that were saved.
    """
    folder = network_folder(name)
    complaint = f"{name} holds no {what}"
    if not (folder / NETWORK).is_file():
        raise VCMError(f"{complaint}: {remedy}", argument=argument)
    verify_network(folder)
    unreadable = f"{complaint} that can be read: {remedy}"
    try:
        card: Any = kind.load_config(folder)
        own = card["_class_name"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VCMError(unreadable, argument=argument) from error
    if own != kind.__name__:
        raise VCMError(f"{complaint}, but a {own}: {remedy}", argument=argument)
    try:
        found: Net = kind.from_pretrained(folder, use_safetensors=True).float().eval()
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise VCMError(unreadable, argument=argument) from error
    return found
