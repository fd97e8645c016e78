"""Label maps as a task names their classes."""

import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.label_maps import grouped, labels_on, warn_of_absent_classes
from vcm.fewshot.cases.tasks import Task
from vcm.imaging.volume import Volume

TASK = Task("tumour", "segmentation", (("t1",),), ("core", "oedema", "rim"))


def test_labels_are_grouped_or_refused():
    labels = Volume(np.tile(np.int32([0, 52, 51, 7]), (4, 4, 1)), np.eye(4))
    ventricles = {"ventricles": [51, 52]}
    assert grouped(labels, ventricles, 1)[0, 0].tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(
        labels_on(labels, labels.grid, ventricles, 1), grouped(labels, ventricles, 1)
    )
    with pytest.raises(VCMError, match="holds the label 52, but the task has 1 classes"):
        labels_on(labels, labels.grid, {}, 1)


def test_classes_that_no_map_has_are_named(recwarn):
    warn_of_absent_classes(TASK, [[0, 1], [2, 3]], "of the 2 shots")
    assert not recwarn
    with pytest.warns(VCMWarning, match=r"of the 2 shots of tumour has a voxel of core, rim, so"):
        warn_of_absent_classes(TASK, [[0, 2], [0]], "of the 2 shots")
