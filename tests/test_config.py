from pathlib import Path

import pytest

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.training.autoencoder import AutoencoderTraining


def test_file_then_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("crop: 32\nsteps: 7\n")
    config = load_config(AutoencoderTraining, path, ["steps=9"])
    assert (config.crop, config.steps, config.batch_size) == (32, 9, 2)


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(VCMError, match="did you mean 'batch_size'"):
        load_config(AutoencoderTraining, None, ["batchsize=3"])
    with pytest.raises(VCMError, match="cannot be read"):
        load_config(AutoencoderTraining, None, ["steps=many"])


def test_a_configuration_is_a_file_a_name_or_an_option(tmp_path):
    from vcm.config import split_arguments

    assert split_arguments(["my.yaml", "steps=9"], None) == (Path("my.yaml"), ["steps=9"])
    path, rest = split_arguments(["brain2mm_classes"], None)
    assert path is not None and path.is_file() and rest == []
    assert split_arguments(["steps=9"], tmp_path) == (tmp_path, ["steps=9"])
    with pytest.raises(VCMError, match="did you mean 'brain2mm_classes'"):
        split_arguments(["brain2mm_class"], None)
    with pytest.raises(VCMError, match="Two configurations"):
        split_arguments(["my.yaml"], tmp_path)


def test_every_configuration_that_travels_along_can_be_read():
    """The schema refuses unknown keys; the header says purpose, command and hardware."""
    from vcm.training.diffusion import DiffusionTraining
    from vcm.training.module import ModuleTraining
    from vcm.training.segmenter import SegmenterTraining
    from vcm.upsampling.detail_training import DetailTraining

    schemas = {
        "autoencoder": AutoencoderTraining, "diffusion": DiffusionTraining,
        "segmenter": SegmenterTraining, "detail": DetailTraining,
    }  # fmt: skip
    folder = Path(__file__).parents[1] / "configs"
    found = sorted(folder.glob("*/*.yaml"))
    assert len(found) >= 5
    for path in found:
        schema = schemas.get(path.stem.split("_")[0], ModuleTraining)
        load_config(schema, path, [])
        text = path.read_text(encoding="utf-8")
        assert all(word in text for word in ("# Purpose:", "# Command:", "# Hardware:")), path
