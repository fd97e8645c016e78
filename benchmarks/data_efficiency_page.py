"""The page of the data-efficiency study and its plots, from the tables of data_efficiency.py alone.

    python benchmarks/data_efficiency_page.py docs/study/data_efficiency

Writes docs/study/data_efficiency.md and PNGs beside the tables. What reading.md there says, written by
people, stands on top of the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.files import read_table
from vcm.imaging.conditions import CLASS_NAMES
from vcm.metrics import bootstrap_interval

FIVE = ("vcm", "mcm", "controlnet", "controlnet-lite", "t2i-adapter")
VARIANTS = (
    "vcm-instance", "vcm-lambda-1", "vcm-lambda-0.15", "vcm-no-prior", "vcm-published",
    "controlnet-no-prior",
)  # fmt: skip
COLOURS = ("#d62828", "#f77f00", "#3a86ff", "#4caf50", "#8338ec", "#999999")
TITLES = {"classes": "eight-class map", "ventricles": "ventricle mask"}
Row = dict[str, str]


class Study:
    """The tables, asked by what a run was."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        self.rates, self.runs, self.subjects = (
            read_table(folder / f"{name}.tsv") for name in ("rates", "runs", "subjects")
        )
        self.conditions = [
            c for c in TITLES if any(r["condition"] == c and r["method"] in FIVE for r in self.runs)
        ]

    def run(self, method: str, condition: str, samples: str, seed: str) -> Row | None:
        """Its row, if that run was made."""
        key = {"method": method, "condition": condition, "samples": samples, "seed": seed}
        return next((r for r in self.runs if _is(r, key)), None)

    def values(self, row: Row, column: str) -> NDArray[np.float64]:
        """One value per subject, in the order of their names; Dice is that of what was asked for."""
        own = [r for r in self.subjects if all(r[k] == row[k] for k in KEY)]
        own.sort(key=lambda r: r["subject"])
        if column != "dice":
            return np.array([float(r[column]) for r in own])
        return np.array([_dice(r, row["condition"]) for r in own])

    def ceiling(self, condition: str) -> NDArray[np.float64]:
        """Dice on the real scans, and so of the segmenter."""
        (real,) = (r for r in self.runs if r["method"] == "real")
        own = [r for r in self.subjects if r["method"] == "real"]
        own.sort(key=lambda r: r["subject"])
        assert real["condition"] == "classes"
        return np.array([_dice(r, condition) for r in own])

    def floor(self, condition: str, column: str) -> NDArray[np.float64]:
        """Of the frozen model, which is asked for nothing."""
        own = [r for r in self.subjects if r["method"] == "frozen"]
        own.sort(key=lambda r: r["subject"])
        dice = column == "dice"
        return np.array([_dice(r, condition) if dice else float(r[column]) for r in own])


KEY = ("method", "condition", "samples", "seed")


def _is(row: Row, key: Row) -> bool:
    return all(row[k] == v for k, v in key.items())


