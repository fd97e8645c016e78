"""Read a published checkpoint: plain tensors by name, and nothing that could run code.

Knows file formats and the wrappers that training scripts put around a state dictionary; nothing of
what the names mean. Tensors stay on disk (memory-mapped) until they are used.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vcm.errors import VCMError
from vcm.weights.names import fault_table, not_finite

PICKLES = (".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
#: Keys under which training scripts keep the tensors of the one network of a file.
WRAPPERS = ("state_dict", "unet_state_dict", "autoencoder_state_dict", "model_state_dict")
SCALE = "scale_factor"

#: First bytes of files that are no checkpoint, though their name says so.
_IMPOSTORS = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with git lfs pull",
    b"<!doctype html": "a web page: the download needs a login or another link",
    b"<html": "a web page: the download needs a login or another link",
}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of one network, by the names of the file.

    scale_factor    latent scale, where the file holds one (MAISI keeps it with the U-Net)
    wrapper         key that the tensors lay under; None for a plain dictionary
    beside          what else lay beside the wrapper (epoch, loss, optimizer), which is not read
    """

    tensors: dict[str, Tensor]
    scale_factor: float | None = None
    wrapper: str | None = None
    beside: list[str] = field(default_factory=list)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read .safetensors, .pt, .pth or .ckpt without running anything that lies in it.

    The wrappers {"state_dict"}, {"unet_state_dict", "scale_factor"} and their like are removed, and
    so is the "module." of distributed training. Raises VCMError for: no such file, another format,
    a pickle that would run code, a damaged file, a file without tensors, several networks in one
    file, a scale that is no positive number, and names that collide without their "module.".
    """
    path = Path(path)
    _refuse_impostor(path)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if not isinstance(content, Mapping):
        raise VCMError(
            f"{path.name} holds a {type(content).__name__}, but a checkpoint is a dictionary of "
            "tensors by name: save the network's state_dict()."
        )
    scale = _scale(content.get(SCALE), path)
    wrapper, tensors, beside = _unwrap(content, path)
    return Checkpoint(_without_module(tensors, path), scale, wrapper, beside)


def refuse_bad_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise VCMError that names each tensor with NaN or infinite values, or where all are 0."""
    bad = not_finite(tensors)
    if bad:
        raise VCMError(
            f"{source} has values that are not finite, but every weight needs a number: the file is "
            f"damaged or its training diverged, so take another.{fault_table({'not finite': bad})}"
        )
    if not any(value.is_complex() or value.float().any() for value in tensors.values()):
        raise VCMError(
            f"{source} holds nothing but zeros: the download did not fill it, so fetch it again."
        )


def _refuse_impostor(path: Path) -> None:
    if path.is_dir():
        raise VCMError(f"{path} is a folder, but a checkpoint is one file: give the file in it.")
    if not path.is_file():
        raise VCMError(f"{path} does not exist: give the path of a checkpoint.")
    if path.suffix not in SUFFIXES:
        raise VCMError(
            f"{path.name} ends with '{path.suffix}', but checkpoints end with {', '.join(SUFFIXES)}: "
            "give such a file, or rename it if it is one."
        )
    with path.open("rb") as stream:
        start = stream.read(32).lower()
    for first, what in _IMPOSTORS.items():
        if start.startswith(first):
            raise VCMError(f"{path.name} holds no tensors but {what}.")


def _load_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _load_pickle(path: Path) -> Any:
    """weights_only: torch's own unpickler, which knows tensors and plain containers alone."""
    with path.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"  # files older than torch 1.6 cannot be mapped
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, mmap=zipped, map_location="cpu")
    except Exception as error:  # a damaged pickle can raise anything
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked is None:
            raise _damaged(path, error) from error
        raise VCMError(
            f"{path.name} is no file of plain tensors: reading it would run {blocked[1]}, so it was "
            "not read; take a .safetensors file, or have its author save the state_dict() alone."
        ) from error


def _damaged(path: Path, error: Exception) -> VCMError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "Weights only load failed" in reason:
        reason = "its content is no tensors by name"
    size = path.stat().st_size
    return VCMError(
        f"{path.name} ({size:,} bytes) cannot be read as a checkpoint ({reason}): it is truncated, "
        "damaged or of another format; copy or download it again."
    )


def _unwrap(
    content: Mapping[Any, Any], path: Path
) -> tuple[str | None, dict[str, Tensor], list[str]]:
    """(wrapper, tensors, names of what else was there)."""
    found = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
    nested = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    if len(found) > 1:
        raise VCMError(
            f"{path.name} holds several networks ({', '.join(found)}), and which is meant is unknown: "
            "save the one to use in a file of its own."
        )
    wrapper = found[0] if found else None
    inside = content[wrapper] if wrapper else {k: v for k, v in content.items() if k != SCALE}
    if not wrapper and nested:
        raise VCMError(
            f"{path.name} holds {', '.join(nested[:6])}, none of which is known to hold the tensors of "
            f"a network ({', '.join(WRAPPERS)}): save the network's state_dict() alone."
        )
    strange = [str(key) for key, value in inside.items() if not _is_plain(value)]
    if not inside or strange:
        sort = (
            "no plain tensor" if strange and isinstance(inside[strange[0]], Tensor) else "no tensor"
        )
        what = f"'{strange[0]}', which is {sort}" if strange else "no tensors"
        raise VCMError(
            f"{path.name} holds {what}, but a checkpoint is a dictionary of tensors by name: save the "
            "network's state_dict()."
        )
    beside = [str(key) for key in content if wrapper and key not in (wrapper, SCALE)]
    return wrapper, {str(key): value for key, value in inside.items()}, beside


def _is_plain(value: object) -> bool:
    """Neither sparse nor quantised, which are no numbers of a network as they are."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def _without_module(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(plain) != len(tensors):
        twice = next(
            n for n in tensors if n.startswith("module.") and n[len("module.") :] in tensors
        )
        raise VCMError(
            f"{path.name} holds {twice} with and without 'module.', and which to trust is unknown: "
            "save the network again."
        )
    return plain


def _scale(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise VCMError(
            f"{path.name} says {SCALE} is {value}, but a latent scale is a positive number: the file is "
            "damaged or its training went wrong, so take another."
        )
    return float(value)
