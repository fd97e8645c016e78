"""What the 3D U-Net of a few-shot segmenter begins with."""

import pytest

from vcm.embedded import FOR_ANY, FOR_T1W
from vcm.errors import VCMError
from vcm.imaging.geometry import model_grid
from vcm.segmentation.start import AUTO, RANDOM, load_start


def test_slices_begin_with_a_network_that_knows_tissues_and_whole_labels_with_random_weights():
    grid = model_grid(2)
    assert load_start(AUTO, True, grid).net is None
    begun = load_start(AUTO, False, grid)
    assert begun.name == FOR_ANY and begun.net is not None and begun.checksums
    assert load_start(RANDOM, False, grid) == (None, RANDOM, None)
    assert load_start(FOR_T1W, True, grid).name == FOR_T1W


def test_a_network_of_other_voxels_is_refused_where_it_is_named_and_left_out_where_not():
    with pytest.raises(VCMError, match=r"trained on voxels of 2 mm, but .* on 1 mm: choose"):
        load_start(FOR_T1W, False, model_grid(1))
    assert load_start(AUTO, False, model_grid(1)).name == RANDOM


def test_a_network_that_is_none_is_refused(tmp_path):
    with pytest.raises(VCMError, match="holds no segmenter"):
        load_start(str(tmp_path), True, model_grid(2))
