"""Import: published files become a folder that `load_pipeline` reads, or are refused by name.

Read each file without running it, rename its tensors, load them strictly into networks that own no
memory yet, put the pipeline together as the card says, write it beside its place, and move it there
when it is whole. What was read, renamed and left out is in `import.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import init_empty_weights
from torch import Tensor, nn

from vcm.diffusion.sampling import flow_shift, make_scheduler
from vcm.errors import VCMError
from vcm.files import check_output, is_occupied, versions, whole, write_json
from vcm.imaging.geometry import centred_grid, model_grid
from vcm.imaging.volume import Grid
from vcm.pipeline import VCMPipeline
from vcm.weights.cards import Card, CardFile, CardGrid, load_card
from vcm.weights.checkpoint import Checkpoint, read_checkpoint, refuse_bad_values
from vcm.weights.names import (
    RULES,
    load_strictly,
    refuse_empty,
    rename_autoencoder,
    rename_published,
    rename_unet,
    rules_applied,
)
from vcm.weights.verifying import RECORD

#: Families whose files bear names of monai-generative; the others have those of MONAI core.
_RENAMED = ("brainldm",)
_RENAME: dict[str, Callable[..., dict[str, Tensor]]] = {
    "autoencoder": rename_autoencoder,
    "denoiser": rename_unet,
    "module": rename_published,
}


@dataclass(frozen=True)
class PartCoverage:
    """What became of one file.

    source, size, sha256    name, bytes and checksum of the file
    as_published            its MD5 is the one on the card; None where the card knows none
    wrapper, beside         key that the tensors lay under, and what else lay there, not read
    tensors, numbers        how many were loaded: all of the file and all of the network
    rules                   how many names each renaming rule changed, by its pattern
    """

    source: str
    size: int
    sha256: str
    as_published: bool | None
    wrapper: str | None
    beside: list[str]
    tensors: int
    numbers: int
    rules: dict[str, int]


@dataclass(frozen=True)
class CoverageReport:
    """An import that succeeded: every tensor of every part came from a file."""

    card: str
    latent_scale: float
    frozen_checksum: str
    grid_centre: str
    parts: dict[str, PartCoverage] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line per part, for people."""
        told = []
        for name, part in self.parts.items():
            renamed = f", {sum(part.rules.values())} renamings" if part.rules else ""
            known = {True: ", as published", False: ", not the file on the card", None: ""}
            told.append(
                f"{name}: {part.tensors} of {part.tensors} tensors ({part.numbers:,} numbers) from "
                f"{part.source}{renamed}{known[part.as_published]}"
            )
        return [
            *told,
            f"latent scale {self.latent_scale:.15g}, frozen model {self.frozen_checksum[:12]}",
        ]


@dataclass(frozen=True)
class _Read:
    """A part as read: its checkpoint under today's names, and what is told of its file."""

    checkpoint: Checkpoint
    tensors: dict[str, Tensor]
    coverage: PartCoverage


def import_weights(
    card: str | Card,
    autoencoder: Path,
    unet: Path,
    module: Path | None,
    out: Path,
) -> CoverageReport:
    """Write the model of `card` (a name, or a card of one's own) to the folder `out`.

    Raises VCMError, and leaves nothing behind, for: an `out` with something in it, a model that is
    embedded, a module on a card that has none, a file that is no checkpoint or does not fit, values
    that are not finite, and a latent scale that is missing or not the card's.
    """
    card = load_card(card) if isinstance(card, str) else card
    _refuse(card, module, out)
    given = {"autoencoder": autoencoder, "denoiser": unet, "module": module}
    check_output(
        out, sum(path.stat().st_size for path in given.values() if path and path.is_file())
    )
    parts = {name: _read(card, name, path) for name, path in given.items() if path is not None}
    scale = _resolve_scale(card, parts)
    networks = {name: _build(card, name, part, scale) for name, part in parts.items()}
    pipeline, centre = _assemble(card, networks)
    checksum = pipeline.record_frozen()
    coverage = {name: part.coverage for name, part in parts.items()}
    report = CoverageReport(card.name, scale, checksum, centre, coverage)
    with whole(out) as folder:
        pipeline.save_pretrained(folder)
        write_json(folder / RECORD, asdict(report) | {"versions": versions()})
    return report


def _refuse(card: Card, module: Path | None, out: Path) -> None:
    if card.embedded or not card.networks:
        raise VCMError(
            f"{card.name} travels with the package: use it by name, there is nothing to import."
        )
    if is_occupied(out):
        raise VCMError(f"{out} exists and is not empty: give a folder that does not exist yet.")
    if module is not None and "module" not in card.networks:
        scale = (
            f"latent scale {card.latent_scale:.15g}" if card.latent_scale else "a scale of its own"
        )
        raise VCMError(
            f"The card {card.name} ({scale}) has no module, and {module.name} was trained on the latents "
            "of another: the published VCM belongs to the card brainldm-vcm."
        )


