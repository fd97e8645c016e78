"""Copy a model in half precision or in 8 bits, as the embedded ones are stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vcm.checksums import record_checksums, verify_network
from vcm.embedded import NETWORK, model_folder
from vcm.errors import VCMError
from vcm.files import check_output, read_json, write_whole
from vcm.nets.detail import DetailNet
from vcm.nets.encoder import ScanEncoder
from vcm.nets.rounding import round_network, rounded_names, to_stored
from vcm.nets.saved import ModelMixin
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.nets.super_resolution import SuperResolutionNet
from vcm.nets.translator import Translator
from vcm.weights.load import load_pipeline
from vcm.weights.names import fault_table, not_finite

#: Networks that are copied alone, by the class that their configuration names.
NETWORKS: dict[str, type[ModelMixin]] = {
    "TissueSegmenter": TissueSegmenter, "SliceDenoiser": SliceDenoiser, "DetailNet": DetailNet,
    "Translator": Translator, "SuperResolutionNet": SuperResolutionNet, "ScanEncoder": ScanEncoder,
}  # fmt: skip


def pack(model: str | Path, out: Path, bits: int = 16) -> int:
    """Copy a model, or the folder of one of NETWORKS, in half precision or in 8 bits.

    Args:
        model: Name of an embedded model, or a folder.
        out: Folder for the copy; must not exist yet.
        bits: Per weight: 16, half precision, or 8, see vcm.nets.rounding.

    Returns:
        Size of its tensors [bytes].

    Raises:
        VCMError: There is no such model, its files are not those that were saved, half precision does not
            hold its weights, or `out` is there or cannot be written.
    """
    if bits not in (8, 16):
        raise VCMError(f"bits is {bits}: choose 16 (half precision) or 8.")
    if out.exists():
        raise VCMError(f"{out} exists already: choose another folder for the copy.")
    folder = Path(model) if Path(model).is_dir() else model_folder(model)
    check_output(out, sum(p.stat().st_size for p in folder.rglob("*.safetensors")))
    write_whole(out, lambda part: _write(model, part, bits))
    return sum(path.stat().st_size for path in out.rglob("*.safetensors"))


def _write(model: str | Path, out: Path, bits: int) -> None:
    folder = Path(model)
    parts: dict[Path, torch.nn.Module] = {}
    if (folder / NETWORK).is_file():
        verify_network(folder)
        network = _network_class(folder).from_pretrained(folder)
        _to_bits(network, bits)
        network.save_pretrained(out)
        for table in folder.glob("*.tsv"):  # which scans an encoder saw
            shutil.copyfile(table, out / table.name)
        parts[out] = network
    else:
        pipeline = load_pipeline(model)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                _to_bits(part, bits)
                parts[out / name] = part
        pipeline.record_frozen()
        pipeline.save_pretrained(out)
    if bits == 8:
        for place, part in parts.items():
            for file in place.glob("*.safetensors"):
                stored = to_stored(load_file(file), rounded_names(part))
                save_file(stored, file, metadata={"format": "pt"})
    for path in out.rglob("*.json"):
        table = json.loads(path.read_text(encoding="utf-8"))
        # Where a copy came from is no business of those who get it.
        if table.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    record_checksums(out)


def _network_class(folder: Path) -> type[ModelMixin]:
    name = read_json(folder / NETWORK).get("_class_name", "network without a class")
    if name not in NETWORKS:
        raise VCMError(
            f"{folder} holds a {name}, which cannot be packed alone: give a whole model, or one of "
            f"{', '.join(NETWORKS)}."
        )
    return NETWORKS[name]


def _to_bits(network: torch.nn.Module, bits: int) -> None:
    """Raises VCMError where a weight is no number then."""
    if bits == 8:
        round_network(network.float())
    else:
        torch.nn.Module.to(network, torch.float16)
    if lost := not_finite(network.state_dict()):
        raise VCMError(
            f"{type(network).__name__} has weights that {bits} bits do not hold, or that are no numbers: choose "
            f"another number of bits, or train it again.{fault_table({'not finite': lost})}"
        )
