"""Every notebook runs from top to bottom on the embedded model."""

import ast
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
    names: dict[str, object] = {"__shown__": []}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            _run("".join(cell["source"]), path.name, names)
    if path.stem == "01_synthesize":
        contrast = names["differences"]
        assert contrast[1.0] > contrast[0.0] + 0.2  # the ventricles of the example are narrow
        assert all((tmp_path / path).is_file() for path in names["paths"])
    if path.stem == "02_train":
        assert names["losses"]["steered"] < names["losses"]["frozen"]
        assert (tmp_path / "run" / "model" / "model_index.json").is_file()
    if path.stem == "03_upsample":
        assert names["errors"]["upsampled"] < names["errors"]["cubic"]
    if path.stem == "04_segment":
        assert all(value > 0.5 for value in names["overlap"].values())
    if path.stem == "05_few_shot":
        assert set(names["found"].values) >= {"mae"}
    shown = names["__shown__"]
    assert isinstance(shown, list) and all("<iframe" in html for html in shown) and shown


def _run(source: str, name: str, names: dict) -> None:
    """A cell; what its last value would show as HTML is kept, as Jupyter does."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    value = eval(compile(ast.Expression(last.value), name, "eval"), names) if last else None
    if hasattr(value, "_repr_html_"):
        names["__shown__"].append(value._repr_html_())
