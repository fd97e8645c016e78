"""What a training run leaves behind, read back so that two runs can be compared bit for bit."""

import csv
import json

import torch
from safetensors.torch import load_file

from vcm.learning.run_folder import CHECKPOINT

WEIGHTS = "diffusion_pytorch_model.safetensors"


def weights_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def read_folder(folder):
    """Everything a run leaves behind, but for the minutes."""
    found = {str(p.relative_to(folder)): load_file(p) for p in folder.rglob(WEIGHTS)}
    for table in folder.glob("*.csv"):
        rows = list(csv.DictReader(table.open()))
        found[table.name] = [{k: v for k, v in row.items() if k != "minutes"} for row in rows]
    found["best.json"] = json.loads((folder / "best" / "best.json").read_text())
    found["losses"] = torch.load(folder / CHECKPOINT)["losses"]
    found["names"] = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
    return found


def same_folders(a, b):
    a, b = read_folder(a), read_folder(b)
    assert a["names"] == b["names"]
    for name in a:
        same = equal(a[name], b[name]) if name.endswith(WEIGHTS) else a[name] == b[name]
        assert same, name
