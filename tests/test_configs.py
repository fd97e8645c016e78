"""The configurations that travel with the package: each loads, and its header says what it is for."""

from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vcm.cli.main import COMMANDS
from vcm.config import load_config

FOLDER = Path(__file__).parents[1] / "configs"
PATHS = sorted(FOLDER.glob("*/*.yaml"))


def command_of(path):
    """configs/train/x.yaml is for `vcm train`, configs/pretrain/detail_x.yaml for `vcm pretrain detail`;
    configs/fewshot holds studies."""
    first = path.parent.name
    words = (first,)
    if first != "train":
        words = (first, "study" if first == "fewshot" else path.stem.split("_")[0])
    return next(c for c in COMMANDS if c.words == words)


def test_none_is_lost():
    assert len(PATHS) >= 18 and {p.parent.name for p in PATHS} == {"train", "pretrain", "fewshot"}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_it_loads_and_says_what_it_is_for(path):
    command = command_of(path)
    load_config(command.schema, path)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    for word in ("Purpose", "Command", "Hardware", "Time", "Expected"):
        assert any(line.startswith(f"# {word}:") for line in header), f"{word} is missing"
    shown = " ".join(line.lstrip("# ") for line in header)
    assert f"{command.name} {path.stem} " in shown or f"-m {command.name} {path.stem} " in shown


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.schema is not None], ids=lambda c: "-".join(c.words)
)
def test_a_configuration_that_a_run_saved_is_one_again(command, tmp_path):
    """As a run folder holds it, infinity, nothing and numbers in scientific notation included."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(command.schema()).items()}
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    assert load_config(command.schema, path) == command.schema()
