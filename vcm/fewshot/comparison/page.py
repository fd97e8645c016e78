"""The page of a study: tables with both intervals, differences to the reference, learning curves.

Knows the stored runs; computes nothing that is not in samples.py or ranks.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from vcm.fewshot.comparison.metrics import METRICS
from vcm.fewshot.comparison.report import study_page
from vcm.fewshot.comparison.resampling import Interval
from vcm.fewshot.comparison.samples import (
    Estimate,
    Run,
    bias,
    estimate,
    groups,
    read_runs,
    sample_of,
)
from vcm.fewshot.configuration import EXAMPLE
from vcm.files import write_table
from vcm.report.folder import write_report

_SYNTHETIC = (
    "**The brains of this example are synthetic**, made by brain2mm, which was told their ages: the tables show "
    "how to read a study, and say nothing of people."
)
#: Decimals by metric.
_DIGITS = {"mae": 1, "r": 2, "auroc": 2, "f1": 2, "dice": 3, "nsd": 3}


def write_page(out: Path) -> Path:
    """study.md, comparisons.tsv and one PNG per task and test set, from the runs in `out`."""
    config = json.loads((out / "study.json").read_text(encoding="utf-8"))["study"]
    found = groups(read_runs(out))
    rows: list[dict[str, Any]] = []
    pictures: list[str] = []
    blocks = [
        "# Few-shot study",
        *([_SYNTHETIC] if _is_synthetic(config["tasks"], Path(config["out"])) else []),
        "Values are means over the draws of the shots. Two 95 % intervals are kept apart: over the test "
        "cases (bootstrap, the draws held) and over the draws (Student, the cases held). A difference is "
        "paired: same draws, same cases; its last interval is over both together. A draw is the same "
        "for all methods.",
    ]
    for task, test in dict.fromkeys((t, s) for t, s, _ in found):
        tables = {n: m for (t, s, n), m in found.items() if (t, s) == (task, test)}
        first = next(iter(next(iter(tables.values())).values()))[0]
        cases = len(first.answers[test])
        blocks.append(f"## {task}: {test} ({cases} cases)")
        for metric in first.metrics:
            blocks.append(_values_table(tables, test, metric))
            new = _differences(tables, test, metric, config["reference"])
            blocks.append(_differences_table(new, metric, config["reference"]))
            if not any(config["reference"] in methods for methods in tables.values()):
                blocks.append(
                    f"No differences: the reference `{config['reference']}` has no runs of this task."
                )
            rows += [{"task": task, "test": test, "metric": metric, **r} for r in new]
            picture = _new_name(f"{task}_{test}_{metric}", pictures)
            pictures.append(picture)
            _curves(tables, test, metric, out / picture)
            blocks.append(f"![{metric} by number of shots]({picture})")
    plain = [
        {k: v for k, v in r.items() if k != "estimate"} | _flat(r["estimate"])
        for r in rows
        if _is_defined(r["estimate"].value, r["metric"])
    ]
    if plain:
        write_table(out / "comparisons.tsv", plain, list(plain[0]))
    else:  # those of an earlier reference say nothing of this one
        (out / "comparisons.tsv").unlink(missing_ok=True)
    # A method may look through another network in another task.
    parents = dict.fromkeys(
        (m, r[0].record["parents"]) for methods in found.values() for m, r in methods.items()
    )
    blocks.append(
        "## What the parents saw\n\n" + "\n".join(f"* {m}: {seen}" for m, seen in parents)
    )
    page = out / "study.md"
    page.write_text("\n\n".join(b for b in blocks if b) + "\n", encoding="utf-8")
    write_report(out, lambda: study_page(out))
    return page


def summary(out: Path) -> list[str]:
    """The first metric of every task, test, number of shots and method, a line each."""
    lines = []
    for (task, test, shots), methods in groups(read_runs(out)).items():
        metric = next(iter(methods.values()))[0].metrics[0]
        lines.append(f"{task}, {test}, {shots} shots: {metric}, 95 % over test cases, over draws")
        for name, runs in methods.items():
            value, cases, draws, _ = _shown(estimate(sample_of(runs, test, metric)), metric)
            lines.append(f"  {name:<18} {value:>6}  {cases}  {draws}")
    return lines


def _is_synthetic(tasks: Sequence[str], out: Path) -> bool:
    """Whether a task is the example, whose brains lie in the folder of the study."""
    return any(Path(task).parent == out / EXAMPLE for task in tasks)


def _values_table(tables: dict[int, dict[str, list[Run]]], test: str, metric: str) -> str:
    regression = metric == "mae"
    head = ["shots", "draws", "method", metric, "over cases", "over draws"]
    head += ["bias"] if regression else []
    rows = []
    for shots, methods in tables.items():
        for name, runs in methods.items():
            sample = sample_of(runs, test, metric)
            found = estimate(sample)
            row = [str(shots), str(len(runs)), name, *_shown(found, metric)[:3]]
            rows.append([*row, f"{bias(sample):+.1f}"] if regression else row)
    arrow = "higher" if METRICS[metric].higher_is_better else "lower"
    return f"{metric} ({arrow} is better):\n\n" + _table(head, rows)


def _differences(
    tables: dict[int, dict[str, list[Run]]], test: str, metric: str, reference: str
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shots, methods in tables.items():
        if reference not in methods:
            continue
        base = sample_of(methods[reference], test, metric)
        if not _is_defined(base.value(), metric):
            continue
        for name, runs in methods.items():
            if name != reference:
                found = estimate(sample_of(runs, test, metric), base)
                rows.append({"shots": shots, "method": name, "estimate": found})
    return rows


def _differences_table(rows: Sequence[dict[str, Any]], metric: str, reference: str) -> str:
    if not rows:
        return ""
    head = ["shots", "method", f"minus {reference}", "over cases", "over draws", "over both"]
    return _table(
        head,
        ([str(r["shots"]), r["method"], *_shown(r["estimate"], metric, sign="+")] for r in rows),
    )


def _shown(found: Estimate, metric: str, sign: str = "") -> list[str]:
    if not _is_defined(found.value, metric):
        return ["undefined", "-", "-", "-"]
    digits = _DIGITS[metric]

    def interval(pair: Interval) -> str:
        if pair[0] != pair[0]:
            return "-"
        return f"[{pair[0]:{sign}.{digits}f}, {pair[1]:{sign}.{digits}f}]"

    each = (found.cases, found.draws, found.both)
    return [f"{found.value:{sign}.{digits}f}", *map(interval, each)]


def _is_defined(value: float, metric: str) -> bool:
    """Whether a mean, or a difference of means, of r has no draw whose answers are all alike, -100 by the rules."""
    return metric != "r" or abs(value) <= 2


def _flat(found: Estimate) -> dict[str, float]:
    flat = {"difference": round(found.value, 6)}
    for name in ("cases", "draws", "both"):
        low, high = getattr(found, name)
        flat |= {f"{name}_low": round(low, 6), f"{name}_high": round(high, 6)}
    return flat


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _new_name(words: str, taken: Sequence[str]) -> str:
    """Name of a picture that a link can hold, and no other picture of the page has."""
    stem = re.sub(r"[^\w.+-]+", "-", words)
    names = (f"{stem}{f'-{n}' if n else ''}.png" for n in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def _curves(
    tables: dict[int, dict[str, list[Run]]], test: str, metric: str, path: Path
) -> None:  # fmt: skip
    """Value by number of shots, with the interval over the test cases."""
    figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    names = dict.fromkeys(m for methods in tables.values() for m in methods)
    for place, name in enumerate(names):
        points = []
        for shots, methods in sorted(tables.items()):
            if name in methods:
                found = estimate(sample_of(methods[name], test, metric))
                if _is_defined(found.value, metric):
                    points.append((shots, found.value, *found.cases))
        if points:
            x = [p[0] * 1.03**place for p in points]
            below = [max(p[1] - p[2], 0) for p in points]
            above = [max(p[3] - p[1], 0) for p in points]
            axes.errorbar(
                x, [p[1] for p in points], [below, above], marker="o", capsize=2, label=name
            )
    if len(tables) > 1:
        axes.set_xscale("log")
    axes.set(xlabel="shots", ylabel=metric)
    axes.set_title(test, parse_math=False)
    axes.set_xticks(sorted(tables), [str(n) for n in sorted(tables)], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
