import numpy as np
import pytest
import torch
from torch.nn import functional

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.configuration import Encoders
from vcm.fewshot.methods.catalogue import SEQUENCES_READ, WITH_SEQUENCES, find_method, for_task
from vcm.fewshot.methods.crops import Motion, crop_grid, nearest
from vcm.fewshot.methods.features import features
from vcm.fewshot.methods.model import probabilities
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.parents import Parent, load_parent, open_parents
from vcm.fewshot.methods.segmentation import start_network
from vcm.imaging.random_sequences import SEQUENCES
from vcm.nets.segmenter import TissueSegmenter


def test_it_is_the_tissue_segmenter_layer_by_layer():
    torch.manual_seed(0)
    theirs = TissueSegmenter((4, 8), groups=2).eval()
    ours = FewShotUNet(channels=(4, 8), groups=2).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 1, 8, 12, 16)
    assert torch.allclose(ours(image), theirs(image), atol=1e-5)


def test_it_folds_blocks_of_voxels_as_the_segmenter_does():
    torch.manual_seed(0)
    theirs = TissueSegmenter((4, 8), groups=2, patch=2).eval()
    ours = FewShotUNet(channels=(4, 8), groups=2, patch=2).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 1, 8, 12, 16)
    assert torch.allclose(ours(image), theirs(image), atol=1e-5)
    several = start_network(Parent(ours, "x"), ("t1", "t2", "pd"), 4)
    assert several(torch.rand(1, 3, 9, 8, 7)).shape == (1, 4, 9, 8, 7)
    first = "down.0.conv1.conv.weight"
    assert torch.allclose(
        several.state_dict()[first].unflatten(1, (3, 8)).sum(1), ours.state_dict()[first]
    )


def test_any_size_is_answered():
    net = FewShotUNet(2, 3, (4, 8, 8), groups=2).eval()
    assert net(torch.rand(1, 2, 5, 1, 9)).shape == (1, 3, 5, 1, 9)
    assert net.features(torch.rand(2, 2, 5, 1, 9)).shape == (2, 32)


def test_the_embedded_segmenter_is_a_start():
    parent = load_parent("segmenter2mm")
    start = parent.network.state_dict()
    net = start_network(parent, ("t1", "t2"), 4).state_dict()
    first = "down.0.conv1.conv.weight"
    assert torch.allclose(net[first].sum(1), start[first][:, 0])
    assert torch.equal(net["up.2.conv_block.conv2.conv.weight"],
                       start["up.2.conv_block.conv2.conv.weight"])  # fmt: skip
    assert net["out.conv.conv.weight"].shape[0] == 4


def test_a_start_of_several_inputs_is_the_parent_on_alike_ones_and_tells_others_apart():
    begun = load_parent("anysegmenter2mm")
    parent, net = begun.network, start_network(begun, ("t1", "t2", "pd"), 4)
    image, other = torch.rand(2, 1, 1, 16, 16, 16, generator=torch.manual_seed(0))
    level = torch.cat([image] * 3, 1)
    with torch.inference_mode():
        assert torch.allclose(net.levels(level)[-1], parent.levels(image)[-1], atol=1e-4)
        a, b = (
            net.levels(torch.cat(three, 1))[0]
            for three in ([image, other, image], [other, image, image])
        )
    assert (a - b).abs().mean() > 0.1 * a.abs().mean()


def voxelwise(weigh):
    """A network of two classes, of whose input a function is the first logit."""

    class Net(torch.nn.Module):
        settings, device = {"outputs": 2}, torch.device("cpu")

        def forward(self, image):
            return torch.cat([weigh(image), -image], 1)

    return Net()


@pytest.mark.parametrize("window", [0, 6, 8, 64])
def test_windows_of_a_network_that_sees_single_voxels_give_what_the_whole_gives(
    monkeypatch, window
):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 20, 9, 33)))
    net = voxelwise(lambda x: x)
    whole = probabilities(net, image)
    monkeypatch.setattr("vcm.fewshot.methods.model.WHOLE", 100)
    monkeypatch.setattr("vcm.fewshot.methods.model.WINDOW", 8)
    assert torch.allclose(whole, net(image).softmax(1).float(), atol=1e-6)
    for mirror in (False, True):
        found = probabilities(net, image, mirror, window)
        assert torch.allclose(found, whole, atol=1e-5)


