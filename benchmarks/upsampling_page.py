"""The page and plot of benchmarks/upsampling.py, from its tables and its reading alone.

    python benchmarks/upsampling_page.py docs/study/upsampling [PART ...]

With parts, folders that the benchmark wrote for some of the subjects each, FOLDER gets their tables, and the
pictures of the first.
FOLDER.md is written beside the folder; what a person read in the tables stands in reading.md there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.files import read_table, write_table
from vcm.metrics import bootstrap_interval

Row = dict[str, str]
OURS = "vcm"
TABLES = ("upsampling", "volumes", "calibration")
INTRODUCTION = """# Upsampling of simulated thick axial slices

Made from the tables beside this page (a row per subject, spacing and method), which two processes wrote side by side:

    python benchmarks/upsampling.py ds002748 --cnn CNN --spacings 8 4 6 5 3 --steps 5 --part 1 2 --out A
    python benchmarks/upsampling.py ds002748 --cnn CNN --spacings 8 4 6 5 3 --steps 5 --part 2 2 --out B
    python benchmarks/upsampling_page.py docs/study/upsampling A B

Brain-extracted scans are brought to 1 mm (the truth) and cut into axial slices as thick as their spacing, with a Gaussian profile.
`vcm` is what `vcm upsample` wrote by default when these rows were made; `cnn` is the same network for detail, trained on the same draws of the same
scans for as many minutes by `vcm pretrain detail detail_brain1mm expects=false`, which sees the slices and no model.
`vcm` adds detail to the eight mirror images of a brain and takes the mean; `cnn, mirrors` does the same without the model, and
`vcm, no mirrors` is `vcm upsample --no-mirrors`, so that like stands beside like.
Inside the brain, values in the range of its percentiles 0.5 to 99.5. Mean ± standard deviation over subjects; paired
differences with 95 % bootstrap intervals.
"""


def write_page(folder: Path) -> Path:
    """FOLDER.md and FOLDER/calibration.png."""
    lines = [INTRODUCTION]
    reading = folder / "reading.md"
    if reading.is_file():
        lines.append(reading.read_text(encoding="utf-8"))
    quality, volumes, calibration = (read_table(folder / f"{name}.tsv") for name in TABLES)
    for spacing in dict.fromkeys(row["spacing"] for row in quality):
        lines += _quality([r for r in quality if r["spacing"] == spacing], spacing)
        lines += _tissues([r for r in volumes if r["spacing"] == spacing])
        lines += _doubt([r for r in calibration if r["spacing"] == spacing])
    _plot(calibration, folder / "calibration.png")
    lines.append(f"\n![Stated and real error]({folder.name}/calibration.png)")
    for picture in sorted(folder.glob("example_*.png")):
        lines.append(f"\n![The first subject by every method]({folder.name}/{picture.name})")
    path = folder.with_suffix(".md")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _column(rows: list[Row], column: str, **key: str) -> NDArray[np.float64]:
    """Values of one key, in the order of the subjects."""
    own = [r for r in rows if all(r[k] == v for k, v in key.items())]
    return np.array([float(r[column]) for r in sorted(own, key=lambda r: r["subject"])])


def _quality(rows: list[Row], spacing: str) -> list[str]:
    ours, ours_alike = (_column(rows, c, method=OURS) for c in ("psnr", "ssim"))
    lines = [
        f"\n## {float(spacing):g} mm, {len(ours)} subjects\n",
        "| method | PSNR [dB] | vcm minus it | SSIM | vcm minus it |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in dict.fromkeys(row["method"] for row in rows):
        values, alike = (_column(rows, c, method=name) for c in ("psnr", "ssim"))
        better, alike_better = "", ""
        if name != OURS:
            better = _interval(ours - values, 2)
            alike_better = _interval(ours_alike - alike, 3)
        lines.append(
            f"| {name} | {values.mean():.2f} ± {values.std(ddof=1):.2f} | {better} | "
            f"{alike.mean():.3f} ± {alike.std(ddof=1):.3f} | {alike_better} |"
        )
    seconds = _column(rows, "seconds", method=OURS)
    once, plain = (_column(rows, "psnr", method=m) for m in ("vcm, no mirrors", "cnn"))
    if once.size and plain.size:
        lines.append(f"\nWithout mirrors, vcm minus cnn: {_interval(once - plain, 2)} dB.")
    return [*lines, f"\n{np.median(seconds):.0f} s per scan (median), all of `vcm upsample`."]


def _interval(values: NDArray, digits: int) -> str:
    low, high = bootstrap_interval(lambda v: v.mean(), values, seed=0)
    return f"{values.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _tissues(rows: list[Row]) -> list[str]:
    """Mean absolute error of each tissue's volume against the same segmenter on the truth, in %."""
    names = [n for n in dict.fromkeys(r["method"] for r in rows) if n != "truth"]
    tissues = list(dict.fromkeys(r["tissue"] for r in rows))
    lines = [
        "\nTissue volumes, mean absolute error in % of those found in the original scan:\n",
        f"| method | {' | '.join(tissues)} | mean |", "|---" * (len(tissues) + 2) + "|",
    ]  # fmt: skip
    for name in names:
        errors = []
        for tissue in tissues:
            found, truth = (
                _column(rows, "volume", method=m, tissue=tissue) for m in (name, "truth")
            )
            errors.append(100 * float((np.abs(found - truth) / truth).mean()))
        cells = " | ".join(f"{e:.1f}" for e in [*errors, float(np.mean(errors))])
        lines.append(f"| {name} | {cells} |")
    return lines