def _read(card: Card, part: str, path: Path) -> _Read:
    checkpoint = read_checkpoint(path)
    refuse_bad_values(checkpoint.tensors, path.name)
    tensors, rules = checkpoint.tensors, {}
    if card.family in _RENAMED:
        rules = rules_applied(tensors, RULES[part])
        tensors = _RENAME[part](tensors)
    sha256, md5 = _sums(path)
    known = card.files.get(part, CardFile()).md5
    coverage = PartCoverage(
        path.name,
        path.stat().st_size,
        sha256,
        None if known is None else md5 == known,
        checkpoint.wrapper,
        checkpoint.beside,
        len(tensors),
        sum(value.numel() for value in tensors.values()),
        rules,
    )
    return _Read(checkpoint, tensors, coverage)


def _resolve_scale(card: Card, parts: dict[str, _Read]) -> float:
    """The card's latent scale, or that in the denoiser's file; never two that differ."""
    held = {name: read.checkpoint.scale_factor for name, read in parts.items()}
    scale = card.latent_scale if card.latent_scale is not None else held["denoiser"]
    if scale is None:
        raise VCMError(
            f"{parts['denoiser'].coverage.source} holds no scale_factor, but the latent scale of "
            f"{card.name} lies with its denoiser: give the file as published, not its tensors alone."
        )
    for name, value in held.items():
        if value is not None and abs(value - scale) > 1e-6 * scale:
            raise VCMError(
                f"{parts[name].coverage.source} was made for latents of scale {value:.15g}, but "
                f"{card.name} has {scale:.15g}: take the card that it belongs to."
            )
    return scale


def _build(card: Card, part: str, read: _Read, scale: float) -> nn.Module:
    """A network without memory of its own, which takes over the tensors of the file."""
    options = dict(card.networks[part])
    if part == "autoencoder":
        options["scale"] = scale
    if part == "denoiser" and card.family == "maisi":
        options["shift"] = flow_shift(card.networks["autoencoder"]["latent_shape"])
    # Buffers are few and small; those that no file holds (the noise schedule) need their values.
    with init_empty_weights(include_buffers=False):
        network: nn.Module = _class_of(card, part)(**options)
    inside = network if part == "module" else network.get_submodule("net")
    load_strictly(inside, read.tensors, f"{read.coverage.source}, given as {part},")
    refuse_empty(network)
    return network.eval()


def _class_of(card: Card, part: str) -> Any:
    if part == "module":
        from vcm.nets.vcm import VolumetricConditioningModule

        return VolumetricConditioningModule
    if card.family == "maisi":
        from vcm.nets.maisi import MaisiAutoencoder, MaisiDenoiser

        return MaisiAutoencoder if part == "autoencoder" else MaisiDenoiser
    from vcm.nets.denoiser import LatentDenoiser
    from vcm.nets.published_autoencoder import PublishedAutoencoder

    return PublishedAutoencoder if part == "autoencoder" else LatentDenoiser


def _assemble(card: Card, networks: dict[str, nn.Module]) -> tuple[VCMPipeline, str]:
    """The pipeline, and whether the centre of its grid is the card's or assumed."""
    options = {name: value for name, value in card.scheduler.items() if name != "name"}
    if card.family == "maisi":
        options["shift"] = flow_shift(card.networks["autoencoder"]["latent_shape"])
    grid = to_grid(card.grid)
    pipeline = VCMPipeline(
        networks["autoencoder"],  # type: ignore[arg-type]
        networks["denoiser"],  # type: ignore[arg-type]
        make_scheduler(card.scheduler["name"], **options),
        networks.get("module"),  # type: ignore[arg-type]
        conditions=card.conditions if "module" in networks else None,
        inputs=card.inputs,
        covariate_ranges={name: pair for name, pair in card.ranges.items() if pair},
        population=(
            {"contrasts": card.contrasts, "contrast": card.contrast} if card.contrasts else None
        ),
        grid={"shape": list(grid.shape), "affine": grid.affine.tolist()},
        sampling=card.sampling or {"scheduler": "saved", "steps": card.steps or 50},
    )
    return pipeline, "published" if card.grid.centre else "assumed"


def to_grid(grid: CardGrid) -> Grid:
    """Voxels of a card's volumes, voxel -> RAS+ [mm].

    Where no centre was published, the grid lies around the MNI152 brain, as that of brain2mm does.
    """
    x, y, z = grid.centre or model_grid().centre
    i, j, k = grid.shape
    unit = centred_grid((i, j, k), 1.0, (0.0, 0.0, 0.0), grid.axes)
    affine = unit.affine @ np.diag([*grid.spacing, 1.0])
    middle = (np.asarray(grid.shape) - 1) / 2
    affine[:3, 3] = np.asarray([x, y, z]) - affine[:3, :3] @ middle
    return Grid((i, j, k), affine)


def _sums(path: Path) -> tuple[str, str]:
    """(SHA-256, MD5) of a file, read once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        for block in _blocks(stream):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()


def _blocks(stream: Any, size: int = 1 << 22) -> Iterable[bytes]:
    return iter(lambda: stream.read(size), b"")
