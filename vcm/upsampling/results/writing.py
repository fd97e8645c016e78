"""The files of an upsampling: volumes, sidecar, picture. Knows names and what is recorded of a result."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vcm.files import earlier_files, synthetic_mark, write_set
from vcm.imaging.bids import stem
from vcm.imaging.contrast import contrast_of_name
from vcm.imaging.volume import Volume, write_volume
from vcm.report.picture import compared
from vcm.upsampling.results.translate import TranslatedBrain
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.scans.placed_guide import Guide

MARK = "upsampled by a generative model, vcm"
MARK_TRANSLATED = "synthetic, made of another contrast, vcm upsample"


def file_names(
    source: str, samples: int, seed: int, output: str, to: str | None = None
) -> dict[str, str]:
    """Names of the files by what they are; the volumes first, of these the result first.

    Every name has the contrast that the scan's name says, so that scans of two contrasts of one head share no file.

    Args:
        source: Name of the first scan's file.
        samples: How many are drawn.
        seed: Of the first.
        output: mean or sample.
        to: Contrast that it is translated to; None: none.
    """
    start, end = _split(source)
    contrast = end.removeprefix("_")
    volume = f"{start}_desc-upsampled{end}"
    names = {
        "result": f"{volume}.nii.gz",
        "generated": f"{start}_desc-generated{contrast}_mask.nii.gz",
        "uncertainty": f"{start}_desc-upsampledstd{end}.nii.gz",
    }
    for n in range(samples):
        names[f"sample {n}"] = f"{start}_desc-upsampled_seed-{seed + n}{end}.nii.gz"
    if output == "sample":
        names["mean"] = f"{start}_desc-upsampledmean{end}.nii.gz"
    if to is not None:
        made = f"{start}_desc-synthetic{contrast}"
        names["translated"] = f"{made}_{to}.nii.gz"
        names["translated std"] = f"{made}std_{to}.nii.gz"
        names["translated sidecar"] = f"{made}_{to}.json"
    names["brain mask"] = f"{start}_desc-brain{contrast}_mask.nii.gz"
    names["picture"] = f"{start}_desc-upsampled{contrast}_comparison.png"
    return names | {"sidecar": f"{volume}.json"}


def write_result(
    result: Upsampled,
    out: Path,
    names: Mapping[str, str],
    record: Mapping[str, Any],
    translated: TranslatedBrain | None = None,
    inputs: Collection[Path] = (),
) -> list[Path]:
    """Every file of one upsampling, whole, and the sidecar that tells what they are.

    What an earlier run with other settings left goes, where it still is what that run wrote.

    Args:
        result: In the space of the first scan.
        out: Folder.
        names: As `file_names` gives them.
        record: What goes into the sidecar.
        translated: The same brain in another contrast, if there is one.
        inputs: Files that were read; they stay.

    Returns:
        Paths; the first is the result.
    """
    volumes = {
        "result": result.sample(0) if "mean" in names else result.volume,
        "generated": result.generated,
        "uncertainty": result.uncertainty,
        "mean": result.volume,
        "brain mask": result.brain_mask,
    } | {f"sample {n}": result.sample(n) for n in range(len(result.samples))}
    writers: dict[Path, Callable[[Path], object]] = {}
    for what, name in names.items():
        volume = volumes.get(what)
        if volume is not None:
            writers[out / name] = _writer(volume)
    if translated is not None:
        of_it = {"translated": translated.image, "translated std": translated.std}
        writers |= {out / names[w]: _writer(v, MARK_TRANSLATED) for w, v in of_it.items()}
        told = json.dumps(_describe_translated(names, record), indent=2, ensure_ascii=False)
        writers[out / names["translated sidecar"]] = lambda part: part.write_text(
            told + "\n", encoding="utf-8"
        )
    writers[out / names["picture"]] = lambda part: _draw(result, part, translated)
    sidecar = out / names["sidecar"]
    write_set(sidecar, dict(record), writers, earlier_files(sidecar, inputs))
    return [*writers, sidecar]


def _writer(volume: Volume, mark: str = MARK) -> Callable[[Path], object]:
    return lambda part: write_volume(volume, part, mark)


def _describe_translated(names: Mapping[str, str], record: Mapping[str, Any]) -> dict[str, Any]:
    """What the sidecar of a translated brain says; how the scan was read is in the other one."""
    kept = ("Command", "Sources", "SourcesSHA256", "Contrast", "TranslatorSHA256", "Versions")
    return {
        **synthetic_mark(),
        "Description": "T1w brain that is expected under a scan of another contrast; 0 and 1 are percentiles "
        "of a brain. It is no measurement: what the scan does not show is guessed.",
        "Uncertainty": {
            "File": names["translated std"],
            "Description": "Standard deviation of its error, as the network states it.",
        },
        "MadeOf": names["result"],
        **{key: record[key] for key in kept if key in record},
    }


def _split(name: str) -> tuple[str, str]:
    """sub-1_T1w.nii.gz -> (sub-1, _T1w); brain.nii.gz, which says no contrast, -> (brain, nothing)."""
    name = stem(Path(name))
    start, found, suffix = name.rpartition("_")
    by_bids = suffix.isalnum() and "-" in start
    known = contrast_of_name(name) is not None
    return (start, f"_{suffix}") if found and (by_bids or known) else (name, "")


def _draw(result: Upsampled, path: Path, translated: TranslatedBrain | None) -> None:
    scan = result.scan
    columns = {
        "thick slices": scan.as_it_came(order=0),
        "cubic interpolation": result.cubic,
        "upsampled": result.mean,
    }
    if len(result.samples):
        columns["one sample"] = result.samples[0]
    if translated is not None:
        columns["expected T1w, synthetic"] = translated.image.data
    if result.std is not None:
        stated = result.std[result.generated_share > 0.5]
        white = max(float(np.percentile(stated, 99)) if stated.size else 0.0, 1e-6)
        columns[f"uncertainty (white: {white:.2f} of the range)"] = result.std / white
    brain = result.generated_share > 0.5
    compared(list(columns.values()), list(columns), scan.fine.affine, path, outline=brain)


def _describe_guide(guide: Guide | None) -> dict[str, Any]:
    if guide is None:
        return {"Guide": None}
    return {
        "Guide": Path(guide.source).name,
        "GuideToScan": guide.to_scan.tolist(),
        "GuideOverlap": round(guide.overlap, 4),
        "GuideAgreement": round(guide.likeness.agreement, 4),
        "GuideMirroredAgreement": round(guide.likeness.mirrored, 4),
    }


def describe_result(result: Upsampled, names: Mapping[str, str]) -> dict[str, Any]:
    """What a sidecar says of the computation, of files with these names."""
    scan = result.scan
    # Where the result is a sample, it has no error of its own.
    expected = names.get("mean", names["result"])
    return {
        "Synthetic": "in part",
        "Warning": "Detail between the slices is made by a generative model: not for diagnosis.",
        "Acquisition": str(scan.acquisition),
        "SliceProfiles": [one.describe_profile() for one in (scan, *result.others)],
        "LostSlices": list(scan.lost),
        "RimVoxelsFilled": 0 if scan.rim is None else int(np.isfinite(scan.rim).sum()),
        **scan.contrast.describe(),
        "ModelTookPart": result.model_took_part,
        "FrozenModelTookPart": scan.contrast.is_t1w,
        **(scan.found.describe() if scan.found else {}),
        **_describe_guide(result.guide),
        "Inputs": {name: asdict(given) for name, given in result.inputs.items()},
        "Spacing": list(scan.fine.spacing),
        "Uncertainty": result.uncertainty_kind,
        "UncertaintyOf": None if result.std is None else expected,
        "ResidualRMS": result.residual,
        "ResidualOf": expected,
        "ResidualUnit": "of the range from the 0.5th to the 99.5th percentile of the brain",
        "IntensityRange": list(scan.units),
        "ToCommonSpace": scan.to_common.tolist(),
    }