def _dice(row: Row, condition: str) -> float:
    """Mean over the classes that the condition shows."""
    shown = [CLASS_NAMES.index("ventricles")] if condition == "ventricles" else range(1, 9)
    return float(np.nanmean([float(row[f"dice_{c}"]) for c in shown if row[f"dice_{c}"] != "n/a"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/study/data_efficiency"))
    folder = parser.parse_args().folder
    study = Study(folder)
    pages = [_head(study), _text(folder / "reading.md")]
    for condition in study.conditions:
        pages.append(_condition(study, condition))
        _plot(study, condition, folder / f"{condition}.png")
        pages.append(f"![Adherence and likeness by number of scans]({folder.name}/{condition}.png)")
    pages += [_variants(study), _costs(study), _rates(study)]
    path = folder.with_suffix(".md")
    path.write_text("\n\n".join(p for p in pages if p) + "\n", encoding="utf-8")
    print(path)


def _head(study: Study) -> str:
    trained = [r for r in study.runs if r["method"] in (*FIVE, *VARIANTS)]
    steps = sorted({r["steps"] for r in trained})
    return f"""# {study.about["title"]}

Made by two commands, from the tables beside this page ({len(trained)} trainings, one row each in `runs.tsv`;
{len({r["subject"] for r in study.subjects})} test subjects, one row per training and subject in `subjects.tsv`):

    {study.about["command"]}
    python benchmarks/data_efficiency_page.py

`PREPARED` is what `vcm prepare` makes of the development set IXI at 2 mm. Every module steers the same frozen
brain2mm, is trained for {" or ".join(steps)} optimiser steps of 2 scans with 2 noises each (bf16, cosine, the scan or its
mirror), and draws one volume per test subject from the subject's own condition ({study.about["sampler"]},
10 steps, temperature {study.about["temperature"]:g}; subject n has seed n, whatever the method). Adherence is the Dice of `segmenter2mm`, which saw real training
scans only, with the condition; its **share** is the ratio to the Dice that it reaches on the real scans. PSNR and
SSIM compare with the subject's real scan inside the brain. Brackets are 95 % bootstrap intervals over subjects; they
do not hold what another training seed would change, which the two seeds show. `start` is the linear reading of the
condition that all methods start from (`linear_prior`), with no training at all."""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _condition(study: Study, condition: str) -> str:
    ceiling, floor = study.ceiling(condition), study.floor(condition, "dice")
    (frozen,) = (r for r in study.runs if r["method"] == "frozen")
    (real,) = (r for r in study.runs if r["method"] == "real")
    lines = [
        f"## Condition: {TITLES[condition]}\n",
        f"Real scans, the ceiling: Dice {ceiling.mean():.3f}, KID {_kid(real)}. The frozen model alone, the "
        f"floor: Dice {floor.mean():.3f}, {100 * floor.mean() / ceiling.mean():.0f} % of the ceiling, PSNR "
        f"{study.floor(condition, 'psnr').mean():.2f} dB, SSIM {study.floor(condition, 'ssim').mean():.3f}, KID "
        f"{_kid(frozen)}.\n",
        "| scans | seed | method | Dice | share of the ceiling | minus vcm's | PSNR [dB] | SSIM | KID | test loss |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for samples in ("10", "50", "0"):
        for seed in ("0", "1"):
            best = study.run("vcm", condition, samples, seed)
            for method in ("start", *FIVE):
                row = study.run(method, condition, samples, seed)
                if row is not None:
                    lines.append(_line(study, row, best, ceiling))
    return "\n".join(lines)


def _line(study: Study, row: Row, best: Row | None, ceiling: NDArray) -> str:
    dice = study.values(row, "dice")
    low, high = bootstrap_interval(lambda d, c: d.mean() / c.mean(), dice, ceiling)
    difference = "" if best is None or row is best else _minus(dice, study.values(best, "dice"))
    cells = [
        _count(row["samples"]), row["seed"], row["method"], f"{dice.mean():.3f}",
        f"{100 * dice.mean() / ceiling.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]", difference,
        _mean(study.values(row, "psnr"), 2), _mean(study.values(row, "ssim"), 3), _kid(row),
        f"{float(row['test_loss']):.3f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _count(samples: str) -> str:
    return "all (130)" if samples == "0" else samples


def _mean(values: NDArray, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _minus(values: NDArray, other: NDArray) -> str:
    """Paired difference with its interval."""
    low, high = bootstrap_interval(lambda d: d.mean(), values - other)
    return f"{(values - other).mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _kid(row: Row) -> str:
    return f"{float(row['kid']):.1f} [{float(row['kid_low']):.1f}, {float(row['kid_high']):.1f}]"


def _variants(study: Study) -> str:
    """What the released code leaves open, each against the shipped form at the same N."""
    ceiling = study.ceiling("classes")
    if not any(r["method"] in VARIANTS for r in study.runs):
        return ""
    lines = [
        "## Variants (eight-class map)\n",
        "`vcm`: no norm after the heads, lambda 0, linear start. Each variant changes one thing, `vcm-published` all: "
        "instance norm after the heads, lambda 1 (the mean that was intended; the slip of the released code makes "
        "it 0.15 of that), no linear start.\n",
        "| scans | seed | variant | Dice | share of the ceiling | minus vcm's | PSNR [dB] | SSIM | KID | test loss |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for samples in ("10", "50", "0"):
        for method in ("vcm", *VARIANTS):
            row = study.run(method, "classes", samples, "0")
            best = study.run("vcm", "classes", samples, "0")
            if row is not None and (method != "vcm" or samples == "10"):
                lines.append(_line(study, row, best, ceiling))
    return "\n".join(lines)


def _costs(study: Study) -> str:
    lines = [
        "## Costs\n",
        "Of the trainings above, mean over them, other work on the machine beside some; steps side by side are "
        "timed by `python benchmarks/control_step.py`.\n",
        "| method | parameters | seconds per step | peak memory [GB] | seconds per volume |",
        "|---|---|---|---|---|",
    ]
    for method in FIVE:
        own = [r for r in study.runs if r["method"] == method]
        if own:
            seconds = np.mean([60 * float(r["trained_minutes"]) / int(r["steps"]) for r in own])
            peak = np.mean([float(r["peak_mib"]) for r in own if r["samples"] == "10"]) / 953.7
            volume = np.median([float(r["sample_seconds"]) for r in own])
            lines.append(
                f"| {method} | {int(own[0]['parameters']) / 1e6:.2f} M | {seconds:.2f} | {peak:.2f} | "
                f"{volume:.2f} |"
            )
    return "\n".join(lines)


def _rates(study: Study) -> str:
    lines = [
        "## Learning rates\n",
        "Chosen by the loss on 8 training scans that were held out, N = 50, eight-class map, after "
        f"{study.about['rate_steps']} steps (`rates.tsv`); a variant has that of the method that it is a variant of.\n",
        "| method | learning rate | loss |", "|---|---|---|",
    ]  # fmt: skip
    for row in study.rates:
        lines.append(
            f"| {row['method']} | {row['learning_rate']} | {float(row['validation_loss']):.3f} |"
        )
    return "\n".join(lines)


def _plot(study: Study, condition: str, path: Path) -> None:
    """Share of the ceiling, and PSNR, by number of scans; every seed is a point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    ceiling = study.ceiling(condition).mean()
    for axis, column in zip(panels, ("dice", "psnr"), strict=True):
        scale = 100 / ceiling if column == "dice" else 1.0
        for method, colour in zip((*FIVE, "start"), COLOURS, strict=True):
            points = _points(study, method, condition, column)
            if points:
                axis.plot(*_means(points, scale), color=colour, label=method, lw=1.5)
                axis.scatter(
                    [n for n, _ in points], [scale * v for _, v in points], color=colour, s=14
                )
        axis.axhline(
            scale * study.floor(condition, column).mean(),
            color="k",
            ls=":",
            lw=1,
            label="frozen model",
        )
        axis.set_xscale("log")
        axis.set_xticks([10, 50, 130], ["10", "50", "130"])
        axis.set_xlabel("training scans")
        axis.set_ylabel(
            "Dice, % of the ceiling" if column == "dice" else "PSNR to the real scan [dB]"
        )
    panels[0].legend(fontsize=7)
    figure.suptitle(TITLES[condition])
    figure.savefig(path, dpi=130, metadata={"Software": "vcm"})


def _points(study: Study, method: str, condition: str, column: str) -> list[tuple[int, float]]:
    found = []
    for samples in ("10", "50", "0"):
        for seed in ("0", "1"):
            row = study.run(method, condition, samples, seed)
            if row is not None:
                value = float(study.values(row, column).mean())
                found.append((int(samples) or 130, value))
    return found


def _means(points: Sequence[tuple[int, float]], scale: float) -> tuple[list[int], list[float]]:
    counts = sorted({n for n, _ in points})
    return counts, [scale * float(np.mean([v for m, v in points if m == n])) for n in counts]


if __name__ == "__main__":
    main()
