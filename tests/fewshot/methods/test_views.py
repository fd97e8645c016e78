import numpy as np
import pytest
import torch

from vcm.fewshot.methods.views import (
    bias_field,
    blurred,
    draw_curve,
    draw_factors,
    eroded,
    recontrasted,
    seen_otherwise,
    several_seen_otherwise,
)


@pytest.fixture
def image():
    made = torch.zeros(16, 16, 16)
    made[3:13, 3:13, 3:13] = torch.rand(10, 10, 10, generator=torch.manual_seed(0)) * 0.8 + 0.1
    return made


def test_a_view_stays_in_its_range_and_dark_outside(image):
    seen = [seen_otherwise(image, np.random.default_rng(n)) for n in range(20)]
    for view in seen:
        assert view.min() >= 0 and view.max() <= 1
        assert view[image == 0].abs().max() == 0
    assert len({round(float(v.mean()), 4) for v in seen}) == 20


def test_strength_0_leaves_noise_alone(image):
    view = seen_otherwise(image, np.random.default_rng(0), 0.0)
    assert (view - image).abs().max() < 0.3 and (view - image).abs().mean() < 0.03


def test_a_curve_keeps_or_turns_the_order_of_brightness(image):
    values = torch.linspace(0, 1, 50)
    signs = []
    for seed in range(40):
        curve, falling = draw_curve(np.random.default_rng(seed))
        steps = recontrasted(values.reshape(1, 50, 1, 1), curve[None], [falling]).flatten().diff()
        assert (steps > 0).all() or (steps < 0).all()
        signs.append(bool((steps > 0).all()))
    assert 0.7 < np.mean(signs) < 1


def test_a_blurred_view_loses_detail_and_keeps_its_mean():
    noise = torch.rand(16, 16, 16, generator=torch.manual_seed(1))
    spread = [
        float(blurred(noise, draw_factors(np.random.default_rng(n))).std()) for n in range(10)
    ]
    assert max(spread) < float(noise.std()) and min(spread) < 0.6 * float(noise.std())
    assert blurred(noise, draw_factors(np.random.default_rng(3))).mean() == pytest.approx(
        float(noise.mean()), abs=0.02
    )


def test_a_bias_field_is_smooth():
    nodes = np.random.default_rng(0).normal(0, 0.25, (1, 4, 4, 4))
    field = bias_field(torch.zeros(1, 32, 32, 32), nodes)[0]
    assert field.std() > 0.03
    assert field.diff(dim=0).abs().max() < 0.1


def test_an_eroded_mask_loses_its_border(image):
    left = eroded((image > 0)[None], 2)[0]
    assert left[5:11, 5:11, 5:11].all() and int(left.sum()) == 6**3


def test_several_views_are_those_of_each_image_alone(image, monkeypatch):
    """Noise apart, which torch draws."""
    monkeypatch.setattr("vcm.fewshot.methods.views.NOISIEST", 0.0)
    images = torch.stack([image * factor for factor in torch.linspace(0.2, 1, 24)])
    made = several_seen_otherwise(images, [np.random.default_rng(n) for n in range(24)])
    alone = [seen_otherwise(one, np.random.default_rng(n)) for n, one in enumerate(images)]
    assert torch.allclose(made, torch.stack(alone), atol=1e-6)
