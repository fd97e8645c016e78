"""What travels with the package: weights and configurations, in a wheel or in a clone.

Knows folders and names alone; what lies in a folder is for others to read.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from vcm.errors import VCMError

_PACKAGE = Path(__file__).parent
EXAMPLE = Path("brain2mm", "example_dseg.nii.gz")
#: The file that makes a folder a model, and the one that makes it a single network.
INDEX, NETWORK = "model_index.json", "config.json"
#: The segmenters of scans in T1w, and of scans in any contrast.
FOR_T1W, FOR_ANY = "segmenter2mm", "anysegmenter2mm"
#: What a label map of several sequences begins with.
FOR_SEQUENCES = "sequences2mm"
#: The encoder that was pretrained without labels.
FOR_MAE = "encoder2mm"


def search_paths(kind: str) -> tuple[Path, Path]:
    """Folders of that kind, "weights" or "configs": installed from a wheel, or used from a clone."""
    return _PACKAGE / "_embedded" / kind, _PACKAGE.parent / kind


def embedded_models() -> list[str]:
    """Names of the models that travel with the package."""
    found = {p.parent.name for path in search_paths("weights") for p in path.glob(f"*/{INDEX}")}
    return sorted(found)


def embedded_folder(name: str) -> Path | None:
    """Folder of embedded weights of that name, if there is one."""
    return next((p / name for p in search_paths("weights") if (p / name).is_dir()), None)


def network_folder(name: str | Path) -> Path:
    """Folder of one network's weights: the folder of that name itself, or else the embedded one.

    Returns:
        A folder with a config.json; where there is none, the name as it was given.
    """
    for folder in (Path(name), embedded_folder(str(name))):
        if folder is not None and (folder / NETWORK).is_file():
            return folder
    return Path(name)


def find_model(model: str | Path) -> Path | None:
    """Folder of a model given by name or by path, if there is one."""
    for folder in (Path(model), embedded_folder(str(model))):
        if folder is not None and (folder / INDEX).is_file():
            return folder
    return None


def model_folder(model: str | Path) -> Path:
    """Folder of a model given by name or by path. Raises VCMError if there is none."""
    folder = find_model(model)
    if folder is None:
        raise unknown_model(model)
    return folder


def unknown_model(model: str | Path, reason: str = "") -> VCMError:
    """The refusal of a model that was not found; with the nearest name, if one is near."""
    names = embedded_models()
    near = get_close_matches(str(model), names, 1)
    hint = f"did you mean '{near[0]}'?" if near else "give one of these names, or a folder that"
    remedy = (
        hint if near else f"{hint} vcm pretrain diffusion, vcm train or vcm weights import wrote."
    )
    return VCMError(
        f"The model '{model}' is neither embedded ({', '.join(names) or 'none'}) nor a folder with a "
        f"{INDEX}{reason}: {remedy}"
    )


def example_condition() -> Path:
    """The label map that travels with the package: a real brain in eight classes."""
    folder = embedded_folder(EXAMPLE.parent.name)
    if folder is None or not (folder / EXAMPLE.name).is_file():
        raise VCMError(f"The example {EXAMPLE} does not travel with this copy: give a label map.")
    return folder / EXAMPLE.name
