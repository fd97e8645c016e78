from types import SimpleNamespace

import pytest

from vcm.errors import VCMError
from vcm.segmentation.suggest import rank_candidates


def subject(name, image):
    return SimpleNamespace(subject=name, image=lambda: image)


def test_the_odd_brain_is_suggested_last(phantom):
    brains = [subject(f"sub-{n}", phantom(shift=0.5 * n, seed=n).image) for n in range(3)]
    odd = phantom().image
    odd[8:24, 8:30, 8:16] *= 0.4  # what no warp can make of the others
    found = rank_candidates([subject("sub-odd", odd), *brains], others=3)
    assert found[-1].subject.subject == "sub-odd"
    assert found[-1].residual > 1.5 * found[0].residual


def test_the_draw_of_the_others_is_that_of_the_seed(phantom):
    brains = [subject(f"sub-{n}", phantom(shift=0.4 * n, seed=n).image) for n in range(4)]
    first, again = (rank_candidates(brains, others=1, seed=3) for _ in range(2))
    assert first == again


def test_two_brains_stand_for_nobody(phantom):
    brains = [subject("sub-1", phantom().image)] * 2
    with pytest.raises(VCMError, match="2 subjects are given, but three or more"):
        rank_candidates(brains, others=2)


@pytest.mark.parametrize("others", [0, -2])
def test_nobody_is_compared_with_nobody(phantom, others):
    brains = [subject(f"sub-{n}", phantom(seed=n).image) for n in range(3)]
    with pytest.raises(VCMError, match=f"others is {others}: choose 1 or more"):
        rank_candidates(brains, others=others)
