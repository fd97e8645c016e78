"""What a few-shot task is: its kind, the sequences it reads, its classes. Knows no files of scans.

Light enough for a container: it imports neither networks nor scans.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vcm.errors import VCMError

KINDS = ("classification", "regression", "segmentation", "embedding")

#: Names of a sequence in file names and tables, in lower case, by its canonical name.
ALIASES = {
    "t1": ("t1", "t1w", "t1n"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
    "dwi": ("dwi", "b1000"),
    "adc": ("adc",),
    "t2s": ("t2s", "t2star", "t2starw"),
    "swi": ("swi",),
    "pd": ("pd", "pdw"),
}
SEQUENCES = tuple(ALIASES)
#: Words of a file name that say that a T1w scan was taken after a contrast agent.
_ENHANCED = ("ce", "gd", "gad", "gado", "gadolinium", "postcontrast", "post", "contrast")
#: Words that say that it was not.
_PLAIN = ("pre", "no", "non", "without")
#: Keys of a task in YAML or JSON.
TASK_KEYS = ("name", "kind", "inputs", "classes", "optional", "spacing", "lesions")
#: What a list in a task may hold.
_EXAMPLES = {"inputs": "t1, t2", "classes": "F, M", "optional": "t2", "spacing": "1, 1, 1"}
_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in aliases}


def sequence_name(text: str) -> str:
    """A sequence by any of its names -> its canonical name. Raises VCMError for an unknown one."""
    found = _CANONICAL.get(text.lower())
    if found is None:
        raise VCMError(f"The sequence '{text}' is unknown: use one of {', '.join(SEQUENCES)}.")
    return found


def words_of(stem: str) -> list[str]:
    """The words of a file name without its ending, in lower case.

    In BIDS, a hyphen joins the name of an entity and its value. Where hyphens alone part the words, as in
    BraTS-GLI-00001-000-t1c, the last word counts.
    """
    words = re.split(r"[_\s.]+", stem.lower())
    return words if len(words) > 1 else [words[0].rpartition("-")[2]]


def sequence_of_file(name: str) -> str | None:
    """The sequence that a file name tells, by whole tokens, the last that names one; else None.

    A BIDS entity ce-..., or a word such as gd, beside T1w means a contrast agent. t1ce is never read as t1.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    tokens = words_of(stem)
    named = [_CANONICAL[t] for t in tokens if t in _CANONICAL]
    if not named:
        return None
    worded = any(t in _ENHANCED for t in tokens) and not any(t in _PLAIN for t in tokens)
    contrast_agent = worded or any(t.startswith("ce-") for t in tokens)
    return "t1ce" if named[-1] == "t1" and contrast_agent else named[-1]


