"""Synthetic brains of the embedded model, whose age and sex are known because it was told them.

Writes a folder of cases as any other task has them, each marked as synthetic, so that they can be added to
shots or serve as an example. Knows the sampler; nothing of methods.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vcm.errors import VCMError
from vcm.files import synthetic_mark, write_json, write_table
from vcm.imaging.volume import Volume, write_volume
from vcm.progress import track

#: What a label must be called to be known of a synthetic brain.
LABELS = ("age", "sex")
_RECIPE = "synthetic.json"


@dataclass(frozen=True)
class Recipe:
    """How synthetic brains are made.

    Attributes:
        count: How many.
        test: How many of them, the last, are of the split test.
        seed: Brain n has the seed `seed` + n.
        steps: Denoising steps.
        model: Name or folder of the model.
    """

    count: int
    test: int = 0
    seed: int = 0
    steps: int = 20
    model: str = "brain2mm"


def write_synthetic(folder: Path, recipe: Recipe) -> Path:
    """Make what is missing of a folder of synthetic brains; ages are spread evenly, sexes alternate.

    Args:
        folder: In BIDS layout, to be resumed if it is there.
        recipe: What to make.

    Raises:
        VCMError: The folder holds something else, or the model cannot be loaded.
    """
    kept = folder / _RECIPE
    if folder.exists() and not kept.is_file():
        raise VCMError(
            f"{folder} exists and holds no synthetic brains: choose another folder as out."
        )
    if kept.is_file() and json.loads(kept.read_text("utf-8"))["recipe"] != asdict(recipe):
        raise VCMError(
            f"{folder} holds synthetic brains that were made otherwise: choose another folder as out, "
            "or remove it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(kept, {**synthetic_mark(), "recipe": asdict(recipe)})
    names = [f"sub-synthetic{n:04}" for n in range(recipe.count)]
    missing = [n for n, name in enumerate(names) if not _scan(folder, name).is_file()]
    if missing:
        _sample(folder, names, missing, recipe)
    rows = []
    for number, name in enumerate(names):
        age, sex = covariates_of(number, recipe)
        split = "test" if number >= recipe.count - recipe.test else "train"
        rows.append({"participant_id": name, "age": f"{age:.1f}", "sex": sex, "split": split})
    write_table(folder / "participants.tsv", rows, list(rows[0]))
    return folder


def covariates_of(number: int, recipe: Recipe) -> tuple[float, str]:
    """Age [years] and sex of brain `number`, a function of the seed and the number alone.

    Ages lie within 22 to 80 years, the range of the embedded models.
    """
    random = np.random.default_rng((recipe.seed, number))
    return round(float(random.uniform(22, 80)), 1), "FM"[number % 2]


def _sample(folder: Path, names: list[str], missing: list[int], recipe: Recipe) -> None:
    from vcm.weights.load import load_pipeline

    pipeline = load_pipeline(recipe.model)
    pipeline.use_scheduler("auto")
    for number in track(missing, "Synthesizing"):
        age, sex = covariates_of(number, recipe)
        made = pipeline(
            num_inference_steps=recipe.steps, seed=recipe.seed + number, age=age, sex=sex,
            output_type="np",
        )  # fmt: skip
        volume = Volume(np.asarray(made.volumes[0, 0], np.float32), pipeline.volume_grid.affine)
        path = _scan(folder, names[number])
        path.parent.mkdir(parents=True, exist_ok=True)
        card = {**synthetic_mark(), "Age": age, "Sex": sex, "Seed": recipe.seed + number}
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), card)
        write_volume(volume, path, "synthetic")


def _scan(folder: Path, name: str) -> Path:
    return folder / name / "anat" / f"{name}_T1w.nii.gz"
