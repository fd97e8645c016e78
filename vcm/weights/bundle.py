"""Read a MONAI bundle that `vcm weights export` wrote, and make it a model's folder again.

Knows where a bundle keeps what. Runs nothing that lies in it: configurations of a bundle may hold Python
expressions, which are not even parsed here, and the networks are read from safetensors alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcm.checksums import CHECKSUMS, verify_checksums
from vcm.embedded import INDEX
from vcm.errors import VCMError
from vcm.files import check_output, sha256, versions, whole, write_json
from vcm.weights.load import load_pipeline
from vcm.weights.verifying import RECORD, Row, verify

#: Where a bundle keeps its description and its model.
METADATA, MODELS = Path("configs", "metadata.json"), "models"
#: The key of the metadata whose value is the checksum of the model's checksums.
CHECKSUM_KEY = "vcm_checksums_sha256"
#: All that a saved model consists of.
_ENDINGS = (".json", ".safetensors")


def import_bundle(bundle: Path, out: Path) -> list[Row]:
    """Copy the model of a bundle into a folder, after every check that a model can pass.

    Args:
        bundle: The folder of a MONAI bundle that `vcm weights export` wrote.
        out: A new or empty folder.

    Returns:
        What was checked, and what was found.

    Raises:
        VCMError: It is no bundle of vcm, a file is missing, changed, additional or of a format that can
            run code, a tensor does not fit its network, the metadata describe another model, or `out`
            has something in it. Nothing is left in `out` then.
    """
    metadata, models = _metadata(bundle), bundle / MODELS
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VCMError(
            f"{out} exists and is not empty: give a folder that does not exist yet.", argument="out"
        )
    files = _files(models, metadata)
    check_output(out, sum((models / name).stat().st_size for name in files))
    with whole(out) as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(models / name, folder / name)
        rows = verify(folder)
        record = {
            "bundle": metadata.get("name"),
            "vcm": metadata.get("version"),
            "files": files,
            "frozen_checksum": _refuse_other_model(bundle, folder, metadata),
        }
        write_json(folder / RECORD, record | {"versions": versions()})
    return rows


def _metadata(bundle: Path) -> dict[str, Any]:
    path = bundle / METADATA
    if not path.is_file():
        raise VCMError(
            f"{bundle} is no MONAI bundle, which has a {METADATA.as_posix()}: give the folder that "
            "vcm weights export wrote, or the name of a published model."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VCMError(f"{path} cannot be read ({error}): copy the bundle again.") from error
    if not isinstance(found, dict) or CHECKSUM_KEY not in found:
        raise VCMError(
            f"{bundle} is a MONAI bundle of another program: its networks are not those of vcm, so only "
            "bundles that vcm weights export wrote can be imported; a bundle of an earlier version of "
            "vcm must be exported again."
        )
    return found


def _files(models: Path, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Checksum by path in the folder of all that makes the model, and nothing else lies there."""
    record = models / CHECKSUMS
    if not record.is_file() or not (models / INDEX).is_file():
        raise VCMError(f"{models} lacks its {INDEX} or its {CHECKSUMS}: copy the bundle again.")
    if sha256(record) != metadata[CHECKSUM_KEY]:
        raise VCMError(
            f"{record} is not the one that the bundle's {METADATA.name} records: files of two bundles "
            "are mixed, or one was changed; copy the bundle again."
        )
    there = sorted(path for path in models.rglob("*") if not path.is_dir() or path.is_symlink())
    for path in there:
        if path.is_symlink() or path.suffix not in _ENDINGS:
            raise VCMError(
                f"{path} is no file of a saved model, which has {' and '.join(_ENDINGS)} alone, as "
                "other files can run code or lead elsewhere: remove it, or copy the bundle again."
            )
    checksums = verify_checksums(models)
    inside = {path.relative_to(models).as_posix() for path in there} - {CHECKSUMS}
    stray = sorted(inside ^ {*checksums})
    if stray:
        raise VCMError(
            f"{models} and its {CHECKSUMS} disagree about {', '.join(stray[:5])}: that file was not there "
            "when the bundle was written; remove it, or copy the bundle again."
        )
    return {**checksums, CHECKSUMS: sha256(record)}


def _refuse_other_model(bundle: Path, folder: Path, metadata: Mapping[str, Any]) -> str:
    """Others read the metadata and never open the model, so they must be true of it.

    Returns the checksum of the frozen model.
    """
    pipeline = load_pipeline(folder)
    facts = {
        "volume": (("outputs", "volume"), list(pipeline.volume_grid.shape)),
        "latents": (("inputs", "latents"), list(pipeline.latent_shape[1:])),
    }
    for name, (path, found) in facts.items():
        said: Any = metadata
        for key in ("network_data_format", *path, "spatial_shape"):
            said = said.get(key) if isinstance(said, Mapping) else None
        if said != found:
            raise VCMError(
                f"{bundle / METADATA} says that the spatial_shape of the {name} is {said}, but the model "
                f"has {found}: they do not belong together; copy the bundle again."
            )
    return pipeline.record_frozen()
