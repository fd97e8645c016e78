import numpy as np
import pytest
import torch

from vcm.errors import VCMError
from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.segmentation.features import DiffusionFeatures, surroundings


def test_a_voxel_gets_the_activations_of_its_own_slice_and_pixel(tiny_denoiser, phantom):
    """Against the network asked of one whole slice, at full resolution, without any slab or mask."""
    image = phantom().image
    features = DiffusionFeatures(tiny_denoiser, time=0.2, blocks=[2], surroundings=False)
    found = features(image)
    n, width = 12, tiny_denoiser.feature_channels([2])
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in image.shape]
    for axis in range(3):
        others = [axes[k] for k in range(3) if k != axis]
        plane = list(np.meshgrid(*others, indexing="ij"))
        plane.insert(axis, np.full_like(plane[0], axes[axis][n]))
        clean = torch.from_numpy(image.take(n, axis))[None, None] * 2 - 1
        with torch.no_grad():
            whole = tiny_denoiser.features(
                clean, torch.tensor([0.2]), torch.tensor([axis]),
                torch.from_numpy(np.stack(plane))[None], [2],
            )[0][0]  # fmt: skip
        inside = (image > 0).take(n, axis)
        full = np.zeros((*image.shape, width), np.float32)
        full[image > 0] = found[:, axis * width : (axis + 1) * width]
        np.testing.assert_allclose(
            full.take(n, axis)[inside], whole.permute(1, 2, 0).numpy()[inside], atol=5e-3
        )


def test_counts(tiny_denoiser, phantom):
    features = DiffusionFeatures(tiny_denoiser)
    found = features(phantom().image)
    assert found.shape == (int((phantom().image > 0).sum()), features.count)
    assert np.isfinite(found).all()
    assert features.bytes_for(len(found)) == found.nbytes


def test_noise_is_that_of_the_seed(tiny_denoiser, phantom):
    image = phantom().image
    a, b, c = (
        DiffusionFeatures(tiny_denoiser, noisy=True, surroundings=False, seed=s)(image)
        for s in (0, 0, 1)
    )
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_surroundings_hold_the_intensity_of_the_voxel_itself_and_its_neighbour(phantom):
    image = phantom().image
    mask = np.zeros(image.shape, bool)
    mask[10, 20, 12] = True
    found = surroundings(image, mask)[0]
    assert found[62] == np.float16(image[10, 20, 12])  # the middle of 5 x 5 x 5
    assert found[63] == np.float16(image[10, 20, 13])
    place = found[-21:-18].astype(float)
    np.testing.assert_allclose(
        place, [2 * 10 / 31 - 1, 2 * 20 / 39 - 1, 2 * 12 / 23 - 1], atol=1e-3
    )


def test_one_network_per_view_is_one_network_of_three(tmp_path, phantom):
    torch.manual_seed(0)
    for view in ("sagittal", "coronal", "axial"):
        net = SliceDenoiser((8, 8), groups=4, head_channels=8, views=[view])
        net.save_pretrained(tmp_path / view)
    features = DiffusionFeatures.from_pretrained(tmp_path)
    assert features.views == ["sagittal", "coronal", "axial"]
    assert features(phantom().image).shape[1] == features.count


def test_wrong_values_are_refused(tiny_denoiser, tmp_path):
    with pytest.raises(VCMError, match="blocks holds 3: this network has blocks 0 to 2"):
        DiffusionFeatures(tiny_denoiser, blocks=[3])
    with pytest.raises(VCMError, match="time is 1"):
        DiffusionFeatures(tiny_denoiser, time=1.0)
    with pytest.raises(VCMError, match="holds no slice diffusion model"):
        DiffusionFeatures.from_pretrained(tmp_path)
