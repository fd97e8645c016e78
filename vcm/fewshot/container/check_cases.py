"""Scans that a package must be able to answer: small, large, thick, oblique, odd. All are generated.

Knows NIfTI and the arguments of a contract; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from vcm.fewshot.container.contracts import Contract


@dataclass(frozen=True)
class CheckCase:
    """Files of one case by sequence, and whether an answer without looking is allowed."""

    name: str
    files: dict[str, Path]
    fallback_allowed: bool = False


@dataclass(frozen=True)
class _Scan:
    """How the scans of a case are made."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    axes: str = "RAS"
    oblique: bool = False
    skull: bool = False
    suffix: str = ".nii.gz"
    scaled: bool = False


#: Cases of every contract; the first needs seconds, the rest are left out of a quick check.
_SCANS = {
    "tiny": _Scan((32, 32, 16), (6.0, 6.0, 10.0)),
    "thick slices, oblique, LPS": _Scan((160, 200, 28), (1.1, 1.1, 5.0), "LPS", oblique=True),
    "integers with a slope": _Scan(
        (80, 96, 80), (2.0, 2.0, 2.0), "LAS", scaled=True, suffix=".nii"
    ),
    "1 mm with skull": _Scan((176, 256, 256), skull=True),
}
_QUICK = ("tiny", "thick slices, oblique, LPS")
#: fomo26:task4 is tested at this size.
_FINE = _Scan((360, 512, 512), (0.5, 0.488, 0.488))


def make_cases(contract: Contract, folder: Path, quick: bool = False) -> Iterator[CheckCase]:
    """Write the cases of a contract, one folder each, and yield them.

    Args:
        contract: whose arguments the files fill.
        folder: where they are written.
        quick: only those that take seconds.
    """
    variants = _variants(contract)
    scans = {n: s for n, s in _SCANS.items() if not quick or n in _QUICK}
    if contract.name == "fomo26:task4" and not quick:
        scans["0.5 mm"] = _FINE
    for number, (name, scan) in enumerate(scans.items()):
        sequences = variants[number % len(variants)]
        shown = f"{name} ({', '.join(sequences)})"
        yield CheckCase(shown, _write(folder / f"case{number}", sequences, scan, number))
    flat = _Scan((32, 32, 32), (4.0, 4.0, 4.0))
    files = _write(folder / "constant", variants[-1], flat, 0, constant=True)
    yield CheckCase("constant", files, fallback_allowed=True)


def _variants(contract: Contract) -> list[list[str]]:
    """Every way to fill the slots of a contract that offers one of several sequences."""
    found: list[list[str]] = [[]]
    for options in contract.task.inputs:
        found = [[*before, option] for option in options for before in found]
    return found


def _write(
    folder: Path, sequences: list[str], scan: _Scan, seed: int, constant: bool = False
) -> dict[str, Path]:
    folder.mkdir(parents=True)
    files = {}
    for number, sequence in enumerate(sequences):
        # Names carry no meaning: the argument does.
        files[sequence] = folder / f"scan{number}{scan.suffix}"
        values = (
            np.full(scan.shape, 100.0) if constant else head(scan.shape, seed, number, scan.skull)
        )
        nib.save(_image(values, scan), files[sequence])
    return files


def head(
    shape: tuple[int, int, int], seed: int, contrast: int = 0, skull: bool = False
) -> NDArray[np.float32]:
    """An ellipsoid with smooth texture, 0 outside; a dark gap and a bright shell with the skull."""
    random = np.random.default_rng((seed, contrast))
    axes = [np.linspace(-1.2, 1.2, n, dtype=np.float32) for n in shape]
    radius = np.sqrt(
        axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    )
    coarse = random.normal(600, 120, (6, 6, 6)).astype(np.float32)
    texture = zoom(coarse, [n / 6 for n in shape], order=1)
    values = np.where(radius < 0.8, texture, 0)
    values = np.where(radius < 0.35, 0.5 * values, values)
    if skull:
        values = np.where((radius > 0.95) & (radius < 1.1), 900, values)
        values = values + random.normal(12, 4, (1, 1, shape[2]))
    return np.asarray(values, dtype=np.float32)


def _image(values: NDArray, scan: _Scan) -> nib.Nifti1Image:
    affine = np.diag([*scan.spacing, 1.0])
    affine[:3, 3] = [-s * n / 2 for s, n in zip(scan.spacing, scan.shape, strict=True)]
    for axis, (letter, usual) in enumerate(zip(scan.axes, "RAS", strict=True)):
        if letter != usual:
            affine[:3, axis] *= -1
            affine[axis, 3] *= -1
    if scan.oblique:
        angle = 0.2
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ affine
    if not scan.scaled:
        return nib.Nifti1Image(values, affine)
    image = nib.Nifti1Image(values, affine)
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.05, 10)
    return image
