"""A model for others: a MONAI bundle, or the folder that diffusers knows, each with a script that runs it.

Knows what lies where in both; the networks are written as the pipeline writes them.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vcm import __version__
from vcm.checksums import CHECKSUMS, record_checksums
from vcm.errors import VCMError
from vcm.files import sha256, write_whole
from vcm.pipeline import VCMPipeline
from vcm.weights.bundle import CHECKSUM_KEY, METADATA, MODELS
from vcm.weights.load import load_pipeline

#: What `export` writes, by name.
FORMATS = ("monai-bundle", "diffusers")
_WARNING = "Made by a generative model; not scans of persons and not for diagnosis."


def export(model: str | Path, out: Path, form: str) -> Path:
    """Write a model for programs that do not know `vcm`'s names.

    Args:
        model: Name of an embedded model, or a folder.
        out: A new folder.
        form: `monai-bundle`, run by `python -m monai.bundle run`, or `diffusers`, loaded by
            `from_pretrained`. Both need the package vcm for the networks' classes.

    Returns:
        The folder.

    Raises:
        VCMError: There is no such format or model, or something lies in `out`.
    """
    if form not in FORMATS:
        raise VCMError(f"format is {form}: choose {' or '.join(FORMATS)}.", argument="format")
    if out.exists():
        raise VCMError(f"{out} exists: give a new folder.", argument="out")
    pipeline = load_pipeline(model)
    name = Path(model).name
    writer = _write_bundle if form == "monai-bundle" else _write_diffusers
    write_whole(out, lambda part: writer(pipeline, name, part))
    return out


def _write_diffusers(pipeline: VCMPipeline, name: str, folder: Path) -> None:
    _save(pipeline, folder)
    if _reads_label_maps(pipeline):
        (folder / "run.py").write_text(_SCRIPT, encoding="utf-8")
    _write_readme(folder, name, "python run.py LABEL_MAP FOLDER", pipeline)


def _write_bundle(pipeline: VCMPipeline, name: str, folder: Path) -> None:
    _save(pipeline, folder / MODELS)
    checksum = {CHECKSUM_KEY: sha256(folder / MODELS / CHECKSUMS)}
    (folder / METADATA).parent.mkdir()
    for path, content in (
        (folder / METADATA, _metadata(pipeline, name) | checksum),
        (folder / METADATA.with_name("inference.json"), _inference(pipeline)),
    ):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    command = (
        "pip install fire  # what monai.bundle reads its command line with\n    "
        "python -m monai.bundle run --config_file configs/inference.json --bundle_root . "
        "--condition LABEL_MAP --output_dir FOLDER"
    )
    (folder / "docs").mkdir()
    _write_readme(folder / "docs", name, command, pipeline)


def _save(pipeline: VCMPipeline, folder: Path) -> None:
    pipeline.record_frozen()
    pipeline.save_pretrained(folder)
    for path in folder.rglob("*.json"):
        table = json.loads(path.read_text(encoding="utf-8"))
        # Where a copy came from is no business of those who get it.
        if isinstance(table, dict) and table.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    record_checksums(folder)


def _inference(pipeline: VCMPipeline) -> dict[str, Any]:
    """What `monai.bundle run` reads; every key may be given on its command line."""
    return {
        "imports": ["$import vcm", "$from vcm.device import choose_device"],
        "bundle_root": ".",
        "condition": "sub-01_dseg.nii.gz",
        "output_dir": "$@bundle_root + '/eval'",
        "labels": "auto",
        "seed": 0,
        "steps": pipeline.recommended_steps,
        "age": None,
        "sex": None,
        "device": "$choose_device('auto')",
        "pipeline": f"$vcm.VCMPipeline.from_pretrained(@bundle_root + '/{MODELS}').to(@device)",
        "sample": (
            "$@pipeline(@condition, labels=@labels, seed=@seed, num_inference_steps=@steps, "
            "age=@age, sex=@sex)"
        ),
        "run": ["$@sample.save(@output_dir)"],
    }


def _metadata(pipeline: VCMPipeline, name: str) -> dict[str, Any]:
    """The keys of MONAI's schema."""
    shape, grid = list(pipeline.latent_shape), pipeline.volume_grid
    conditions = list(pipeline.config.conditions)
    latents = {
        "type": "tuples", "format": "latent", "num_channels": shape[0], "spatial_shape": shape[1:],
        "dtype": "float32", "value_range": [], "is_patch_data": False,
    }  # fmt: skip
    volume = {
        "type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1,
        "spatial_shape": list(grid.shape), "dtype": "float32", "value_range": [0, 1],
        "is_patch_data": False, "channel_def": {"0": "T1-weighted brain"},
    }  # fmt: skip
    return {
        "version": __version__,
        "changelog": {__version__: "exported by vcm"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "vcm": __version__, "diffusers": version("diffusers"), "nibabel": version("nibabel"),
            "fire": "0.7.1",
        },
        "name": name,
        "task": "Generation of T1-weighted brains"
        + (" that obey a condition" if conditions else ""),
        "description": f"A frozen latent diffusion model steered by {', '.join(conditions) or 'nothing'}.",
        "authors": "the authors of vcm",
        "copyright": "see the model's card",
        "data_type": "nibabel",
        "intended_use": f"Research. {_WARNING}",
        "image_classes": "label map of the brain" if _reads_label_maps(pipeline) else "none",
        "network_data_format": {"inputs": {"latents": latents}, "outputs": {"volume": volume}},
    }  # fmt: skip


def _reads_label_maps(pipeline: VCMPipeline) -> bool:
    """Whether it is steered by a label map, as the script and the bundle's configuration give it one."""
    return bool({"classes", "ventricles"} & {*pipeline.config.conditions})


def _write_readme(folder: Path, name: str, command: str, pipeline: VCMPipeline) -> None:
    """What the model is, and how it is run where a label map steers it."""
    text = f"# {name}\n\nA model of vcm {__version__}. {_WARNING}\n\n    pip install vcm=={__version__}\n"
    if _reads_label_maps(pipeline):
        text += f"    {command}\n\nwrites T1-weighted brains that obey LABEL_MAP into FOLDER, on the map's voxels.\n"
    else:
        reads = ", ".join(pipeline.config.conditions) or "nothing"
        text += (
            f"\nIt is steered by {reads}, not by a label map: `VCMPipeline.from_pretrained(FOLDER)` of the package "
            "vcm loads it, and the commands of vcm take FOLDER as --model. FOLDER holds model_index.json.\n"
        )
    (folder / "README.md").write_text(text, encoding="utf-8")


_SCRIPT = '''"""Make a T1-weighted brain that obeys a label map: python run.py LABEL_MAP FOLDER [LABELS]."""

import sys
from pathlib import Path

from vcm import VCMPipeline

label_map, folder, *labels = sys.argv[1:]  # LABELS: the vocabulary, for maps of few labels
pipeline = VCMPipeline.from_pretrained(Path(__file__).parent)
pipeline(label_map, labels=(labels or ["auto"])[0], seed=0).save(folder)
'''
