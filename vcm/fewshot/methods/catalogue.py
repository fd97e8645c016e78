"""Which methods there are, what each looks at, and what its parents saw before the shots.

Knows names and the work to be done; the fitting is in closed_form.py and segmentation.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.methods.feature_names import FROZEN, STACKED, parts_of

#: The start of a network that reads several sequences side by side, and those that it knows.
WITH_SEQUENCES = "sequences"
SEQUENCES_READ = ("t1", "t1ce", "t2", "flair")
#: Starts of networks that learned from brains without their skull.
STARTS_OF_BRAINS = ("network", "anysegmenter", WITH_SEQUENCES)
CLOSED_FORM = ("classification", "regression")
#: Slots of a task whose tissues segmenter2mm knows.
_T1W_SLOTS = ("t1", "t1ce")


@dataclass(frozen=True)
class Method:
    """One method.

    kinds     of tasks that it can do
    feature   of a closed-form method: one of feature_names.FEATURES, or several, joined by +
    start     of a network: random, or the feature whose parent it starts from
    parents   what was seen, by whom, before any shot: printed in every table
    views     whether views of each shot join it, as other scanners and pipelines would have made it
    synthetic whether brains of the embedded model, with the ages and sexes it was told, join the shots
    """

    name: str
    kinds: tuple[str, ...]
    feature: str = ""
    start: str = ""
    parents: str = "none"
    synthetic: bool = False
    views: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Those of a closed-form method, one by one."""
        return parts_of(self.feature)


_SEGMENTER = "segmenter2mm: T1w scans and label maps of 133 IXI training subjects, no ages"
_ANY_SEGMENTER = (
    "anysegmenter2mm: scans of random contrast, with random lesions, made from T1w scans and label maps of 130 "
    "IXI and 42 ds002748 training subjects"
)
_SEQUENCE_SEGMENTER = (
    "sequences2mm: four sequences with simulated tumours and lesions, made from T1w scans and label maps of 130 IXI "
    "and 42 ds002748 training subjects"
)
_AUTOENCODER = "autoencoder of brain2mm: T1w scans of 118 IXI training subjects"
_DENOISER = "brain2mm: T1w scans, ages and sexes of 118 IXI training subjects"
#: What the parent of `mae` and `hybrid` is, where it is no segmenter.
PRETRAINED = "encoder pretrained on unlabelled scans"
_ANY = (*CLOSED_FORM, "segmentation")

METHODS = {
    m.name: m
    for m in (
        Method("mean", _ANY),
        Method("voxels", CLOSED_FORM, feature="voxels"),
        Method("local", CLOSED_FORM, feature="local"),
        Method("views", CLOSED_FORM, feature="coarse", views=True),
        Method("volumes", CLOSED_FORM, feature="volumes", parents=_SEGMENTER),
        Method("network", CLOSED_FORM, feature="network", start="network", parents=_SEGMENTER),
        Method("scratch", _ANY, start="random"),
        Method("segmenter", ("segmentation",), start="network", parents=_SEGMENTER),
        Method("anysegmenter", ("segmentation",), start="anysegmenter", parents=_ANY_SEGMENTER),
        Method("latents", CLOSED_FORM, feature="latents", parents=_AUTOENCODER),
        Method("denoiser", CLOSED_FORM, feature="denoiser", parents=_DENOISER),
        Method("untrained", _ANY, feature="untrained", start="untrained"),
        Method("mae", _ANY, feature="mae", start="mae", parents=PRETRAINED),
        Method("hybrid", _ANY, feature="hybrid", start="hybrid", parents=PRETRAINED),
    )
}


#: Ends the name of a method whose shots are joined by synthetic brains.
SYNTHETIC = "+synthetic"


def known_method(name: str) -> Method | None:
    """A method by name, `volumes+synthetic` and `volumes+local` included; None for an unknown one."""
    if name.endswith(SYNTHETIC):
        base = METHODS.get(name.removesuffix(SYNTHETIC))
        if base is None or not base.feature or base.views:
            return None
        parents = _DENOISER if base.parents == "none" else f"{base.parents}; {_DENOISER}"
        return replace(base, name=name, kinds=CLOSED_FORM, parents=parents, synthetic=True)
    return _stack(name) if STACKED in name else METHODS.get(name)


def _stack(name: str) -> Method | None:
    """The method that weighs several against each other; None where one of them reads no features."""
    found = [METHODS.get(part) for part in name.split(STACKED)]
    parts = [m for m in found if m is not None and m.feature and not m.views]
    frozen = sum(m.feature in FROZEN for m in parts)
    if len(parts) < len(found) or len({m.name for m in parts}) < len(parts) or frozen > 1:
        return None
    parents = dict.fromkeys(m.parents for m in parts if m.parents != "none")
    return Method(
        name, CLOSED_FORM, STACKED.join(m.feature for m in parts),
        parents="; ".join(parents) or "none",
    )  # fmt: skip


def for_task(method: Method, task: Task) -> Method:
    """The method as it reads a task.

    Tissues of scans that need not be T1w are found by anysegmenter2mm. A label map of several sequences, all of them
    known to sequences2mm, is begun with that in the place of anysegmenter2mm.
    """
    several = len(task.slots) > 1 and set(task.slots) <= set(SEQUENCES_READ)
    if method.start == "anysegmenter" and task.kind == "segmentation" and several:
        return replace(method, start=WITH_SEQUENCES, parents=_SEQUENCE_SEGMENTER)
    if "volumes" not in method.features or task.slots[0] in _T1W_SLOTS:
        return method
    read = ["anyvolumes" if f == "volumes" else f for f in method.features]
    parents = method.parents.replace(_SEGMENTER, _ANY_SEGMENTER)
    return replace(method, feature=STACKED.join(read), parents=parents)


def find_method(name: str, kind: str) -> Method:
    """A method by name. Raises VCMError for an unknown one, or one that cannot do such a task."""
    method = known_method(name)
    if method is not None and kind in method.kinds:
        return method
    able = ", ".join(m.name for m in METHODS.values() if kind in m.kinds)
    if kind in CLOSED_FORM:
        able += f"; those that read features may be joined (volumes+local), or one be followed by {SYNTHETIC}"
    if method is None:
        raise VCMError(f"The method '{name}' is unknown: for a {kind} choose {able}.")
    raise VCMError(f"The method '{name}' cannot do a {kind}: choose {able}.")
