"""A study without data: the task `example`, brains of the embedded model whose age is known.

Knows what the example consists of; nothing of methods.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from vcm.fewshot.cases.synthetic import Recipe, write_synthetic
from vcm.fewshot.configuration import EXAMPLE, FewShotStudy
from vcm.fewshot.preflight import is_example

#: Its name in tables and pictures.
_SHOWN = "synthetic brains, age"
#: 40 brains, the last 14 for testing.
RECIPE = Recipe(40, test=14, seed=1000)


def with_example(config: FewShotStudy) -> FewShotStudy:
    """The configuration with the task `example`, if it is named, as a file beside its brains.

    A file of that name is taken for what it is.

    Raises:
        VCMError: the folder of the study holds other brains.
    """
    if not any(map(is_example, config.tasks)):
        return config
    folder = Path(config.out) / EXAMPLE
    brains = write_synthetic(folder / "brains", RECIPE)
    task = {
        "name": _SHOWN, "kind": "regression", "inputs": ["t1"], "label": "age",
        "train": {"data": brains.name, "split": "train"},
        "tests": {"other synthetic brains": {"data": brains.name, "split": "test"}},
    }  # fmt: skip
    file = folder / "age.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(task)), encoding="utf-8")
    return replace(config, tasks=[str(file) if t == EXAMPLE else t for t in config.tasks])
