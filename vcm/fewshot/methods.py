"""Which methods there are, what each looks at, and what its parents saw before the shots.

Knows names and the work to be done; the fitting is in closed_form.py and segmentation.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcm.errors import VCMError

CLOSED_FORM = ("classification", "regression")


@dataclass(frozen=True)
class Method:
    """One method.

    kinds     of tasks that it can do
    feature   of a closed-form method: one of features.FEATURES
    start     of a network: random, or the name of the weights that it starts from
    parents   what was seen, by whom, before any shot: printed in every table
    """

    name: str
    kinds: tuple[str, ...]
    feature: str = ""
    start: str = ""
    parents: str = "none"


_SEGMENTER = "segmenter2mm: T1w scans and label maps of 133 IXI training subjects, no ages"

METHODS = {
    m.name: m
    for m in (
        Method("mean", (*CLOSED_FORM, "segmentation")),
        Method("voxels", CLOSED_FORM, feature="voxels"),
        Method("volumes", CLOSED_FORM, feature="volumes", parents=_SEGMENTER),
        Method("network", CLOSED_FORM, feature="network", parents=_SEGMENTER),
        Method("scratch", ("segmentation",), start="random"),
        Method("segmenter", ("segmentation",), start="segmenter2mm", parents=_SEGMENTER),
    )
}


def find_method(name: str, kind: str) -> Method:
    """A method by name. Raises VCMError for an unknown one, or one that cannot do such a task."""
    able = [m.name for m in METHODS.values() if kind in m.kinds]
    if name not in METHODS:
        raise VCMError(f"The method '{name}' is unknown: for a {kind} choose {', '.join(able)}.")
    if kind not in METHODS[name].kinds:
        raise VCMError(f"The method '{name}' cannot do a {kind}: choose {', '.join(able)}.")
    return METHODS[name]
