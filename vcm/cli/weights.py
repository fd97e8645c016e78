"""`vcm weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vcm.cli.console import notes
from vcm.errors import VCMError


def list_weights() -> None:
    """Name the embedded models with their folders, and the published ones that can be imported."""
    from vcm.embedded import embedded_models, model_folder
    from vcm.weights.cards import card_names, load_card

    for name in embedded_models():
        print(f"{name}\tembedded\t{model_folder(name)}")
    for card in map(load_card, card_names()):
        if not card.embedded:
            licences = sorted({file.licence or "unknown" for file in card.files.values()})
            print(f"{card.name}\tpublished\t{card.title}; licence {', '.join(licences)}")


def show_weights(
    name: Annotated[str, "Name of a model, as vcm weights list has it."],
) -> None:
    """Print the card of a model: files, licences, grid, inputs, latent scale, sources."""
    from vcm.weights.cards import describe, load_card

    for key, value in describe(load_card(name)).items():
        print(f"{key:>12}  {value}")


def fetch_weights(
    name: Annotated[str, "Name of a published model."],
    *,
    out: Annotated[Path | None, "Folder for the files; by default the hub's own cache."] = None,
    accept_license: Annotated[bool, "I have read the licences and accept them."] = False,
) -> None:
    """Show the licences of a published model's files, then fetch the files."""
    from vcm.weights.fetching import LicenceNotAccepted, fetch

    try:
        fetched = fetch(name, out, accept_license, _note)
    except LicenceNotAccepted as error:
        raise VCMError(f"{error} That is said with --accept-license.") from error
    options = {"autoencoder": "--autoencoder", "denoiser": "--unet", "module": "--module"}
    given = " ".join(f"{options[part]} {path}" for part, path in fetched.items())
    _note(f"Next: vcm weights import {name} {given} --out {name}")
    for part, path in fetched.items():
        print(f"{part}\t{path}")


def import_model(
    name: Annotated[str, "Name of a published model."],
    *,
    autoencoder: Annotated[Path, "Its autoencoder: .pt, .pth or .safetensors."],
    unet: Annotated[Path, "Its diffusion U-Net."],
    out: Annotated[Path, "Folder for the model; must not exist yet."],
    module: Annotated[Path | None, "Its conditioning module, if any."] = None,
) -> None:
    """Load published files strictly and write them as a folder for --model."""
    from vcm.weights.importing import import_weights

    for line in import_weights(name, autoencoder, unet, module, out).lines():
        _note(line)
    print(out)


def verify_weights(
    folder: Annotated[str, "Folder of a model, or the name of an embedded one."],
) -> None:
    """Check every tensor of a model against its networks, and the frozen model against its record."""
    from vcm.weights.verifying import verify

    for row in verify(folder):
        print(f"{row.what:>12}  {row.found}")


def pack_weights(
    model: Annotated[str, "Name of an embedded model, or a folder."],
    *,
    out: Annotated[Path, "Folder for the copy."],
) -> None:
    """Copy a model in half precision, as the embedded ones are stored."""
    from vcm.weights.packing import pack

    print(f"{pack(model, out) / 1e6:.1f} MB in {out}")


def export_weights(
    model: Annotated[str, "Name of an embedded model, or a folder."],
    *,
    out: Annotated[Path, "New folder."],
    format: Annotated[str, "monai-bundle or diffusers."] = "monai-bundle",
) -> None:
    """Write a model as a MONAI bundle, or as the folder that diffusers knows."""
    from vcm.weights.exporting import export

    print(export(model, out, format))


def _note(line: str) -> None:
    notes().print(line, highlight=False, soft_wrap=True)
