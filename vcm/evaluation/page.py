"""The summary of an evaluation as a page that people read (Markdown)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Summary = Mapping[str, Any]


def as_page(summary: Summary) -> str:
    """Summary as `vcm evaluate` stores it -> Markdown."""
    made = summary["configuration"]
    blocks = [
        "# Evaluation",
        f"{summary['subjects']} subjects of split {made['split']}, {summary['train_scans']} training scans; "
        f"{made['scheduler']}, {made['steps']} steps, seed {made['seed']}. Numbers are mean ± standard "
        "deviation over subjects, or a value with its 95 % interval [low, high]. All tables of "
        "single subjects lie beside this page.",
        "## Adherence",
        "Dice of the segmenter against the condition: on the real scan (ceiling), on the controlled "
        "and on the uncontrolled sample (floor); ratio is controlled over ceiling.",
        _table(
            ("class", "real", "controlled", "uncontrolled", "ratio"),
            (
                (name, _spread(v["real"]), _spread(v["controlled"]), _spread(v["uncontrolled"]),
                 _estimate(v["ratio"]))
                for name, v in summary["adherence"].items()
            ),
        ),
        "## Intensity",
        "Inside the condition's class: mean over subjects of the mean, and of the standard deviation "
        "within a subject.",
        _table(
            ("class", "mean real", "mean controlled", "difference", "sd real", "sd controlled"),
            (
                (name, _spread(v["real"]), _spread(v["controlled"]), _estimate(v["difference"]),
                 _spread(v["sd_real"]), _spread(v["sd_controlled"]))
                for name, v in summary["intensity"].items()
            ),
        ),
        "## Against the subject's own scan",
        f"Inside the map: PSNR {_spread(summary['paired']['psnr'], 2)} dB, SSIM "
        f"{_spread(summary['paired']['ssim'])}.",
        "## Realism",
        "KID on the segmenter's features against all training scans; real test scans are the floor. n/a "
        "with a single test or training scan, or where the training scans' features do not differ; no "
        "interval with fewer than four.",
        _table(("arm", "KID"), ((arm, _estimate(v)) for arm, v in summary["realism"].items())),
        "## Detail",
        "Power by spatial frequency [1/mm] over that of the subject's own scan: below 1 is blur, above "
        "1 noise.",
        _bands(summary["spectrum"]),
        "Area under the ROC curve of a network that has to tell volumes from real test scans: 0.5, it "
        "cannot; 1, always. Training scans are the floor; n/a with fewer than four subjects.",
        _table(
            ("compared", "area"), ((n, _estimate(v)) for n, v in summary["two_sample"].items())
        ),
        "## Privacy",
        "RMSE over the whole volume to the nearest training scan, mirrored ones too; ratio: nearest "
        "to median training scan. Below 0 in a difference: nearer than real test scans are.",
        _privacy(summary["privacy"]),
        "## Diversity",
        "RMSE over the whole volume between two seeds of the same subject; real: between two subjects.",
        _table(("arm", "RMSE"), ((a, _spread(v, 4)) for a, v in summary["diversity"].items())),
        "## Age",
        "Ventricles [mL] in uncontrolled samples. age: volumes as expected at that age; age only: "
        "volumes held at those of age 50; no row for a model that is told no age.",
        _table(
            ("arm", "ages [years]", "young", "old", "difference"),
            (
                (arm, " and ".join(f"{a:.4g}" for a in v["ages"]), _spread(v["young"], 1),
                 _spread(v["old"], 1), _estimate(v["difference"], 1))
                for arm, v in summary["covariates"].items()
            ),
        ),
    ]  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def _bands(arms: Summary) -> str:
    names = list(next(iter(arms.values())))
    return _table(
        ("arm", *names), ((arm, *(_estimate(v[b], 2) for b in names)) for arm, v in arms.items())
    )


def _privacy(arms: Summary) -> str:
    rows = []
    for arm, measures in arms.items():
        for name, v in measures.items():
            difference = _estimate(v["minus_real"], 4) if "minus_real" in v else "-"
            share = v.get("share_closer_than_every_real")
            shown = "-" if share is None else f"{100 * share:.0f} %"
            rows.append((arm, name, _spread(v, 4), _number(v["min"], 4), difference, shown))
    head = ("arm", "measure", "mean", "least", "minus real", "nearer than every real one")
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _spread(v: Summary, digits: int = 3) -> str:
    return f"{_number(v['mean'], digits)} ± {_number(v['sd'], digits)}"


def _estimate(v: Summary, digits: int = 3) -> str:
    value, low, high = (_number(v[name], digits) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
