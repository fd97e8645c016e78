"""Verify: what a saved model's files hold against what its networks need, tensor by tensor.

Reads one tensor at a time and builds networks without memory, so a model of any size is checked in
the memory of its largest tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vcm.checksums import verify_checksums
from vcm.embedded import INDEX, model_folder
from vcm.errors import VCMError
from vcm.files import read_json
from vcm.nets.frozen_checksum import FROZEN_PARTS, checksum_of, latent_scale, recorded_checksum
from vcm.nets.rounding import SCALE, from_rows
from vcm.weights.names import fault_table, load_faults, not_finite

#: What `vcm weights import` writes into a model's folder.
RECORD = "import.json"
#: Parts that a model need not have, as the pipeline knows them.
OPTIONAL = ("module", "detail", "super_resolution")
#: What loading a part reads: all that the index lists where there is one, else the one file.
_SHARDS, _TENSORS = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
)


@dataclass(frozen=True)
class Row:
    """What was checked, and what was found."""

    what: str
    found: str


@dataclass(frozen=True)
class _Part:
    """One saved network: its configuration, itself without memory, and its files."""

    name: str
    config: dict[str, Any]
    network: nn.Module
    files: list[Path]

    def tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Every tensor as it is loaded, one in memory at a time, sorted by name over all files.

        The third is whether it is stored in 8 bits.
        """
        with ExitStack() as stack:
            opened = [stack.enter_context(safe_open(path, framework="pt")) for path in self.files]
            holder = {name: stored for stored in opened for name in stored.keys()}  # noqa: SIM118
            for name in sorted(holder):
                value, scale = holder[name].get_tensor(name), name + SCALE
                if scale in holder:
                    yield name, from_rows(value, holder[scale].get_tensor(scale)), True
                elif not (name.endswith(SCALE) and name.removesuffix(SCALE) in holder):
                    yield name, value, False


def verify(folder: str | Path) -> list[Row]:
    """Check a model given by folder or name; returns what was found, one row per check.

    Raises VCMError that names every tensor that is missing, unexpected, of another shape or kind or
    not finite, mixed types of numbers within a network, and a frozen model that is not the one
    recorded at import or in the module.
    """
    folder = model_folder(folder)
    parts = _parts(folder)
    rows: list[Row] = []
    faults: dict[str, list[str]] = {}
    for part in parts:
        row, found = _check(part)
        rows.append(row)
        faults |= {f"{kind} in {part.name}": lines for kind, lines in found.items() if lines}
    if faults:
        raise VCMError(
            f"The model in {folder} is not what its configuration says: copy or import it again."
            f"{fault_table(faults)}"
        )
    return [*rows, *_check_frozen(folder, parts), *_check_files(folder)]


def _parts(folder: Path) -> list[_Part]:
    index = _read_json(folder / INDEX)
    parts = []
    for name in (*FROZEN_PARTS, *OPTIONAL):
        named = index.get(name) or [None, None]
        if name in OPTIONAL and named == [None, None]:
            continue
        if not (isinstance(named, list) and len(named) == 2 and str(named[0]).startswith("vcm.")):
            raise VCMError(
                f"The {name} in {folder} is {named}, but models of vcm hold classes of vcm alone: give a "
                "folder written by vcm."
            )
        library, kind = map(str, named)
        parts.append(_open(folder / name, name, library, kind))
    return parts


def _open(folder: Path, name: str, library: str, kind: str) -> _Part:
    files = _tensor_files(folder)
    if not all(path.is_file() for path in (*files, folder / "config.json")):
        raise VCMError(
            f"{folder} lacks its config.json or its tensors: copy or import the model again."
        )
    config = _read_json(folder / "config.json")
    try:
        own = getattr(import_module(library), kind)
        with init_empty_weights(include_buffers=False):
            network = own.from_config(config)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise VCMError(
            f"The {name} in {folder.parent} cannot be built from its configuration ({error}): it belongs "
            "to another version of vcm."
        ) from error
    return _Part(name, config, network, files)


def _tensor_files(folder: Path) -> list[Path]:
    """Files of tensors that loading reads; another one beside them, such as a copy of before, is none."""
    if not (folder / _SHARDS).is_file():
        return [folder / _TENSORS]
    listed = _read_json(folder / _SHARDS).get("weight_map")
    names = {*map(str, listed.values())} if isinstance(listed, dict) else set()
    return [folder / name for name in sorted(names or {_TENSORS})]


def _read_json(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not found:
        raise VCMError(f"{path} is damaged, or holds nothing: copy or import the model again.")
    return found


def _check(part: _Part) -> tuple[Row, dict[str, list[str]]]:
    """Names, shapes and kinds from hollow copies; values tensor by tensor."""
    hollow: dict[str, Tensor] = {}
    bad: list[str] = []
    types: set[str] = set()
    rounded = 0
    try:
        for name, value, in_8_bits in part.tensors():
            hollow[name] = torch.empty_like(value, device="meta")
            bad += not_finite({name: value})
            rounded += value.numel() if in_8_bits else 0
            if value.is_floating_point() and not in_8_bits:
                types.add(str(value.dtype).removeprefix("torch."))
    except (SafetensorError, OSError) as error:
        raise VCMError(
            f"The tensors of the {part.name} cannot be read ({error}): the file is truncated or damaged; "
            "copy or import the model again."
        ) from error
    faults = load_faults(part.network, hollow) | {"not finite": bad}
    faults["types of numbers, not one"] = sorted(types) if len(types) > 1 else []
    numbers = sum(value.numel() for value in hollow.values())
    total = len(part.network.state_dict())
    kinds = ", ".join([*sorted(types), *([f"8 bits for {rounded:,}"] if rounded else [])])
    found = f"{len(hollow)} of {total} tensors, {numbers:,} numbers, {kinds}, all finite"
    return Row(part.name, found), faults


def _check_frozen(folder: Path, parts: list[_Part]) -> list[Row]:
    """The checksum of the frozen model against those recorded at import and in the module."""
    named = {part.name: part for part in parts}
    tensors = ((f"{p}.{name}", v) for p in FROZEN_PARTS for name, v, _ in named[p].tensors())
    found = checksum_of(tensors, latent_scale(named["autoencoder"].config))
    recorded = {"module": recorded_checksum(named["module"].config) if "module" in named else None}
    if (folder / RECORD).is_file():
        record = _read_json(folder / RECORD)
        # The second key is that of folders that were imported by earlier versions.
        recorded[RECORD] = record.get("frozen_checksum", record.get("frozen_digest"))
    for where, checksum in recorded.items():
        if checksum is not None and checksum != found:
            raise VCMError(
                f"The frozen model in {folder} is {found[:12]}, but its {where} records {checksum[:12]}: a "
                "file was exchanged or changed; copy or import the model again."
            )
    known = [where for where, checksum in recorded.items() if checksum is not None]
    told = f"as recorded in {' and '.join(known)}" if known else "not recorded before"
    return [Row("frozen model", f"{found[:12]}, {told}")]


def _check_files(folder: Path) -> list[Row]:
    """Every file that loading reads, with the checksum of the day when it was saved."""
    checksums = verify_checksums(folder)
    found = f"{len(checksums)} as they were saved" if checksums else "saved without checksums"
    return [Row("files", found)]
