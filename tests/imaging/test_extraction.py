"""Where the brain of a scan is: whether the skull is on is found; what a network says is checked."""

import numpy as np
import pytest
from scipy import ndimage

from vcm.errors import VCMError
from vcm.imaging import extraction
from vcm.imaging.extraction import find_brain
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume


@pytest.fixture(scope="module")
def brain() -> Volume:
    template = common_template()
    return template.with_data(np.where(template.data > 0.1, 100 * template.data, 0))


@pytest.fixture(scope="module")
def head(brain) -> Volume:
    """The template in a dark skull and bright fat, on noise as a scanner leaves it."""
    inside = brain.data > 0
    fluid, skull, fat = (ndimage.binary_dilation(inside, iterations=n) for n in (1, 4, 6))
    data = np.select([inside, fluid, skull, fat], [brain.data, 15, 5, 120], 0)
    noise = np.random.default_rng(0).normal(0, 3, (2, *data.shape))
    return brain.with_data(np.hypot(data + noise[0], noise[1]).astype(np.float32))


@pytest.fixture
def network_says(monkeypatch):
    """Let the network answer with a mask, or not be asked at all."""

    def says(mask) -> None:
        def answer(image):
            assert mask is not None, "the network was asked"
            return mask

        monkeypatch.setattr(extraction, "_deepbet", answer)
        monkeypatch.setattr(extraction, "find_spec", lambda name: None)

    return says


def test_a_brain_on_its_background_is_taken_as_it_is(brain, network_says):
    network_says(None)
    found = find_brain(brain)
    assert found.method == "background" and not found.is_found_here
    np.testing.assert_array_equal(found.mask, brain.data > 0)


def test_a_given_mask_is_taken_as_it_is(head, brain, network_says):
    network_says(None)
    given = brain.with_data((brain.data > 0).astype(np.uint8))
    assert find_brain(head, given).method == "mask MNI152"
    with pytest.raises(VCMError, match="resample the mask"):
        find_brain(head, Volume(given.data[1:], given.affine))


@pytest.mark.slow
def test_the_networks_find_the_brain_of_a_head(head, brain):
    found = find_brain(head)
    assert found.is_found_here and found.method == "deepbet 1.0.2"
    truth = brain.data > 0
    assert 2 * (found.mask & truth).sum() / (found.mask.sum() + truth.sum()) > 0.93


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda m: m & (np.indices(m.shape)[2] < 25), "mL look like brain, expected 900 to 2000"),
        (lambda m: ndimage.binary_dilation(m, iterations=5), "mL look like brain"),
        (lambda m: np.zeros_like(m), "0 mL look like brain"),
        (lambda m: m & (np.indices(m.shape)[1] % 30 > 2), "in pieces"),
    ],
)
def test_an_implausible_brain_is_refused(head, brain, network_says, spoil, fault):
    network_says(spoil(brain.data > 0))
    with pytest.raises(VCMError, match=f"was not found .*{fault}"):
        find_brain(head)


def test_a_slab_of_a_head_on_a_constant_background_is_no_brain(head, brain, network_says):
    """As after air was set to 0: it shows no more mL than a brain, but its network finds less."""
    slab = slice(28, 50)
    masked = np.where(head.data > 12, head.data, 0)[:, :, slab]
    cut = Volume(masked, head.affine, source="slab")
    network_says(ndimage.binary_erosion(brain.data[:, :, slab] > 0, iterations=2))
    assert (masked > 0).sum() * cut.grid.voxel_volume < extraction.MOST_EXTRACTED
    with pytest.raises(VCMError, match="slab was not found"):
        find_brain(cut)
    network_says(brain.data[:, :, slab] > 0)
    only = Volume(brain.data[:, :, slab], head.affine, source="part of a brain")
    assert find_brain(only).method == "background"
