import pytest
import torch

from vcm.errors import VCMError
from vcm.nets.segmenter import TissueSegmenter


def test_it_names_every_voxel_and_survives_saving(tmp_path):
    torch.manual_seed(0)
    net = TissueSegmenter((8, 8, 16), groups=4).eval()
    image = torch.rand(2, 1, 16, 24, 8)
    logits = net(image)
    assert logits.shape == (2, 9, 16, 24, 8)
    classes = net.classes(image)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), logits.argmax(1))
    net.save_pretrained(tmp_path)
    again = TissueSegmenter.from_pretrained(tmp_path).eval()
    assert torch.equal(again(image), logits)
    modes = {p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(modes) == 1  # weights are read by whoever may read their configuration


def test_features_are_finite_and_tell_images_apart():
    torch.manual_seed(0)
    net = TissueSegmenter((8, 8, 16), groups=4).eval()
    image = torch.rand(3, 1, 16, 24, 8)
    image[2] = image[1].flip(0)
    features = net.features(image)
    assert features.shape == (3, 32)
    assert torch.isfinite(features).all()
    assert (features[:, 16:] >= 0).all()
    assert not torch.allclose(features[0], features[1])


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(VCMError, match="multiple of 4"):
        TissueSegmenter((8, 8, 16), groups=4)(torch.rand(1, 1, 16, 18, 8))
