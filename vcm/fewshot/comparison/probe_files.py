"""Probe a folder of embeddings with the classes of a table. Knows files; the probe is in probe.py."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.fewshot.comparison.probe import Probed, probe, split_cases
from vcm.imaging.participants import is_told, read_rows, subject_of


def probe_folder(
    vectors: Path, table: Path, case: str, label: str, groups: list[str], seed: int = 42
) -> Probed:
    """Probe CASE.npy (or CASE_SEQUENCE.npy) of every row that has a class.

    The split is spread over the groups of the first variable, and keeps the sessions of a subject together.
    Embeddings that are missing are left out, with a VCMWarning; the challenge gives them the worst scores in its test.
    A case whose group is unknown counts in no group. Rows that tell the same of one embedding count once.

    Raises:
        VCMError: a column or every embedding is missing, lengths differ, or rows tell different things of one.
    """
    if not table.is_file():
        raise VCMError(f"{table} does not exist: give the table of the cases.")
    rows = read_rows(table)
    case, label, groups = case.lower(), label.lower(), [group.lower() for group in groups]
    for column in (case, label, *groups):
        if not rows or column not in rows[0]:
            has = ", ".join(rows[0]) if rows else "no row"
            raise VCMError(f"{table.name} has no column '{column}': it has {has}.")
    found = [(row, _file_of(vectors, row[case])) for row in rows]
    told = [(row, file) for row, file in found if is_told(row[label])]
    kept = _once([(row, file) for row, file in told if file], (label, *groups), table)
    if not kept:
        raise VCMError(f"{vectors} holds no embedding of a case in {table.name}: check the names.")
    lacking = [row[case] for row, file in told if not file]
    if lacking:
        warnings.warn(
            f"{len(lacking)} of {len(told)} cases with a {label} in {table.name} have no embedding in "
            f"{vectors} and are left out: {first_names(lacking)}.",
            VCMWarning,
            stacklevel=2,
        )
    loaded = [_read(file) for _, file in kept]
    if len({v.shape for v in loaded}) > 1:
        raise VCMError(f"Embeddings in {vectors} differ in length: make them with one model.")
    classes = sorted({row[label] for row, _ in kept})
    labels = [classes.index(row[label]) for row, _ in kept]
    variables = {g: [row[g] if is_told(row[g]) else "" for row, _ in kept] for g in groups}
    first = variables[groups[0]] if groups else ["" for _ in kept]
    strata = [sorted(set(first)).index(value) for value in first]
    split = split_cases(labels, strata, seed, [subject_of(row[case]) for row, _ in kept])
    return probe(np.stack(loaded), labels, split, variables)


def _once(
    rows: Sequence[tuple[dict[str, str], Path]], columns: Sequence[str], table: Path
) -> list[tuple[dict[str, str], Path]]:
    """Each embedding with its first row: one that counts twice weighs double, and as two classes tells nothing.

    Raises:
        VCMError: Another row says something else in these columns.
    """
    first: dict[Path, dict[str, str]] = {}
    for row, file in rows:
        before = first.setdefault(file, row)
        other = [column for column in columns if row[column] != before[column]]
        if other:
            raise VCMError(
                f"Two rows of {table.name} are of {file.name}, with the {other[0]} '{before[other[0]]}' and "
                f"'{row[other[0]]}': keep one, or name the session of each as its embedding does (sub-X_ses-Y)."
            )
    return [(row, file) for file, row in first.items()]


def _read(file: Path) -> NDArray[np.float32]:
    """An embedding (F,). Raises VCMError where it is none, or holds what is no number."""
    try:
        found = np.asarray(np.load(file, allow_pickle=False), dtype=np.float32).squeeze()
    except (ValueError, OSError, EOFError) as error:
        raise VCMError(
            f"{file.name} is no embedding that can be read ({error}): write it with numpy.save, without pickle."
        ) from error
    if found.ndim != 1 or not np.isfinite(found).all():
        raise VCMError(
            f"{file.name} has the shape {found.shape} and {int((~np.isfinite(found)).sum())} values that are not finite, "
            "but an embedding is one vector of numbers: make it again, or leave its case out."
        )
    return found


def _file_of(folder: Path, case: str) -> Path | None:
    exact = folder / f"{case}.npy"
    if exact.is_file():
        return exact
    found = sorted(path for path in folder.glob("*.npy") if path.name.startswith(f"{case}_"))
    if len(found) > 1:
        raise VCMError(
            f"{folder} holds {len(found)} embeddings of {case} ({found[0].name}, {found[1].name}): keep one "
            "of each case, or name its session in the table."
        )
    return found[0] if found else None
