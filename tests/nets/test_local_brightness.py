import numpy as np
import pytest
import torch
from other_device import plugged_in

from vcm.imaging.brightness import local_brightness as of_array
from vcm.nets.local_brightness import local_brightness


@pytest.fixture
def ball():
    """An image (40, 48, 36) of noise in a ball, 0 around it."""
    image = np.random.default_rng(0).uniform(0.2, 0.6, (40, 48, 36)).astype(np.float32)
    places = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in image.shape], indexing="ij")
    return image * (sum(p**2 for p in places) < 15**2)


def test_it_is_what_arrays_get(ball):
    # Far from the border, beyond which arrays are continued by their mirror image.
    ball = np.pad(ball, 20)
    with plugged_in() as device:
        made = local_brightness(torch.from_numpy(ball)[None, None].to(device)).cpu()[0, 0].numpy()
    assert made == pytest.approx(of_array(ball, 2.0), abs=1e-4)
    assert made.std() > 0.1


def test_a_linear_contrast_does_not_show_and_a_bias_field_hardly(ball):
    image, inside = torch.from_numpy(ball)[None, None], torch.from_numpy(ball > 0)
    assert torch.allclose(local_brightness((0.3 + 0.5 * image) * inside), local_brightness(image), atol=1e-3)  # fmt: skip
    assert torch.allclose(local_brightness((1 - image) * inside), -local_brightness(image), atol=1e-3)  # fmt: skip
    biased = image * torch.linspace(0.4, 1.6, 40)[:, None, None]

    def like_the_plain(made, plain):
        return float(torch.corrcoef(torch.stack([made[0, 0][inside], plain[0, 0][inside]]))[0, 1])

    assert like_the_plain(biased, image) < 0.85
    assert like_the_plain(local_brightness(biased), local_brightness(image)) > 0.95


def test_images_and_inputs_are_taken_one_by_one(ball):
    first, second = torch.from_numpy(np.stack([ball, ball[::-1].copy()]))
    both = local_brightness(torch.stack([first, second])[None])
    assert torch.allclose(both[0, 1], local_brightness(second[None, None])[0, 0], atol=1e-5)
    assert torch.equal(local_brightness(torch.zeros(1, 1, 8, 8, 8)), torch.zeros(1, 1, 8, 8, 8))


def test_half_precision_around_it_does_not_spoil_it(ball):
    image = torch.from_numpy(ball)[None, None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(local_brightness(image), local_brightness(image.clone()))
        assert local_brightness(image).dtype == torch.float32
    assert torch.allclose(local_brightness(image.half()), local_brightness(image), atol=0.05)