@dataclass(frozen=True)
class Task:
    """One task.

    kind       one of KINDS
    inputs     slots, each with the sequences that may fill it; the first of several is the usual one
    optional   slots (by their first sequence) that may stay empty
    classes    names of the classes; in a segmentation of labels 1, 2, ... without background
    spacing    [mm] that scans are resampled to; empty: the median of the training scans
    lesions    whether what is segmented may lie anywhere; None: found in the shots
    """

    name: str
    kind: str
    inputs: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    spacing: tuple[float, ...] = field(default=())
    lesions: bool | None = None

    def __post_init__(self) -> None:
        if set(self.name) & set("/\\") or self.name in ("", ".", ".."):
            raise VCMError(
                f"The task is called '{self.name}', but its runs are folders of that name: leave out slashes."
            )
        if self.kind not in KINDS:
            raise VCMError(f"The kind '{self.kind}' is unknown: choose one of {', '.join(KINDS)}.")
        if not self.inputs:
            raise VCMError(f"The task {self.name} has no inputs: name a sequence, for instance t1.")
        if self.kind != "embedding" and any("input" in options for options in self.inputs):
            raise VCMError(
                f"The task {self.name} reads 'input', a scan of any sequence, as an embedding alone does: name the "
                f"sequence of its scans, one of {', '.join(SEQUENCES)}."
            )
        if self.kind in ("classification", "segmentation") and not self.classes:
            raise VCMError(f"The task {self.name} is a {self.kind} without classes: name them.")
        if self.kind == "classification" and len(self.classes) < 2:
            raise VCMError(f"The task {self.name} has one class: a classification needs two.")
        twice = [name for name in self.classes if self.classes.count(name) > 1]
        if twice:
            raise VCMError(
                f"The task {self.name} has the class {twice[0]} twice: give every class a name of its own."
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the inputs: the first sequence that may fill each."""
        return tuple(options[0] for options in self.inputs)

    def fill(self, sequences: Collection[str], case: str) -> dict[str, str]:
        """Slot -> the sequence of a case that fills it.

        Raises:
            VCMError: a required slot stays empty.
        """
        filled = {}
        for options in self.inputs:
            there = [s for s in options if s in sequences]
            if there:
                filled[options[0]] = there[0]
            elif options[0] not in self.optional:
                wanted = " or ".join(options)
                raise VCMError(
                    f"{case} has no {wanted} (it has {', '.join(sequences) or 'no scans'}), which "
                    f"{self.name} needs: add the scan, leave the case out, or list {options[0]} under "
                    "optional."
                )
        if not filled:
            raise VCMError(f"{case} has none of the sequences that {self.name} reads.")
        return filled

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def task_from(values: Mapping[str, Any], name: str = "task") -> Task:
    """A task from a mapping, as YAML or JSON gives it; an input is a sequence or {one_of: [...]}.

    Raises:
        VCMError: a key or a value is unknown.
    """
    for key in values:
        if key not in TASK_KEYS:
            raise VCMError(f"'{key}' is not a key of a task: valid are {', '.join(TASK_KEYS)}.")
    for key in ("kind", "inputs"):
        if key not in values:
            raise VCMError(f"The task {values.get('name', name)} does not say its {key}: add it.")
    spacing = _listed("spacing", values.get("spacing"))
    spacing = spacing * 3 if len(spacing) == 1 else spacing
    sizes = [float(s) for s in spacing if isinstance(s, int | float)]
    if len(spacing) not in (0, 3) or len(sizes) < len(spacing) or not _all_within(sizes):
        raise VCMError(f"spacing is {spacing}: give one or three sizes in mm, for instance 1.0.")
    lesions = values.get("lesions")
    if lesions is not None and (not isinstance(lesions, bool) or values["kind"] != "segmentation"):
        raise VCMError(
            f"lesions is {lesions} in a {values['kind']}: write true or false, for a segmentation alone."
        )
    return Task(
        str(values.get("name", name)),
        str(values["kind"]),
        tuple(_slot(entry) for entry in _listed("inputs", values["inputs"])),
        tuple(str(c) for c in _listed("classes", values.get("classes"))),
        tuple(_sequence(s) for s in _listed("optional", values.get("optional"))),
        tuple(sizes),
        lesions,
    )


def _all_within(sizes: Sequence[float]) -> bool:
    """Whether voxels of a brain scan may have these sizes [mm]."""
    return all(0.05 <= s <= 20 for s in sizes)


def _listed(key: str, value: Any) -> list[Any]:
    """The value of a key that takes several; one alone needs no brackets."""
    if value is None:
        return []
    if any(isinstance(v, bool) for v in (value if isinstance(value, list) else [value])):
        raise VCMError(
            f"{key} hold yes, no, true or false, which YAML reads as truth: put them in quotes."
        )
    if isinstance(value, str | int | float) or (key == "inputs" and isinstance(value, Mapping)):
        return [value]
    if not isinstance(value, Sequence):
        raise VCMError(f"{key} is {value}: give a list, for instance {key}: [{_EXAMPLES[key]}].")
    return list(value)


def _slot(entry: Any) -> tuple[str, ...]:
    if isinstance(entry, Mapping):
        if list(entry) != ["one_of"] or not entry["one_of"]:
            raise VCMError(
                f"The input {dict(entry)} is unknown: write a sequence or one_of: [...]."
            )
        entry = entry["one_of"]
    return tuple(map(_sequence, [entry] if isinstance(entry, str) else entry))


def _sequence(name: str) -> str:
    return "input" if name == "input" else sequence_name(name)
