"""Settings that contradict each other."""

import pytest

from vcm.errors import VCMError
from vcm.upsampling.checks import refuse_output, refuse_several, refuse_whole_head


@pytest.mark.parametrize(
    ("scans", "detail", "consistency", "words"),
    [
        (2, True, True, "2 scans are given: leave whole_head out, or give one scan"),
        (1, False, True, "detail is none: leave whole_head out, or name a detail network"),
        (1, True, False, "consistency is false: leave whole_head out"),
    ],
)
def test_detail_outside_the_brain_that_nothing_would_add_is_refused(
    scans, detail, consistency, words
):
    with pytest.raises(VCMError, match=words):
        refuse_whole_head(True, scans, detail, consistency)
    refuse_whole_head(False, scans, detail, consistency)


def test_a_network_and_one_scan_add_it():
    refuse_whole_head(True, 1, True, True)


def test_scans_that_nothing_would_combine_are_refused():
    """Without the projection all but the first would be read, registered and left out."""
    with pytest.raises(VCMError, match="2 scans are given, and consistency is false"):
        refuse_several(2, consistency=False)
    refuse_several(2, consistency=True)
    refuse_several(1, consistency=False)


def test_a_sample_has_no_detail_outside_the_brain():
    with pytest.raises(VCMError, match="output is sample, which is interpolated outside"):
        refuse_output("sample", 1, whole_head=True)
    refuse_output("mean", 1, whole_head=True)
    refuse_output("sample", 1)
