"""Published files in miniature: the weights by formula of tests/data/vcm_small.json, and a card for them."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from safetensors.torch import load_file

from vcm.weights.cards import load_card

DATA = Path(__file__).parents[1] / "data"
SMALL = json.loads((DATA / "vcm_small.json").read_text())
#: Name of a part -> name of its table in vcm_small.json.
TABLES = {"autoencoder": "ae", "denoiser": "unet", "module": "vcm"}
NETWORKS = {
    "autoencoder": {
        "channels": [8, 16, 16, 16],
        "latent_channels": 3,
        "groups": 8,
        "latent_shape": [4, 8, 4],
    },
    "denoiser": {
        "latent_channels": 3,
        "channels": [16, 32, 48],
        "attention": [False, True, True],
        "head_channels": [0, 32, 48],
        "groups": 16,
        "prediction_type": "epsilon",
    },
    "module": {
        "encoder_channels": [8, 16, 24],
        "encoder_groups": 8,
        "unet_channels": [16, 32, 48],
        "unet_groups": 16,
        "unet_out_channels": 16,
        "head_channels": 128,
    },
}


def small_card(name="brainldm-vcm"):
    """That card with the networks and the grid of the stored vectors, and no sums."""
    card = load_card(name)
    networks = {part: NETWORKS[part] for part in card.networks}
    return replace(card, networks=networks, files={}, grid=replace(card.grid, shape=[32, 64, 32]))


def formula_weights(shapes):
    """The stored formula: sorted names, sin(0.731 i + k), scaled by the tensor's rank."""
    filled = {}
    for k, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        value = torch.sin(0.731 * torch.arange(prod(shape), dtype=torch.float64) + k).view(shape)
        if len(shape) > 1:
            value = value / prod(shape[1:]) ** 0.5
        else:
            value = 0.1 * value + float("norm" in name and name.endswith("weight"))
        filled[name] = value.float()
    return filled


def published(part):
    """State dictionary of a part as released: small, under the names of monai-generative."""
    return formula_weights(SMALL["keys"][TABLES[part]])


def stored_vectors():
    return load_file(DATA / "vcm_small.safetensors")


def key_table(name):
    """Names and shapes at full size, tensors without memory."""
    shapes = json.loads((DATA / f"{name}_keys.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
