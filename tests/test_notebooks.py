"""Every notebook runs from top to bottom on the embedded model."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
    if path.stem == "01_synthesize":
        contrast = names["differences"]
        assert contrast[1.0] > contrast[0.0] and contrast[1.0] > 0.3
        assert all((tmp_path / path).is_file() for path in names["paths"])
    if path.stem == "02_train":
        assert names["losses"]["steered"] < names["losses"]["frozen"]
        assert (tmp_path / "run" / "model" / "model_index.json").is_file()
    if path.stem == "03_upsample":
        assert names["errors"]["upsampled"] < names["errors"]["cubic"]
