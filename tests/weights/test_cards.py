"""Cards hold facts only, and every card can be read, shown and built."""

import json
from pathlib import Path

import pytest
import torch
from command_line import vcm

from vcm.diffusion.sampling import make_scheduler
from vcm.embedded import embedded_folder
from vcm.errors import VCMError
from vcm.weights.cards import PARTS, card_names, describe, load_card, read_card
from vcm.weights.importing import _class_of, to_grid

NAMES = [
    "brain1mm",
    "brain2mm",
    "brainldm",
    "brainldm-vcm",
    "maisi-ct",
    "maisi-mr",
    "maisi-mr-brain",
]
PUBLISHED = [name for name in NAMES if name not in ("brain1mm", "brain2mm")]


def test_the_models_known():
    assert card_names() == NAMES
    assert [load_card(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_card_builds_networks_that_fit_each_other(name):
    card = load_card(name)
    with torch.device("meta"):
        built = {part: _class_of(card, part)(**card.networks[part]) for part in card.networks}
    latent = built["autoencoder"].latent_shape
    assert built["denoiser"].net.out_channels == latent[0]
    factor = {size // cells for size, cells in zip(card.grid.shape, latent[1:], strict=True)}
    assert factor == {8 if card.family == "brainldm" else 4}
    assert card.files.keys() == card.networks.keys() <= set(PARTS)
    assert make_scheduler(**card.scheduler).config.num_train_timesteps == 1000
    assert set(card.ranges) == set(card.inputs)


def test_sizes_at_which_brainldm_was_published():
    card = load_card("brainldm-vcm")
    with torch.device("meta"):
        built = {part: _class_of(card, part)(**card.networks[part]) for part in PARTS}
    numbers = {part: sum(p.numel() for p in net.parameters()) for part, net in built.items()}
    assert numbers == {"autoencoder": 13_766_248, "denoiser": 553_168_899, "module": 45_220_134}
    for part, count in numbers.items():  # float32: the published sizes are these numbers
        assert card.files[part].megabytes == pytest.approx(4e-6 * count, rel=0.005)


def test_licences():
    for name in PUBLISHED:
        files = load_card(name).files
        for part, file in files.items():
            free = file.licence == "Apache-2.0"
            assert file.needs_acceptance is not free, (name, part)
            assert file.licence is not None or file.repo is None
    assert "Noncommercial" in str(load_card("maisi-mr").files["denoiser"].licence)
    assert "Open Model" in str(load_card("maisi-mr-brain").files["denoiser"].licence)


def test_vcm_has_its_own_latent_scale_on_the_same_files():
    plain, vcm = load_card("brainldm"), load_card("brainldm-vcm")
    assert (plain.latent_scale, vcm.latent_scale) == (1.0, 0.896264910697937)
    assert plain.files["denoiser"] == vcm.files["denoiser"]
    assert plain.networks["denoiser"] == vcm.networks["denoiser"]


def test_grids_lie_as_their_cards_say():
    brain = to_grid(load_card("brainldm").grid)
    small = to_grid(load_card("brain2mm").grid)
    assert brain.orientation == "LAS" and brain.spacing == (1, 1, 1)
    assert brain.centre.tolist() == small.centre.tolist() == [0, -18, 6]
    mr = to_grid(load_card("maisi-mr-brain").grid)
    assert mr.orientation == "RAS" and mr.spacing == (0.8, 1, 1)


@pytest.mark.parametrize("name", ["brain1mm", "brain2mm"])
def test_the_card_of_an_embedded_model_says_what_its_folder_recommends(name):
    card, folder = load_card(name), embedded_folder(name)
    index = json.loads((folder / "model_index.json").read_text())
    recommended = {k: v for k, v in index["sampling"].items() if k in ("scheduler", "steps")}
    assert card.sampling == recommended
    assert card.grid.shape == index["grid"]["shape"] and card.conditions == index["conditions"]


def test_what_is_unknown_is_said():
    shown = describe(load_card("brainldm-vcm"))
    assert "licence unknown" in shown["module"] and "on no hub" in shown["module"]
    assert "centre unknown" in shown["grid"]
    assert "millilitres" in shown["notes"]
    assert "denoiser's file" in describe(load_card("maisi-ct"))["latent scale"]


def test_an_unknown_card_or_key_is_refused(tmp_path):
    with pytest.raises(VCMError, match="did you mean 'brainldm'"):
        load_card("brainlmd")
    with pytest.raises(VCMError, match="known are brain1mm, brain2mm"):
        load_card("x")
    text = (Path(__file__).parents[2] / "vcm" / "weights" / "cards" / "brainldm.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text + "lisence: free\n")
    with pytest.raises(VCMError, match="lisence"):
        read_card(tmp_path / "mine.yaml")


def test_list_and_show():
    listed = vcm("weights", "list").output
    assert all(f"{name}\tpublished" in listed for name in PUBLISHED)
    shown = vcm("weights", "show", "maisi-mr").output
    assert "Noncommercial" in shown and "to be accepted" in shown
