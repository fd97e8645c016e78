"""What `vcm segment fit` writes beside a segmenter."""

import json

from vcm.files import sha256
from vcm.segmentation import fit
from vcm.segmentation.labelled import LabelledBrain
from vcm.segmentation.segmenter import FewShotSegmenter


def test_scans_of_one_name_are_each_in_the_record(tmp_path, tiny_denoiser, phantom, monkeypatch):
    monkeypatch.setattr(fit, "load_denoisers", lambda folder: [tiny_denoiser])
    monkeypatch.setattr(fit, "label_table", lambda *a: {0: "background", 1: "one"})
    brain = phantom()
    read = LabelledBrain(brain.image, brain.labels)
    monkeypatch.setattr(fit, "read_labelled", lambda *a: read)
    monkeypatch.setattr(FewShotSegmenter, "fit", lambda *a: None)
    monkeypatch.setattr(FewShotSegmenter, "save_pretrained", lambda self, folder: folder.mkdir())
    scans, labels = (
        [tmp_path / subject / name for subject in ("sub-1", "sub-2")]
        for name in ("T1w.nii.gz", "dseg.nii.gz")
    )
    for path in scans + labels:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
    fit.fit_segmenter(scans, labels, tmp_path / "model", tmp_path, voices=["features"])
    record = json.loads((tmp_path / "model" / fit.RECORD).read_text())
    for key, paths in (("Scans", scans), ("Labels", labels)):
        assert record[key] == [{"name": path.name, "sha256": sha256(path)} for path in paths]
