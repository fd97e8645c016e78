"""Tables of docs/study/segmentation.md from the rows that benchmarks/segmentation.py wrote.

    python benchmarks/segmentation_tables.py docs/study/segmentation

For each labelled subject, over the subjects that every method has segmented: per method the Dice (mean over
structures), 95 % Hausdorff distance [mm], absolute error of the volumes [%] and the difference to the atlas; per
structure the Dice; differences that a pretraining makes. Intervals are of 95 %, paired, over subjects.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.files import read_table
from vcm.metrics import bootstrap_interval

#: Methods whose difference tells what the pretraining is worth, and the atlas of completed labels.
PAIRS = (
    ("diffusion", "untrained"),
    ("diffusion x atlas", "untrained x atlas"),
    ("diffusion", "mae"),
    ("diffusion x atlas", "mae x atlas"),
    ("diffusion", "slices alone"),
    ("diffusion x atlas", "slices alone x atlas"),
    ("nine chosen x atlas", "nine chosen"),
)


def print_tables(rows: Sequence[Mapping[str, object]]) -> None:
    """Print the tables of each labelled subject.

    Args:
        rows: One per labelled subject, method, subject and structure.
    """
    for labelled in dict.fromkeys(row["labelled"] for row in rows):
        mine = [row for row in rows if row["labelled"] == labelled]
        methods = list(dict.fromkeys(str(row["method"]) for row in mine))
        structures = list(dict.fromkeys(str(row["structure"]) for row in mine))
        made = {(row["subject"], row["method"]) for row in mine}
        subjects = [
            s
            for s in dict.fromkeys(str(row["subject"]) for row in mine)
            if all((s, method) in made for method in methods)
        ]
        if len(subjects) < 2:
            continue
        print(f"\n{labelled}, {len(subjects)} subjects: {subjects[0]} to {subjects[-1]}\n")
        used = [row for row in mine if row["subject"] in subjects]
        dice = {m: _by(used, "subject", subjects, m) for m in methods}
        print("| method | Dice | worst | Hausdorff [mm] | volume error [%] | minus atlas |")
        print("|---|---|---|---|---|---|")
        for method, scores in dice.items():
            of = [row for row in used if row["method"] == method]
            far = np.mean(_numbers(of, "hausdorff95"))
            error = 100 * np.mean(np.abs(_numbers(of, "volume_error")))
            gain = "" if method == "atlas" or "atlas" not in dice else _gain(scores, dice["atlas"])
            spread = f"{scores.mean():.3f} ± {scores.std(ddof=1):.3f} | {scores.min():.3f}"
            print(f"| {method} | {spread} | {far:.2f} | {error:.1f} | {gain} |")
        print(f"\n| structure | {' | '.join(methods)} |\n|{'---|' * (1 + len(methods))}")
        each = [_by(used, "structure", structures, m) for m in methods]
        for structure, values in zip(structures, np.transpose(each), strict=True):
            print(f"| {structure} | {' | '.join(f'{value:.3f}' for value in values)} |")
        for one, other in PAIRS:
            if one in dice and other in dice:
                print(f"\n{one} minus {other}: {_gain(dice[one], dice[other])}")


def _by(
    rows: Sequence[Mapping[str, object]], key: str, values: Sequence[str], method: str
) -> NDArray:
    """Mean Dice of a method at each value of a column."""
    of = [row for row in rows if row["method"] == method]
    return np.array([np.mean(_numbers([r for r in of if r[key] == v], "dice")) for v in values])


def _numbers(rows: Sequence[Mapping[str, object]], column: str) -> list[float]:
    """Those that are there: a structure that was not found has no distance."""
    return [float(str(r[column])) for r in rows if r[column] not in (None, "", "None", "n/a")]


def _gain(one: NDArray, other: NDArray) -> str:
    difference = one - other
    low, high = bootstrap_interval(lambda d: float(d.mean()), difference)
    return f"{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds segmentation.tsv")
    print_tables(read_table(parser.parse_args().folder / "segmentation.tsv"))
