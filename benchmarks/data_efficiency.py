"""Which control method learns most from few scans: every method, number of scans, condition and seed.

    python benchmarks/data_efficiency.py PREPARED --out docs/study/data_efficiency --work runs/study

PREPARED is what `vcm prepare` makes of a set with a training and a test split. Learning rates are chosen
first, for each method, by the loss on 8 training scans that are held out; test scans choose nothing. Then
every run is trained with as many optimiser steps as every other, in a process of its own, and samples
each test subject's condition. rates.tsv, runs.tsv (one row per run) and subjects.tsv (one row per run and
subject) grow as runs end; a run that stands there is not repeated, so the same command goes on after a
stop. study.json has the settings. `data_efficiency_page.py` makes the page and its plots from these tables alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# No torch in this process, so that each run's peak of memory is its own: see fresh_process.
from vcm.files import read_table, write_json, write_table

RUN = Path(__file__).with_name("data_efficiency_run.py")
FIVE = ("vcm", "mcm", "controlnet", "controlnet-lite", "t2i-adapter")
#: Whose learning rate is chosen, and at what number of scans.
TUNED, TUNED_SAMPLES = FIVE, 50
#: Variants take the rate of the one that they are a variant of.
SAME_RATE = {
    "vcm-instance": "vcm", "vcm-lambda-1": "vcm", "vcm-lambda-0.15": "vcm",
    "vcm-no-prior": "vcm", "vcm-published": "vcm", "controlnet-no-prior": "controlnet",
}  # fmt: skip
ALL = 0
#: Of the samples; the sampler is that of data_efficiency_run.py.
TEMPERATURE = 0.95
UNTRAINED = ("real", "frozen")
_encoded: set[str] = set()


def plan() -> Iterator[tuple[str, str, int, int]]:
    """Method, condition, number of scans (0: all), seed; the most telling ones first."""
    yield from ((method, "classes", ALL, 0) for method in UNTRAINED)
    for condition in ("classes", "ventricles"):
        yield from ((method, condition, 10, 0) for method in ("start", *FIVE))
    yield from ((method, "classes", 50, seed) for seed in (0, 1) for method in ("start", *FIVE))
    yield from ((method, "classes", ALL, 0) for method in ("start", *FIVE))
    yield from ((method, "classes", 10, 1) for method in ("start", *FIVE))
    yield from ((variant, "classes", 10, 0) for variant in SAME_RATE)
    yield from ((method, "ventricles", ALL, 0) for method in ("start", *FIVE))
    yield from ((method, "ventricles", 50, 0) for method in FIVE)
    yield from ((method, "ventricles", 10, 1) for method in FIVE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="brain2mm")
    parser.add_argument("--segmenter", default="segmenter2mm")
    parser.add_argument("--out", type=Path, default=Path("docs/study/data_efficiency"))
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="may be thrown away")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 2e-3])
    parser.add_argument("--rate-steps", type=int, help="default: half of --steps")
    parser.add_argument("--methods", nargs="+", default=None, help="these alone; default: all")
    parser.add_argument("--conditions", nargs="+", default=["classes", "ventricles"])
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 50, ALL], help="0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    common = {
        "data": given.data, "model": given.model, "segmenter": given.segmenter,
        "work": str(given.work), "draws": given.draws, "temperature": TEMPERATURE,
    }  # fmt: skip
    write_json(given.out / "study.json", about(given))
    tuned = [m for m in TUNED if given.methods is None or m in given.methods]
    chosen = {method: _choose_rate(method, given, common) for method in tuned}
    rows, subjects = _read(given.out / "runs.tsv"), _read(given.out / "subjects.tsv")
    for method, condition, samples, seed in plan():
        if (
            (given.methods is not None and method not in given.methods)
            or condition not in given.conditions
            or (method not in UNTRAINED and samples not in given.samples)
            or seed not in given.seeds
        ):
            continue
        key = {"method": method, "condition": condition, "samples": samples, "seed": seed}
        if any(all(row[k] == str(v) for k, v in key.items()) for row in rows):
            continue
        trained = method in chosen or method in SAME_RATE
        rate = chosen[SAME_RATE.get(method, method)] if trained else 0.0
        found = _run(common | key | {"learning_rate": rate, "steps": given.steps})
        steps = given.steps if trained else 0
        rows.append(key | {"steps": steps, "learning_rate": rate} | found["run"])
        subjects += [key | row for row in found["subjects"]]
        _write(given.out / "subjects.tsv", subjects)
        _write(given.out / "runs.tsv", rows)
        print(json.dumps(rows[-1]), flush=True)


def about(given: argparse.Namespace) -> dict[str, Any]:
    """What the page says of the whole study."""
    return {
        "title": "Which control method learns most from few scans",
        "command": " ".join(["python benchmarks/data_efficiency.py PREPARED", *_options()]),
        "rate_steps": given.rate_steps or given.steps // 2,
        "temperature": TEMPERATURE,
        "sampler": "DPM-Solver++ with the noise levels of Karras et al.",
    }


def _options() -> list[str]:
    """Those of the command line that are no paths."""
    kept: list[str] = []
    paths = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            paths = word in ("--out", "--work")
        if not paths and (word.startswith("--") or kept):
            kept.append(word)
    return kept


def _choose_rate(method: str, given: argparse.Namespace, common: dict[str, Any]) -> float:
    """The rate with the lowest loss on held-out training scans after --rate-steps."""
    rows = _read(given.out / "rates.tsv")
    for rate in given.rates:
        key = {"method": method, "learning_rate": rate}
        if any(all(row[k] == str(v) for k, v in key.items()) for row in rows):
            continue
        about = {"condition": "classes", "samples": TUNED_SAMPLES, "seed": 0, "validate": True}
        found = _run(common | key | about | {"steps": given.rate_steps or given.steps // 2})
        rows.append(key | {"validation_loss": found["run"]["validation_loss"]})
        _write(given.out / "rates.tsv", rows)
        print(json.dumps(rows[-1]), flush=True)
    own = [row for row in rows if row["method"] == method]
    return float(min(own, key=lambda row: float(row["validation_loss"]))["learning_rate"])


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """What data_efficiency_run.py says, after the scans are encoded in another process."""
    scans = str((run["samples"], run["seed"], run.get("validate")))
    if run["method"] not in ("real", "frozen") and scans not in _encoded:
        _call(run | {"encode_only": True})
        _encoded.add(scans)
    found: dict[str, Any] = json.loads(_call(run).splitlines()[-1])
    return found


def _call(run: dict[str, Any]) -> str:
    command = [sys.executable, str(RUN), json.dumps(run)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _read(path: Path) -> list[dict[str, Any]]:
    return list(read_table(path)) if path.is_file() else []


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_table(path, rows, list(dict.fromkeys(name for row in rows for name in row)))


if __name__ == "__main__":
    main()
