"""The oracle of the flow is MONAI's RFlowScheduler, which MAISI was trained and released with."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from vcm.diffusion.sampling import (
    SCHEDULERS,
    check_scheduler,
    flow_shift,
    make_scheduler,
    sample,
)
from vcm.errors import VCMError


def monai_flow(shape: tuple[int, ...], steps: int, discrete: bool) -> RFlowScheduler:
    scheduler = RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=discrete,
        use_timestep_transform=True,
        base_img_size_numel=32**3,
    )
    scheduler.set_timesteps(steps, input_img_size_numel=math.prod(shape[-3:]))
    return scheduler


def monai_sample(velocity, noise, scheduler: RFlowScheduler) -> torch.Tensor:
    """Zhao et al.'s loop: v = z - noise, added."""
    z = noise
    for t, following in zip(scheduler.timesteps, [*scheduler.timesteps[1:], 0], strict=True):
        z, _ = scheduler.step(velocity(z, t), t, z, following)
    return z


def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Anything that depends on both, and on their order."""
    return torch.sin(3 * z + torch.as_tensor(t) / 200) - 0.3 * z


def seen_by(scheduler, steps: int) -> torch.Tensor:
    times = []
    sample(lambda z, t: times.append(t) or z, torch.zeros(1, 1, 2, 2, 2), scheduler, steps)
    return torch.stack(times)


@pytest.mark.parametrize("shape", [(16, 16, 16), (32, 32, 32), (40, 56, 40), (64, 64, 64)])
@pytest.mark.parametrize("steps", [1, 3, 10, 30])
@pytest.mark.parametrize("discrete", [False, True])
def test_the_steps_of_a_flow_are_those_of_monai(shape, steps, discrete):
    shift = flow_shift(shape)
    ours = seen_by(make_scheduler("flow", shift=shift), steps).double()
    theirs = monai_flow(shape, steps, discrete).timesteps.double()
    # MONAI rounds to half precision, 0.25 at most; if discrete, before the shift and down after it.
    rounding = 0.26 + (0.5 * max(shift, 1 / shift) + 1 if discrete else 0)
    assert (ours - theirs).abs().max() < rounding
    assert ours[0] == 1000 and (ours.diff() < 0).all()


@pytest.mark.parametrize(
    ("shape", "steps", "whole"),
    [
        ((16, 16, 16), 3, [1000, 500, 200]),
        ((32, 32, 32), 5, [1000, 800, 600, 400, 200]),
        ((64, 64, 64), 3, [1000, 800, 500]),
    ],
)
def test_where_monai_rounds_nothing_the_samples_are_equal(shape, steps, whole):
    theirs = monai_flow(shape, steps, discrete=False)
    assert theirs.timesteps.tolist() == whole
    noise = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    scheduler = make_scheduler("flow", shift=flow_shift((2, *shape)))
    ours = sample(lambda z, t: -velocity(z, t), noise, scheduler, steps)
    expected = monai_sample(velocity, noise, theirs)
    assert (ours - expected).norm() / expected.norm() < 1e-5
    unshifted = sample(lambda z, t: -velocity(z, t), noise, make_scheduler("flow"), steps)
    assert shape[0] == 32 or (unshifted - expected).norm() / expected.norm() > 1e-2


def test_a_flow_that_knows_the_way_ends_at_the_data():
    z = torch.randn(1, 2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, 2, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    found = sample(lambda z_t, t: noise - z, noise, make_scheduler("flow", shift=1.7), 7)
    torch.testing.assert_close(found, z)


def test_a_saved_flow_keeps_its_shift(tmp_path):
    make_scheduler("flow", shift=1.5).save_pretrained(tmp_path)
    again = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    assert torch.equal(seen_by(again, 4), seen_by(make_scheduler("flow", shift=1.5), 4))


@pytest.mark.parametrize("name", SCHEDULERS["epsilon"])
def test_an_epsilon_scheduler_ends_at_the_data_if_the_noise_is_known(name):
    """At each step the noise that would lead from z to z_t: every scheduler must arrive at z."""
    z = torch.full((1, 1, 2, 2, 2), 0.7)
    scheduler = make_scheduler(name)
    assert scheduler.config.timestep_spacing == "trailing"

    def epsilon(z_t, t):
        a = scheduler.alphas_cumprod[int(t)]
        return (z_t - a.sqrt() * z) / (1 - a).sqrt()

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(z.shape, generator=generator)
    found = sample(epsilon, noise, scheduler, 20, generator)
    # Trailing steps of ddim stop at the first step of training, where sigma is 0.04.
    torch.testing.assert_close(found, z, atol=0.1, rtol=0)


def test_a_scheduler_of_the_other_kind_is_refused():
    for steps_with, names in SCHEDULERS.items():
        for name in names:
            check_scheduler(name, steps_with)
    with pytest.raises(VCMError, match=r"'ddim' does not fit .* with flow: choose flow\."):
        check_scheduler("ddim", "flow")
    with pytest.raises(VCMError, match=r"'flow' does not fit .*: choose ddim, ddpm"):
        check_scheduler("flow", "epsilon")
    with pytest.raises(VCMError, match="choose ddim"):
        check_scheduler("heun", "epsilon")
    with pytest.raises(VCMError, match=r"'heun' is unknown: choose ddim, .*flow"):
        make_scheduler("heun")


def test_ddim_refuses_trailing_steps_that_drift():
    """diffusers steps back by 1000 // N: at N = 300 each step would end 0.33 before the next begins."""
    with pytest.raises(VCMError, match="choose 250 or 500"):
        seen_by(make_scheduler("ddim"), 300)
    assert len(seen_by(make_scheduler("ddim"), 250)) == 250
    assert len(seen_by(make_scheduler("ddim"), 30)) == 30
    assert len(seen_by(make_scheduler("ddim", timestep_spacing="leading"), 300)) == 300


@pytest.mark.parametrize("name", ["ddim", "dpm++", "dpm++-karras"])
@pytest.mark.parametrize("steps", [0, 1001])
def test_no_more_steps_than_the_model_has(name, steps):
    noise = torch.zeros(1, 1, 2, 2, 2)
    with pytest.raises(VCMError, match="choose 1 to 1000"):
        sample(lambda z, t: z, noise, make_scheduler(name), steps)
