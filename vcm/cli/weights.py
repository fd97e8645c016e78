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
    name: Annotated[str, "Name of a published model, or the folder of a MONAI bundle of vcm."],
    *,
    out: Annotated[Path, "Folder for the model; must not exist yet."],
    autoencoder: Annotated[
        Path | None, "Autoencoder of a published model: .pt, .pth or .safetensors."
    ] = None,
    unet: Annotated[Path | None, "Its diffusion U-Net."] = None,
    module: Annotated[Path | None, "Its conditioning module, if any."] = None,
) -> None:
    """Load published files or a MONAI bundle strictly and write them as a folder for --model."""
    files = {"autoencoder": autoencoder, "unet": unet, "module": module}
    if Path(name).is_dir():
        from vcm.weights.bundle import import_bundle

        given = [f"--{option}" for option, path in files.items() if path]
        if given:
            raise VCMError(
                f"{name} is a folder, and {given[0]} is given: a bundle holds all its networks, so leave "
                "the option out; or give the name of a published model."
            )
        for row in import_bundle(Path(name), out):
            _note(f"{row.what}: {row.found}")
    else:
        from vcm.weights.importing import import_weights

        if autoencoder is None or unet is None:
            missing = "autoencoder" if autoencoder is None else "unet"
            raise VCMError(
                f"--{missing} is not given: a published model needs --autoencoder and --unet, and "
                f"'{name}' is no folder that could be a MONAI bundle."
            )
        for line in import_weights(name, autoencoder, unet, module, out).lines():
            _note(line)
    print(out)


def verify_weights(
    folder: Annotated[str, "Folder of a model, or the name of an embedded one."],
) -> None:
    """Check every tensor of a model against its networks, and the frozen model against its record."""
    from vcm.weights.verifying import verify

    for row in verify(folder):
        print(f"{row.what:>16}  {row.found}")


def pack_weights(
    model: Annotated[str, "Name of an embedded model, or a folder."],
    *,
    out: Annotated[Path, "Folder for the copy."],
    bits: Annotated[int, "Per weight: 16, half precision, or 8."] = 16,
) -> None:
    """Copy a model in half precision or in 8 bits, as the embedded ones are stored."""
    from vcm.weights.packing import pack

    print(f"{pack(model, out, bits) / 1e6:.1f} MB in {out}")


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
    notes().print(line)
