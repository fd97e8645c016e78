"""How thick slices are, by the JSON file beside a scan."""

import json
import warnings

import pytest

from vcm.errors import VCMWarning
from vcm.imaging.sidecar import told_thickness


def beside(folder, text):
    (folder / "sub-1_T2w.json").write_text(text, "utf-8")
    return folder / "sub-1_T2w.nii.gz"


def test_it_is_read_of_the_file_of_the_same_name(tmp_path):
    scan = beside(tmp_path, json.dumps({"SliceThickness": 3, "EchoTime": 0.1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert told_thickness(scan, 3.3) == 3.0
        assert told_thickness(tmp_path / "sub-2_T2w.nii.gz", 3.3) is None
        assert told_thickness(beside(tmp_path, "{}"), 3.3) is None


@pytest.mark.parametrize(
    "text",
    ['{"SliceThickness": 1}', '{"SliceThickness": 90}', '{"SliceThickness": "thick"}', "[3]", "{"],
)
def test_what_cannot_be_is_not_used_and_said(tmp_path, text):
    with pytest.warns(VCMWarning, match="sub-1_T2w.json .*5 mm apart: it is not used"):
        assert told_thickness(beside(tmp_path, text), 5.0) is None
