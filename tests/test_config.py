import pytest

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.tasks.pretrain_autoencoder import AutoencoderTraining


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