def test_a_window_is_normalised_by_what_it_shows_alone():
    image = torch.from_numpy(np.random.default_rng(0).random((1, 1, 8, 8, 20))).float()
    image[..., 12:] *= 9
    net = voxelwise(
        lambda x: (x - x.mean((2, 3, 4), keepdim=True)) / x.std((2, 3, 4), keepdim=True)
    )
    total, weight = torch.zeros(1, 2, 8, 8, 20), torch.zeros(20)
    hat = 1 - 0.95 * torch.linspace(-1, 1, 8).abs()
    for start in (0, 4, 8, 12):
        total[..., start : start + 8] += hat * net(image[..., start : start + 8]).softmax(1)
        weight[start : start + 8] += hat
    assert torch.allclose(probabilities(net, image, window=8), total / weight, atol=1e-5)
    assert (probabilities(net, image) - total / weight).abs().max() > 0.05


@pytest.mark.parametrize(("size", "windows"), [((20, 20, 20), 4**3), ((40, 40, 40), 7**3)])
def test_where_there_are_many_windows_they_overlap_by_less(size, windows):
    read = []
    net = voxelwise(lambda x: read.append(len(x)) or x)
    found = probabilities(net, torch.zeros(1, 1, *size), window=8)
    assert sum(read) == windows and torch.allclose(found, torch.full((), 0.5))


def test_a_large_image_is_not_mirrored(monkeypatch):
    monkeypatch.setattr("vcm.fewshot.methods.model.WHOLE", 100)
    image = torch.rand(1, 1, 8, 8, 8)
    net = voxelwise(lambda x: x * torch.arange(8.0)[:, None, None])
    assert torch.allclose(probabilities(net, image, True, 8), net(image).softmax(1), atol=1e-6)


def test_with_its_mirror_image_a_scan_gets_the_mirrored_answer():
    torch.manual_seed(0)
    net, image = FewShotUNet(2, 3).eval(), torch.rand(1, 2, 16, 24, 8)
    with torch.inference_mode():
        found, of_mirror = (probabilities(net, i, mirror=True) for i in (image, image.flip(2)))
        alone = probabilities(net, image)
    assert torch.allclose(of_mirror, found.flip(2), atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(()), atol=1e-5)
    assert not torch.allclose(found, alone, atol=1e-3)


@pytest.mark.parametrize("name", [None, "segmenter2mm", "anysegmenter2mm"])
def test_a_start_has_a_class_for_background(name):
    parent = load_parent(name) if name else None
    assert start_network(parent, ("t1",), 3)(torch.rand(1, 1, 8, 8, 8)).shape[1] == 3


def test_labels_of_a_crop_are_those_of_the_nearest_voxel():
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, 5, (1, 21, 18, 30), dtype=np.uint8))
    for _ in range(5):
        centre, size = random.uniform(0, 20, 3), np.array(labels.shape[1:])
        grid = crop_grid(random, (16, 24, 8), centre, size, Motion(0.3, 0.2, 3.0), True)
        found = nearest(labels, grid)
        sampled = functional.grid_sample(labels[None].float(), grid, "nearest", align_corners=False)
        assert found.dtype == torch.uint8 and torch.equal(found.float(), sampled[0])
        assert (found == 0).any() and (found > 0).any()


def test_a_label_map_of_several_known_sequences_begins_with_the_network_that_reads_them():
    several = {"kind": "segmentation", "classes": ["a"]}
    method = find_method("anysegmenter", "segmentation")
    for inputs, start in (
        (["t1"], "anysegmenter"),
        (["t1", "t1ce", "t2", "flair"], WITH_SEQUENCES),
        (["flair", "t1"], WITH_SEQUENCES),
        (["t1", "dwi"], "anysegmenter"),
    ):
        assert for_task(method, task_from({**several, "inputs": inputs})).start == start


def test_a_network_of_several_sequences_goes_on_reading_those_of_the_task():
    method = for_task(
        find_method("anysegmenter", "segmentation"),
        task_from({"kind": "segmentation", "classes": ["a"], "inputs": ["flair", "t1"]}),
    )
    parent = open_parents([method], Encoders())[WITH_SEQUENCES]
    assert parent.sequences == SEQUENCES_READ == SEQUENCES
    net = start_network(parent, ("flair", "t1"), 2)
    flair, t1 = torch.rand(2, 1, 1, 16, 16, 16, generator=torch.manual_seed(0))
    nothing = torch.zeros_like(t1)
    with torch.inference_mode():
        ours = net.levels(torch.cat([flair, t1], 1))[-1]
        theirs = parent.network.levels(torch.cat([t1, nothing, nothing, flair], 1))[-1]
    assert torch.allclose(ours, theirs, atol=1e-4)
    with pytest.raises(VCMError, match="but the task reads dwi: choose anysegmenter"):
        start_network(parent, ("t1", "dwi"), 2)
    with pytest.raises(VCMError, match="reads 4 sequences side by side"):
        features("mae", {}, ("t1",), None, parent.network)
