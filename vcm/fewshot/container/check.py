"""Check a package before it is submitted: what the organisers check, and what they let through.

Each check ends in a sentence with the value, the rule and the remedy. Stricter than the organisers'
validator: the time limit is that of the challenge, a map lies on the voxels of its scan, a second
run gives the same bytes, no valid case is answered without looking, nothing else is written.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from vcm.errors import VCMError
from vcm.fewshot.container.check_cases import CheckCase, make_cases
from vcm.fewshot.container.contracts import TIME_LIMIT, Contract
from vcm.fewshot.container.predict import FALLBACK
from vcm.fewshot.container.sandbox import Finished, run


@dataclass(frozen=True)
class Complaint:
    """What is wrong with a package, on which case."""

    case: str
    sentence: str


@dataclass
class Report:
    """What was checked, with which runtime, how long each case took, and what is wrong."""

    contract: str
    runtime: str
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether cases were run and nothing is wrong."""
        return not self.complaints and bool(self.seconds)


def check_package(
    image: Path,
    contract: Contract,
    runtime: str,
    quick: bool = False,
    time_limit: float = TIME_LIMIT,
) -> Report:
    """Answer generated cases with a package, and complain of what the contract forbids.

    Args:
        image: a folder that `package` wrote, or a .sif of it.
        contract: what it must answer.
        runtime: as `choose_runtime` chose it.
        quick: small cases only.
        time_limit: seconds of wall time for one case.

    Raises:
        VCMError: there is no app/predict.py.
    """
    if image.suffix != ".sif" and not (image / "app" / "predict.py").is_file():
        raise VCMError(
            f"{image} holds no app/predict.py: give the folder that vcm fewshot package wrote."
        )
    report = Report(contract.name, runtime)
    lengths: set[int] = set()
    with tempfile.TemporaryDirectory(prefix="vcm-check-") as folder:
        for number, case in enumerate(make_cases(contract, Path(folder) / "in", quick)):
            outputs = Path(folder) / "out" / str(number)
            first = _answered(image, contract, case, runtime, outputs, time_limit)
            report.seconds[case.name] = first.seconds
            report.cpu_seconds[case.name] = first.cpu_seconds
            found = list(_complaints_of(first, case, contract, outputs, time_limit))
            path = outputs / f"case{contract.suffix}"
            if not found and contract.suffix == ".npy":
                lengths.add(len(np.load(path, allow_pickle=False)))
            if not found and number == 0:
                again = outputs.with_name("again")
                _answered(image, contract, case, runtime, again, time_limit)
                found += _differences(path, again / path.name)
            report.complaints += [Complaint(case.name, sentence) for sentence in found]
    if len(lengths) > 1:
        report.complaints.append(
            Complaint(
                "all",
                f"Embeddings have {', '.join(map(str, sorted(lengths)))} numbers: every scan must give "
                "the same length, so pool over space.",
            )
        )
    return report


def _answered(
    image: Path, contract: Contract, case: CheckCase, runtime: str, outputs: Path, limit: float
) -> Finished:
    outputs.mkdir(parents=True)
    arguments = []
    for sequence, file in case.files.items():
        arguments += [contract.arguments[sequence], f"/input/{file.name}"]
    arguments += ["--output", f"/output/case{contract.suffix}"]
    folder = next(iter(case.files.values())).parent
    return run(runtime, image, arguments, folder, outputs, limit)


def _complaints_of(
    done: Finished, case: CheckCase, contract: Contract, outputs: Path, limit: float
) -> Iterator[str]:
    if done.code is None:
        yield (
            f"The case took more than {limit:g} s, the limit of the challenge: do less work per case, or "
            "load less at the start."
        )
        return
    if done.code != 0:
        last = done.output.strip().splitlines()[-1:] or ["no message"]
        yield f"predict.py ended with exit code {done.code} ({last[0]}): it must answer and end with 0."
        return
    path = outputs / f"case{contract.suffix}"
    others = sorted(p.name for p in outputs.rglob("*") if p != path)
    if others:
        yield f"{others[0]} was written beside the answer: write the file named by --output alone."
    if not path.is_file() or path.stat().st_size == 0:
        there = "is empty" if path.is_file() else "was not written"
        yield f"/output/{path.name} {there}: write the answer to exactly the path given."
        return
    if FALLBACK in done.output and not case.fallback_allowed:
        line = next(x for x in done.output.splitlines() if FALLBACK in x)
        yield f"A valid case was answered without looking ({line.strip()}): it must be read."
    read = {".txt": _number, ".npy": _vector, ".nii.gz": _map}[contract.suffix]
    yield from read(path, case, contract)


def _number(path: Path, _: CheckCase, contract: Contract) -> Iterator[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        yield "The text is not UTF-8: write the number as plain text."
        return
    tokens = text.split()
    if len(tokens) != 1:
        yield f"The text holds {len(tokens)} words ({text.strip()[:40]!r}): write one number alone."
        return
    try:
        value = float(tokens[0])
    except ValueError:
        yield f"The text is {tokens[0][:40]!r}, which is no number: write one, for instance 0.25."
        return
    if not math.isfinite(value):
        yield f"The number is {value}: it must be finite."
    elif not _within(value, contract):
        yield (
            f"The number is {value:g}: a probability lies between {contract.low:g} and "
            f"{contract.high:g}, so apply a sigmoid."
        )


def _within(value: float, contract: Contract) -> bool:
    if contract.low is None or contract.high is None:
        return True
    return contract.low <= value <= contract.high


def _vector(path: Path, _: CheckCase, contract: Contract) -> Iterator[str]:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        yield f"The file is no array that can be read without pickle ({error}): use numpy.save."
        return
    if not np.issubdtype(found.dtype, np.floating):
        yield f"The embedding is of type {found.dtype}: write floating point numbers."
    elif found.ndim != 1 or not found.size:
        yield f"The embedding has shape {found.shape}: it must be one vector."
    elif not np.isfinite(found).all():
        yield f"The embedding holds {int((~np.isfinite(found)).sum())} values that are not finite."


def _map(path: Path, case: CheckCase, contract: Contract) -> Iterator[str]:
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel raises many kinds for a damaged file
        yield f"The file is no NIfTI that can be read ({error}): write it with nibabel."
        return
    reference: Any = nib.load(next(iter(case.files.values())))
    if values.shape != reference.shape:
        yield f"The map has shape {values.shape}, its scan {reference.shape}: write it on the scan's voxels."
        return
    if not np.isfinite(image.affine).all() or not np.allclose(
        image.affine, reference.affine, atol=1e-3
    ):
        yield (
            f"The map's affine differs from its scan's by up to "
            f"{np.nanmax(np.abs(image.affine - reference.affine)):.3g}, so it lies elsewhere in the "
            "world: copy the scan's affine."
        )
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        yield "The map holds values that are not whole numbers: write the label of each voxel."
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > contract.labels:
        wrong = high if high > contract.labels else low
        yield f"The map holds the label {wrong}: labels are 0 to {contract.labels}."
    if not contract.empty and not values.any():
        yield f"The map holds background alone, which {contract.name} refuses: name a voxel."


def _differences(first: Path, again: Path) -> Iterator[str]:
    if not again.is_file() or _content(first) != _content(again):
        yield "A second run gave another answer: fix the seed, and draw nothing at prediction."


def _content(path: Path) -> bytes:
    """What a file says, without the time stamp of its compression."""
    if path.name.endswith(".gz"):
        import gzip

        return gzip.decompress(path.read_bytes())
    return path.read_bytes()
