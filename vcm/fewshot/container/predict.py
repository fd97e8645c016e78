"""Answer one case from the command line of a container: read, answer, write one file.

Knows the contract in contract.json and the fitted model beside it. It loads no training library. A
case that cannot be read gets a stated fallback, because a container that gives no answer scores
worst: the answer without looking, with one line on stderr that begins with FALLBACK.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from vcm.errors import VCMError
from vcm.fewshot.methods.model import Answer, FittedModel
from vcm.imaging.volume import Volume, read_volume

#: Begins the line on stderr of an answer that did not look at the case.
FALLBACK = "vcm fallback:"


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Answer one case by the contract and model in `folder`. Returns the exit code."""
    contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    given = _parser(contract).parse_args(arguments)
    try:
        model = FittedModel.load(folder / "model")
        paths = {s: getattr(given, s) for s in contract["arguments"] if getattr(given, s)}
        # In the order of the model's slots, so that the first that is there is its reference.
        read = [s for options in model.task.inputs for s in options if s in paths]
        scans, complaints = read_scans({s: paths[s] for s in read})
        answer = _answer(model, scans, complaints, given.strict)
        write_answer(answer, given.output, contract, scans, paths)
    except VCMError as error:
        print(f"vcm: {error}", file=sys.stderr)
        return 2
    return 0


def read_scans(paths: Mapping[str, Path]) -> tuple[dict[str, Volume], list[str]]:
    """Scans that can be read by sequence, and one sentence for each that cannot."""
    scans, complaints = {}, []
    for sequence, path in paths.items():
        try:
            scans[sequence] = read_volume(path)
        except VCMError as error:
            complaints.append(str(error))
    return scans, complaints


def slots_of(
    model: FittedModel, scans: Mapping[str, Volume]
) -> tuple[dict[str, Volume], list[str]]:
    """Slot -> scan, and the slots that stay empty although the task needs them."""
    slots, missing = {}, []
    for options in model.task.inputs:
        there = [s for s in options if s in scans]
        if there:
            slots[options[0]] = scans[there[0]]
        elif options[0] not in model.task.optional:
            missing.append(" or ".join(options))
    return slots, missing


def _answer(
    model: FittedModel, scans: Mapping[str, Volume], complaints: list[str], strict: bool
) -> Answer:
    slots, missing = slots_of(model, scans)
    if missing:
        complaints = [*complaints, f"There is no {', no '.join(missing)}; it is taken as absent."]
    if complaints and strict:
        raise VCMError(complaints[0])
    for sentence in complaints:
        print(f"vcm: {sentence}", file=sys.stderr)
    reason = "No scan can be read."
    if slots:
        try:
            return model.answer(slots)
        except VCMError as error:
            if strict:
                raise
            reason = str(error)
    print(f"{FALLBACK} {reason} The answer is that of no scan.", file=sys.stderr)
    return model.prior(slots or None)


def write_answer(
    answer: Answer,
    path: Path,
    contract: Mapping[str, Any],
    scans: Mapping[str, Volume],
    paths: Mapping[str, Path],
) -> None:
    """Write the one file of a case: a number, a label map on the voxels of its scan, or a vector."""
    if contract["suffix"] == ".txt":
        value = answer.value
        if answer.probabilities is not None:
            value = float(answer.probabilities[1])
        assert value is not None
        low, high = contract.get("low"), contract.get("high")
        value = min(max(value, -np.inf if low is None else low), np.inf if high is None else high)
        # All that there are: AUROC tells apart what is nearly 0 or 1.
        digits = 6 if answer.probabilities is None else 17
        text = f"{value:.{digits}f}\n"
        _in_one_move(path, lambda part: part.write_text(text, encoding="utf-8"))
    elif contract["suffix"] == ".npy":
        embedding = answer.embedding
        _in_one_move(path, lambda part: _save_array(part, embedding))
    else:
        labels = answer.labels
        assert labels is not None
        source = _reference_image(scans, paths)
        if not scans:
            labels = np.zeros(source.shape[:3], dtype=np.uint8)
        if labels.shape != tuple(source.shape[:3]):
            raise VCMError(
                f"The label map has shape {labels.shape} and its scan {source.shape[:3]}: this is a fault "
                "of vcm, so please report it."
            )
        if not contract.get("empty", True) and not labels.any():
            # FOMO25 refuses a map of background alone: one voxel in the middle is named.
            labels[tuple(n // 2 for n in labels.shape)] = 1
            print(f"{FALLBACK} the map was empty, which this contract refuses.", file=sys.stderr)
        image = label_image(labels, source)
        _in_one_move(path, lambda part: nib.save(image, part))


def label_image(labels: np.ndarray, source: nib.Nifti1Image) -> nib.Nifti1Image:
    """A label map with the place of its scan: affine, codes and units, and a header of its own.

    The scan's header is not copied: its slope and data type belong to intensities.
    """
    image = nib.Nifti1Image(labels.astype(np.uint8), source.affine)
    header = source.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    image.set_sform(source.affine, sform or 1)
    if qform:
        image.set_qform(source.get_qform(), qform)
    image.header.set_xyzt_units(*header.get_xyzt_units())
    return image


def _reference_image(
    scans: Mapping[str, Volume], paths: Mapping[str, Path]
) -> Any:  # fmt: skip
    """The scan on whose voxels the map lies: the first that can be read, else whose header can."""
    for sequence in [*scans, *paths]:
        try:
            image: Any = nib.load(paths[sequence])
            return image
        except Exception as error:  # any damaged file: the next one is tried
            print(f"vcm: {Path(paths[sequence]).name} cannot be opened ({error}).", file=sys.stderr)
    raise VCMError("No scan can be opened, so there are no voxels for a label map to lie on.")


def _save_array(path: Path, array: np.ndarray | None) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.asarray(array, dtype=np.float32), allow_pickle=False)


def _in_one_move(path: Path, write: Any) -> None:
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    part = path.with_name(f".part-{os.getpid()}{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _parser(contract: Mapping[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Answer one case: {contract['name']}.")
    for sequence, argument in contract["arguments"].items():
        parser.add_argument(argument, dest=sequence, type=Path, help=f"{sequence} scan, NIfTI")
    parser.add_argument("--output", type=Path, required=True, help=f"{contract['suffix']} file")
    parser.add_argument("--strict", action="store_true", help="refuse what cannot be read")
    return parser
