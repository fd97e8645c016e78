import pytest

from vcm.errors import VCMError
from vcm.synthesis.configuration import parse_seeds


def test_seeds_are_ranges_and_numbers_each_once():
    assert parse_seeds("0-3") == [0, 1, 2, 3]
    assert parse_seeds("1,5, 9") == [1, 5, 9]
    assert parse_seeds("2,0-2") == [2, 0, 1]


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,", "-1", "1.5", "0-99999999", "9" * 20])
def test_seeds_that_make_no_sense_are_refused(text):
    with pytest.raises(VCMError, match=f"seeds is '{text}'"):
        parse_seeds(text)
