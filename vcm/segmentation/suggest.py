"""Which subject to label: the one onto which, and from which, the others are warped best.

Registration of every candidate to a few others tells how well it stands for them; an atypical brain
leaves a large difference. Knows prepared subjects and arrays; nothing of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vcm.errors import VCMError
from vcm.imaging.atlas import residual
from vcm.imaging.prepared_set import Subject


@dataclass(frozen=True)
class Candidate:
    """A subject, and the root mean square that its warps onto others leave, in units of 0..1."""

    subject: Subject
    residual: float


def rank_candidates(
    subjects: Sequence[Subject],
    others: int,
    seed: int = 0,
    report: Callable[[], None] = lambda: None,
) -> list[Candidate]:
    """Subjects, the best one to label first.

    Args:
        subjects: To choose from; the ones that they are compared with are drawn from them too, the
            same for every candidate.
        others: How many are drawn.
        seed: Of the draw.
        report: Called after every candidate.

    Raises:
        VCMError: Fewer than three subjects, none to compare with, or voxels that differ.
    """
    if len(subjects) < 3:
        raise VCMError(
            f"{len(subjects)} subjects are given, but three or more are needed to tell which of them "
            "stands for the others."
        )
    if others < 1:
        raise VCMError(
            f"others is {others}: choose 1 or more, as each subject is compared with them."
        )
    drawn = np.random.default_rng(seed).permutation(len(subjects))[: others + 1]
    images = {int(n): subjects[int(n)].image() for n in drawn}
    first = next(iter(images.values()))
    found = []
    for n, subject in enumerate(subjects):
        moving = images.get(n)
        moving = subject.image() if moving is None else moving
        if moving.shape != first.shape:
            raise VCMError(
                f"{subject.subject} has {moving.shape} voxels and others {first.shape}: they were prepared for two "
                "models, so prepare all for one."
            )
        compared = [k for k in images if k != n][:others]
        found.append(
            Candidate(subject, float(np.mean([residual(images[k], moving) for k in compared])))
        )
        report()
    return sorted(found, key=lambda candidate: candidate.residual)
