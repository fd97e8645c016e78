"""What a finished run measures: a row per scan in a table, and the means over the scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vcm.files import write_table


@dataclass(frozen=True)
class ScanMeasures:
    """One scan.

    Attributes:
        scan: Its name.
        values: By name; NaN where the scan does not have what is measured.
    """

    scan: str
    values: Mapping[str, float]


def write_measures(
    rows: Sequence[ScanMeasures], path: Path, first: str = "subject"
) -> dict[str, float]:
    """Write the table and return the means over the scans that have the measure.

    Args:
        rows: With the same names of values; none: nothing is written.
        path: Of a .tsv file.
        first: Heading of the scans' names.
    """
    if not rows:
        return {}
    names = list(rows[0].values)
    table = [
        {first: row.scan} | {n: None if np.isnan(v) else v for n, v in row.values.items()}
        for row in rows
    ]
    write_table(path, table, [first, *names])
    return {name: _mean([row.values[name] for row in rows]) for name in names}


def _mean(values: Sequence[float]) -> float:
    present = [v for v in values if not np.isnan(v)]
    return float(np.mean(present)) if present else float("nan")