def _doubt(rows: list[Row]) -> list[str]:
    first = [r for r in rows if r["tenth"] == "1"]
    ranks = [_column(first, c) for c in ("rank_correlation", "rank_correlation_samples")]
    stated, real, absolute = (
        np.array([_column(rows, c, tenth=str(n)).mean() for n in range(1, 11)])
        for c in ("stated", "root_mean_square_error", "mean_absolute_error")
    )
    share = 100 * _column(first, "share_of_brain").mean()
    rises = "" if (np.diff(absolute) > 0).all() else "not "
    return [
        f"\nUncertainty: rank correlation of the stated with the absolute error {_interval(ranks[0], 3)}, of the "
        f"samples' spread {_interval(ranks[1], 3)}; from the least to the most doubtful tenth of the voxels "
        f"stated {stated[0]:.3f} to {stated[-1]:.3f}, real root mean square {real[0]:.3f} to {real[-1]:.3f} of the range; mean "
        f"absolute error {absolute[0]:.3f} to {absolute[-1]:.3f}, {rises}rising with every tenth. {share:.1f} % of the brain has "
        "a stated error; the rest is rim that thick slices show as background."
    ]


def _plot(rows: list[Row], path: Path) -> None:
    """Real against stated error, a line per spacing, a point per tenth of the voxels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    most = 0.0
    for spacing in dict.fromkeys(row["spacing"] for row in rows):
        own = [r for r in rows if r["spacing"] == spacing]
        stated, real = (
            [_column(own, c, tenth=str(n)).mean() for n in range(1, 11)]
            for c in ("stated", "root_mean_square_error")
        )
        axis.plot(stated, real, "o-", ms=3, lw=1, label=f"{float(spacing):g} mm")
        most = max(most, *stated, *real)
    axis.plot([0, most], [0, most], "k:", lw=1, label="honest")
    axis.set_xlabel("stated error, root mean square, of the range")
    axis.set_ylabel("real error, root mean square, of the range")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=130, metadata={"Software": "vcm"})


def join(parts: list[Path], folder: Path) -> None:
    """The tables of all parts, the thickest slices first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        rows = [row for part in parts for row in read_table(part / f"{name}.tsv")]
        rows.sort(key=lambda row: -float(row["spacing"]))
        write_table(folder / f"{name}.tsv", rows, list(rows[0]))
    for picture in parts[0].glob("example_*.png"):
        shutil.copyfile(picture, folder / picture.name)


if __name__ == "__main__":
    out, *parts = map(Path, sys.argv[1:])
    if parts:
        join(parts, out)
    print(write_page(out).read_text(encoding="utf-8"))
