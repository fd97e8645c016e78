"""Rows become numbers, each with its spread or 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.evaluation.measures import Row, none_unless_finite
from vcm.imaging.conditions import CLASS_NAMES
from vcm.metrics import Statistic, bootstrap_interval

Summary = dict[str, Any]


def summarise(tables: Mapping[str, Sequence[Row]], seed: int) -> Summary:
    """Tables by name, as `evaluate` writes them -> summary; None where nothing can be computed."""
    return {
        "adherence": _adherence(tables["adherence"], seed),
        "intensity": _intensity(tables["intensity"], seed),
        "paired": {n: _spread(_column(tables["paired"], n)) for n in ("psnr", "ssim")},
        "realism": {row["arm"]: _triple(row) for row in tables["realism"]},
        "spectrum": summarise_detail(tables["spectrum"], seed),
        "two_sample": {
            row["compared"]: {"value": row["auc"], "low": row["low"], "high": row["high"]}
            for row in tables["two_sample"]
        },
        "privacy": summarise_privacy(tables["privacy"], seed),
        "diversity": {
            arm: _spread(_column(rows, "rmse")) for arm, rows in _by(tables["diversity"], "arm")
        },
        "covariates": {
            arm: _ages(rows, seed) for arm, rows in _by(tables.get("covariates", ()), "arm")
        },
    }


def summarise_detail(rows: Sequence[Row], seed: int) -> Summary:
    """Rows of power ratios -> arm -> band -> mean over subjects with its interval."""
    return {
        arm: {
            band: _estimate(lambda v: v.mean(), seed, _column(own, band))
            for band in own[0]
            if band not in ("arm", "subject")
        }
        for arm, own in _by(rows, "arm")
    }


def _adherence(rows: Sequence[Row], seed: int) -> Summary:
    arms = ("real", "controlled", "uncontrolled")
    tables = {a: _per_class(rows, f"dice_{a}") for a in arms}
    out = {}
    for n, name in enumerate([*CLASS_NAMES[1:], "mean"]):
        columns = {a: t.mean(1) if name == "mean" else t[:, n] for a, t in tables.items()}
        ratio = _estimate(_ratio, seed, columns["controlled"], columns["real"])
        out[name] = {a: _spread(v) for a, v in columns.items()} | {"ratio": ratio}
    return out


def _intensity(rows: Sequence[Row], seed: int) -> Summary:
    """Per class the mean intensity of each arm, and controlled minus real with its interval."""
    out = {}
    for name, own in _by(rows, "class"):
        real, controlled = _column(own, "mean_real"), _column(own, "mean_controlled")
        out[name] = {
            "real": _spread(real),
            "controlled": _spread(controlled),
            "sd_real": _spread(_column(own, "sd_real")),
            "sd_controlled": _spread(_column(own, "sd_controlled")),
            "difference": _estimate(lambda c, r: (c - r).mean(), seed, controlled, real),
        }
    return out


def summarise_privacy(rows: Sequence[Row], seed: int) -> Summary:
    """Per arm the distance to the nearest training scan and how it differs from real test scans'."""
    arms = dict(_by(rows, "arm"))
    out: Summary = {}
    for arm, own in arms.items():
        out[arm] = {}
        for name in ("rmse_nearest", "ratio"):
            values, real = _column(own, name), _column(arms["real"], name)
            least = _existing(values).min(initial=np.inf)
            out[arm][name] = _spread(values) | {"min": none_unless_finite(least)}
            if arm != "real":
                closer = _existing(values) < _existing(real).min(initial=np.inf)
                share = float(closer.mean()) if closer.size and _existing(real).size else None
                out[arm][name] |= {
                    "minus_real": _estimate(lambda v, r: (v - r).mean(), seed, values, real),
                    "share_closer_than_every_real": share,
                }
    return out


def _ages(rows: Sequence[Row], seed: int) -> Summary:
    """Measured ventricular volume [mL] at each age; old minus young, paired by seed."""
    ages = _by(rows, "age")
    young, old = (_column(own, "ventricles_measured") for _, own in (ages[0], ages[-1]))
    return {
        "ages": [ages[0][0], ages[-1][0]],
        "young": _spread(young),
        "old": _spread(old),
        "difference": _estimate(lambda o, y: (o - y).mean(), seed, old, young),
    }


def _by(rows: Sequence[Row], key: str) -> list[tuple[str, list[Row]]]:
    """Rows grouped by a column, groups in order of appearance."""
    names = dict.fromkeys(row[key] for row in rows)
    return [(name, [row for row in rows if row[key] == name]) for name in names]


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A column as floats; NaN where there is no value."""
    return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _per_class(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """(subjects, 8) of a column of rows that run class by class within each subject."""
    return _column(rows, name).reshape(-1, len(CLASS_NAMES) - 1)


def _spread(values: NDArray[np.float64]) -> Summary:
    """Mean and sample standard deviation of what exists."""
    values = _existing(values)
    return {
        "mean": float(values.mean()) if len(values) else None,
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "count": len(values),
    }


def _existing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _estimate(statistic: Statistic, seed: int, *samples: NDArray[np.float64]) -> Summary:
    """Statistic of paired samples with its bootstrap interval; subjects with a NaN are left out."""
    whole = ~np.isnan(np.stack(samples)).any(0)
    kept = [s[whole] for s in samples]
    if not whole.any():
        return {"value": None, "low": None, "high": None}
    low, high = bootstrap_interval(statistic, *kept, seed=seed)
    return {
        "value": none_unless_finite(statistic(*kept)),
        "low": none_unless_finite(low),
        "high": none_unless_finite(high),
    }


def _ratio(controlled: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """Ratio of means; NaN where the ceiling is 0."""
    ceiling = real.mean()
    return float(controlled.mean() / ceiling) if ceiling > 0 else float("nan")


def _triple(row: Row) -> Summary:
    return {"value": row["kid"], "low": row["low"], "high": row["high"]}
