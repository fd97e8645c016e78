"""The brain of a case with its skull: in which scan it is found, and that it is found once."""

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.fewshot.cases import brain_masks as module
from vcm.fewshot.cases.brain_masks import brain_mask, kept_brain_mask
from vcm.imaging.extraction import Brain
from vcm.imaging.volume import Volume

COARSE = np.diag([4.0, 4, 8, 1])


def scan(name, shape=(8, 8, 8), affine=None):
    affine = np.diag([4.0, 4, 4, 1]) if affine is None else affine
    return Volume(np.zeros(shape, np.float32), affine, source=name)


@pytest.fixture
def calls(monkeypatch):
    """Finds a brain in all but `bad` scans; a scan called `bare` has no skull."""
    asked = []

    def find_brain(image):
        asked.append(image.source)
        if image.source.startswith("bad"):
            raise VCMError(f"The brain of {image.source} was not found.")
        mask = np.zeros(image.data.shape, bool)
        mask[2:6, 2:6, 1:-1] = True
        method = "background" if image.source == "bare" else "deepbet 1.0.2"
        return Brain(mask, method, 1.0)

    monkeypatch.setattr(module, "find_brain", find_brain)
    monkeypatch.setattr(module, "shows_a_skull", lambda image: image.source == "head")
    monkeypatch.setattr(module, "_masks", {})
    return asked


def test_the_first_scan_tells_the_brain(calls):
    mask = brain_mask({"t1": scan("one"), "flair": scan("two")})
    assert mask.data.sum() == 4 * 4 * 6 and calls == ["one"]


def test_a_scan_without_a_skull_needs_no_mask(calls):
    assert brain_mask({"t1": scan("bare"), "flair": scan("bare too")}) is None


def test_a_skull_in_another_scan_is_taken_off_by_the_brain_of_the_first(calls):
    mask = brain_mask({"t1": scan("bare"), "flair": scan("head")})
    assert mask.data.sum() == 4 * 4 * 6 and calls == ["bare"]


def test_where_the_first_scan_shows_no_brain_the_next_one_does_on_the_voxels_of_the_first(calls):
    first = scan("bad", (8, 8, 4), COARSE)
    mask = brain_mask({"t1": first, "t2": scan("bad too"), "flair": scan("three")})
    assert mask.data.shape == first.data.shape and calls == ["bad", "bad too", "three"]
    # Slices 1 to 6 of 4 mm on slices of 8 mm: centres at 8 and 16 lie within, those at 0 and 24 too far out or at its end.
    assert mask.data[3, 3].tolist() == [0, 1, 1, 1] and not mask.data[0].any()


def test_a_case_without_a_brain_is_refused_in_the_words_of_its_first_scan(calls):
    with pytest.raises(VCMError, match="brain of bad was"):
        brain_mask({"t1": scan("bad"), "flair": scan("bad too")})


def test_a_brain_is_found_once_and_kept_where_the_cache_is(calls, tmp_path, monkeypatch):
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"one")
    cache = tmp_path / "cache"
    first = kept_brain_mask({"t1": scan("one")}, [file], cache)
    assert not cache.exists()
    cache.mkdir()
    again = kept_brain_mask({"t1": scan("one")}, [file], cache)
    monkeypatch.setattr(module, "_masks", {})
    read = kept_brain_mask({"t1": scan("one")}, [file], cache)
    assert calls == ["one"]
    for other in (again, read):
        np.testing.assert_array_equal(other.data, first.data)
    file.write_bytes(b"another")
    kept_brain_mask({"t1": scan("one")}, [file], cache)
    assert calls == ["one", "one"]


def test_that_a_scan_has_no_skull_is_kept_too(calls, tmp_path):
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"one")
    for _ in range(2):
        assert kept_brain_mask({"t1": scan("bare")}, [file], tmp_path) is None
    assert calls == ["bare"]
