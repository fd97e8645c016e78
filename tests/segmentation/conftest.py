import numpy as np
import pytest
import torch

from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.segmentation.features import DiffusionFeatures
from vcm.segmentation.labelled import LabelledBrain


@pytest.fixture(scope="session")
def tiny_denoiser():
    """Random weights, few channels."""
    torch.manual_seed(0)
    return SliceDenoiser((8, 8, 16), groups=4, head_channels=8).eval()


@pytest.fixture(scope="session")
def tiny_features(tiny_denoiser):
    return DiffusionFeatures(tiny_denoiser)


@pytest.fixture(scope="session")
def phantom():
    """An ellipsoid with three balls of different brightness in it; classes 0..3."""

    def make(shift=0.0, seed=0):
        shape = (32, 40, 24)
        at = np.indices(shape) - (np.array(shape) / 2 + shift)[:, None, None, None]
        brain = ((at / np.array([13, 17, 10])[:, None, None, None]) ** 2).sum(0) < 1
        image, labels = np.where(brain, 0.5, 0.0), np.zeros(shape, np.int16)
        balls = (((-5, 6, 0), 0.85), ((5, 6, 0), 0.85), ((0, -7, 1), 0.25))
        for k, (centre, value) in enumerate(balls, start=1):
            ball = ((at - np.array(centre)[:, None, None, None]) ** 2).sum(0) < 4.2**2
            image[ball], labels[ball] = value, k
        noise = np.random.default_rng(seed).normal(0, 0.01, shape)
        image = np.where(brain, np.clip(image + noise, 0.05, 1), 0).astype(np.float32)
        return LabelledBrain(image, labels, "phantom")

    return make
