"""Which prepared scans a training run takes, and what for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from vcm.errors import VCMError
from vcm.imaging.participants import SPLITS
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.inputs import with_complete_covariates


def choose_subjects(
    data: Sequence[str],
    needs: Sequence[str],
    max_samples: int | None,
    subset_seed: int,
    held_out: int,
) -> dict[str, list[Subject]]:
    """Scans by split: train, validation, test. Raises VCMError if too few are left.

    needs          covariates that a scan must have, see InputRule
    held_out       scans to validate with: of the split `validation`, or where there is none taken
                   out of `train`; never of `test`. 0: none
    max_samples    of train; subsets of one seed are nested, a smaller one part of every larger
    """
    everyone = load_prepared(*data)
    splits = {name: [s for s in everyone if s.split == name] for name in SPLITS}
    train = with_complete_covariates(splits["train"], needs)
    validation = splits["validation"][:held_out]
    if held_out and not validation:
        validation = shuffled(train, subset_seed + 1)[:held_out]
        names = {(s.folder, s.subject) for s in validation}
        train = [s for s in train if (s.folder, s.subject) not in names]
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
    return {
        "train": chosen,
        "validation": with_complete_covariates(validation, needs) if validation else [],
        "test": test_subjects(data, needs),
    }


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
    return with_complete_covariates(subjects, needs) if subjects else []


def shuffled(subjects: Sequence[Subject], seed: int) -> list[Subject]:
    """In an order of the seed and the names alone, whatever order they came in."""
    named = sorted(subjects, key=lambda s: (s.subject, str(s.folder)))
    return [named[i] for i in np.random.default_rng(seed).permutation(len(named))]
