"""Which prepared scans a training run takes, and what for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import numpy as np

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.imaging.participants import SPLITS
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.imaging.scan_checksums import check_apart
from vcm.imaging.source import MOST_NAMED
from vcm.inputs import with_complete_covariates


def choose_subjects(
    data: Sequence[str],
    needs: Sequence[str],
    max_samples: int | None,
    subset_seed: int,
    held_out: int,
) -> dict[str, list[Subject]]:
    """Scans by split: train, validation, test. None of a person is in train and another one held out of it.

    Args:
        data: Folders that vcm prepare wrote.
        needs: Covariates that a scan must have, see InputRule.
        max_samples: Of train; subsets of one seed are nested, a smaller one part of every larger. None:
            all of them.
        subset_seed: Of that choice.
        held_out: Scans to validate with: of the split `validation`, or where there is none taken out of
            `train`, from which all other scans of these persons are then left out; never of `test`. 0:
            none.

    Raises:
        VCMError: Too few scans are left, or one to measure on is trained on too.
    """
    everyone = load_prepared(*data)
    splits = {name: [s for s in everyone if s.split == name] for name in SPLITS}
    train = complete_scans(splits["train"], needs, "training")
    validation = splits["validation"] if held_out else []
    if validation:
        validation = complete_scans(validation, needs, "validation")[:held_out]
    elif held_out:
        validation = shuffled(train, subset_seed + 1)[:held_out]
        persons = {s.participant for s in validation}
        train = [s for s in train if s.participant not in persons]
    if max_samples is not None and not 1 <= max_samples <= len(train):
        raise VCMError(
            f"max_samples is {max_samples}, but {len(train)} scans can be trained on: choose 1 to "
            f"{len(train)}."
        )
    if not train:
        raise VCMError(
            f"No scan is left to train on after {len(validation)} are held out: lower "
            "validation_subjects, or prepare more scans."
        )
    chosen = train if max_samples is None else shuffled(train, subset_seed)[:max_samples]
    test = test_subjects(data, needs)
    check_apart(chosen, [*validation, *test])
    return {"train": chosen, "validation": validation, "test": test}


def test_subjects(data: Sequence[str], needs: Sequence[str] = ()) -> list[Subject]:
    """Scans to measure on at the end, of the split `test`; none, with a sentence, where there are none.

    Args:
        data: Folders that vcm prepare wrote.
        needs: Covariates; scans that lack one are left out.
    """
    subjects = [s for s in load_prepared(*data) if s.split == "test"]
    if not subjects:
        print(
            f"No scan of split 'test' in {', '.join(data)}, so nothing is measured at the end: name "
            "test scans in the column split of participants.tsv.",
            file=sys.stderr,
        )
    return complete_scans(subjects, needs, "test") if subjects else []


def complete_scans(subjects: Sequence[Subject], needs: Sequence[str], use: str) -> list[Subject]:
    """Scans of which all is known that the model is told; a VCMWarning counts the others and names some.

    Args:
        subjects: Of one split.
        needs: Covariates that a scan must have.
        use: What the scans are for, for the warning.

    Raises:
        VCMError: None is left.
    """
    kept = with_complete_covariates(subjects, needs)
    left = [s for s in subjects if any(getattr(s, name) is None for name in needs)]
    if left:
        lacking = [name for name in needs if any(getattr(s, name) is None for s in left)]
        warnings.warn(
            f"{len(left)} of {len(subjects)} {use} scans are left out (no {' or '.join(lacking)}): "
            f"{first_names([s.subject for s in left], MOST_NAMED)}. Complete participants.tsv of the source folder (and give "
            "label maps, or a segmenter), then prepare it again, where they are to be used.",
            VCMWarning,
            stacklevel=2,
        )
    return kept


def shuffled(subjects: Sequence[Subject], seed: int) -> list[Subject]:
    """In an order of the seed and the names alone, whatever order they came in."""
    named = sorted(subjects, key=lambda s: (s.subject, str(s.folder)))
    return [named[i] for i in np.random.default_rng(seed).permutation(len(named))]
