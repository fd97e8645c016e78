import base64
import gzip

import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.volume import Volume
from vcm.report.layers import Layer, encode_layers

AFFINE = np.array([[-1.0, 0, 0, 40], [0, 1.5, 0, -60], [0, 0, 2, 7], [0, 0, 0, 1]])


def decoded(encoded) -> nib.Nifti1Image:
    """The volume as the page's script makes it of what is written."""
    file = bytearray(gzip.decompress(base64.b64decode(encoded.base64)))
    if encoded.is_predicted:
        nx, ny, _ = nib.Nifti1Header(bytes(file[:348])).get_data_shape()
        for at in range(len(file) - 352):
            left = file[352 + at - 1] if at % nx else 0
            up = file[352 + at - nx] if at // nx % ny else 0
            file[352 + at] = (file[352 + at] + ((left + up + 1) >> 1)) % 256
    return nib.Nifti1Image.from_bytes(bytes(file))


def volume(shape=(12, 14, 10), seed=0, low=0.0) -> Volume:
    random = np.random.default_rng(seed)
    return Volume(random.uniform(low, 900, shape).astype(np.float32), AFFINE)


def test_an_image_keeps_its_values_to_half_a_grey_level_and_its_place():
    given = volume()
    (encoded,), note = encode_layers([Layer("scan", given)])
    shown = decoded(encoded)
    assert note == ""
    assert shown.get_data_dtype() == np.uint8
    np.testing.assert_allclose(shown.affine, AFFINE)
    inside = given.data <= encoded.high
    step = (encoded.high - encoded.low) / 255
    difference = np.abs(np.asarray(shown.dataobj) - given.data)[inside]
    assert difference.max() <= step / 2 + 1e-3


def test_no_difference_is_exactly_zero_and_signs_are_kept():
    data = np.zeros((5, 5, 5), np.float32)
    data[0], data[4] = -3, 3
    (encoded,), _ = encode_layers([Layer("d", Volume(data, AFFINE), "difference")])
    shown = np.asarray(decoded(encoded).dataobj)
    np.testing.assert_allclose(shown, data, atol=1e-6)


def test_labels_beyond_8_bits_keep_their_names():
    data = np.zeros((4, 4, 4), np.int32)
    data[0], data[1] = 17, 2035
    names = {17: "hippocampus", 2035: "insula"}
    (encoded,), _ = encode_layers([Layer("l", Volume(data, AFFINE), "labels", names)])
    assert encoded.names == ("background", "hippocampus", "insula")
    shown = decoded(encoded)
    assert int(shown.header["intent_code"]) == 1002
    assert [int(np.asarray(shown.dataobj)[k, 0, 0]) for k in range(3)] == [1, 2, 0]
    assert len(set(encoded.colours)) == 3


def test_more_labels_than_colours_keep_the_largest():
    data = np.arange(512).reshape(8, 8, 8)
    data[data < 100] = 511
    (encoded,), _ = encode_layers([Layer("l", Volume(data, AFFINE), "labels")])
    assert len(encoded.names) == 256
    assert "511" in encoded.names


def test_volumes_that_are_too_large_are_shown_coarser_and_the_page_says_so():
    layers = [Layer("noise", volume((60, 60, 60), seed)) for seed in range(2)]
    whole, _ = encode_layers(layers)
    limit = len(whole[0].base64)
    coarser, note = encode_layers(layers, limit)
    assert sum(len(e.base64) for e in coarser) <= limit
    assert "grey levels" in note
    spacing = decoded(coarser[0]).header.get_zooms()
    assert spacing == pytest.approx((2, 3, 4))


def test_the_same_volume_gives_the_same_bytes():
    first, second = (encode_layers([Layer("scan", volume())])[0][0].base64 for _ in range(2))
    assert first == second


def test_values_that_are_cut_off_are_known():
    data = volume().data.copy()
    data[3, 3, 3], data[4, 4, 4] = -500, 5000
    (encoded,), _ = encode_layers([Layer("scan", Volume(data, AFFINE))])
    assert encoded.cut == (True, True)
    even = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10).round(1)
    (encoded,), _ = encode_layers([Layer("scan", Volume(even, AFFINE))])
    assert encoded.cut == (False, False)


def test_labels_that_are_left_out_are_counted_in_the_note():
    data = np.arange(512).reshape(8, 8, 8)
    (encoded,), note = encode_layers([Layer("atlas", Volume(data, AFFINE), "labels")])
    assert encoded.left_out == 256
    assert note == "Of atlas the 255 labels with most voxels are shown, 256 are not."


@pytest.mark.parametrize("kind", ["image", "uncertainty", "difference"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_has_no_grey_is_refused(kind, value):
    data = volume().data.copy()
    data[2, 2, 2] = value
    with pytest.raises(VCMError, match="scan holds 1 voxels that are NaN or infinite"):
        encode_layers([Layer("scan", Volume(data, AFFINE), kind)])
