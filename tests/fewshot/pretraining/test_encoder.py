import json
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from few_shot_brains import write_brains
from other_device import plugged_in
from safetensors.torch import load_file

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.configuration import Encoders, EncoderTraining
from vcm.fewshot.methods.catalogue import find_method
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.parents import describe_parents, load_parent, open_parents
from vcm.fewshot.methods.segmentation import start_network
from vcm.fewshot.pretraining.encoder import (
    EncoderObjective,
    go_on_from,
    pretrain_encoder,
    warn_of_chance,
)  # fmt: skip
from vcm.fewshot.pretraining.unlabelled import (
    UnlabelledScan,
    Views,
    ViewSampler,
    find_scans,
    hidden_blocks,
)  # fmt: skip
from vcm.files import read_table
from vcm.learning.batches import moved
from vcm.learning.run import TrainingRun
from vcm.nets.encoder import ScanEncoder
from vcm.nets.local_brightness import local_brightness
from vcm.weights.packing import pack

WEIGHTS = "encoder/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    return write_brains(tmp_path_factory.mktemp("brains"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("scans")


@pytest.fixture
def config(brains, tmp_path, cache):
    def made(out="run", **changes):
        settings = {
            "data": [str(brains)], "out": str(tmp_path / out), "cache": str(cache),
            "channels": [4, 8], "groups": 2, "crop": 16, "block": 4, "steps": 4, "batch_size": 2,
            "projection": 8, "checkpoint_every": 2, "mixed_precision": "no", "tracker": "none",
        }  # fmt: skip
        return EncoderTraining(**(settings | changes))

    return made


@pytest.mark.parametrize("objective", [pytest.param("mae", marks=pytest.mark.slow), "hybrid"])
def test_a_pretraining_that_was_killed_resumes_to_the_same_weights(config, monkeypatch, objective):
    measures = pretrain_encoder(config("whole", objective=objective))
    assert measures["hidden"] > 0
    keep = TrainingRun._checkpoint

    def killed(self, *state):
        keep(self, *state)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain_encoder(config("parts", objective=objective))
    monkeypatch.undo()
    last = config("parts", objective=objective)
    pretrain_encoder(last)
    whole, parts = (
        load_file(f"{config(name).out}/{WEIGHTS}") for name in ("whole", "parts")
    )  # fmt: skip
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any("project" in name for name in whole) == (objective == "hybrid")


def test_test_subjects_are_never_read_and_the_others_are_recorded(config, brains):
    pretrain_encoder(config(steps=1))
    seen = {row["case"] for row in read_table(Path(config().out, "encoder", "seen.tsv"))}
    assert seen == {f"sub-{n:02}" for n in range(16) if n % 4}
    origin = json.loads(Path(config().out, "origin.json").read_text())
    assert sorted(origin["scans"]) == sorted(f"{case} t1" for case in seen)


def test_an_encoder_is_a_start_and_gives_features(config):
    pretrain_encoder(config(steps=1))
    assert Path(config().out, "report.html").is_file()
    folder = f"{config().out}/encoder"
    parents = open_parents([find_method("mae", "regression")], Encoders(mae=folder))
    network = parents["mae"].network
    own = ScanEncoder.from_pretrained(folder).eval()
    image = torch.rand(1, 1, 16, 16, 16)
    assert torch.allclose(network(image), own(image)[0], atol=1e-5)
    assert network.features(image).shape == (1, network.feature_count)
    net = start_network(parents["mae"], ("t1",), 3)
    assert torch.equal(net.down[1].conv1.conv.weight, network.down[1].conv1.conv.weight)
    with pytest.raises(VCMError, match="add mae=FOLDER"):
        open_parents([find_method("mae", "regression")], Encoders())
    with pytest.raises(VCMError, match="holds no pretrained network"):
        load_parent("nowhere")


def test_tables_say_what_was_seen_by_an_encoder_and_by_a_segmenter_in_its_place(config):
    pretrain_encoder(config(steps=1))
    mae = find_method("mae", "segmentation")
    told = describe_parents(mae, Encoders(mae=f"{config().out}/encoder"))
    assert told.startswith("encoder pretrained on unlabelled scans: 12 scans, weights ")
    told = describe_parents(mae, Encoders(mae="anysegmenter2mm"))
    assert "with label maps: scans that it does not record, weights " in told


def test_an_encoder_of_local_brightness_reads_it_wherever_it_is_used(config):
    pretrain_encoder(config("local", steps=1, local_brightness=True))
    encoders = Encoders(mae=f"{config('local').out}/encoder")
    methods = [find_method(name, "regression") for name in ("mae", "untrained")]
    parents = open_parents(methods, encoders)
    own = ScanEncoder.from_pretrained(encoders.mae).eval()
    image = torch.rand(1, 1, 16, 16, 16)
    for parent in parents.values():
        network = parent.network
        other = FewShotUNet(**(network.settings | {"channels": network.channels, "local": False}))
        other.load_state_dict(network.state_dict())
        local = other.eval()(local_brightness(image))
        assert torch.allclose(network(image), local, atol=1e-5)
    assert torch.allclose(parents["mae"].network(image), own(local_brightness(image))[0], atol=1e-5)
    assert start_network(parents["mae"], ("t1", "t2"), 3).local
    # The untrained network is that of the encoder it is compared with, and known by how it reads.
    alone = open_parents(methods[1:], Encoders())["untrained"]
    assert parents["untrained"].network.channels == (4, 8)
    assert parents["untrained"].checksum != alone.checksum


def test_a_pretraining_goes_on_from_an_earlier_one_and_counts_what_that_saw(config, tmp_path):
    pretrain_encoder(config("first", steps=1))
    start = f"{config('first').out}/encoder"
    fewer = write_brains(tmp_path / "fewer", first=3)
    net = ScanEncoder((4, 8), 2, 8, 2)
    seen = go_on_from(start, net)
    earlier = ScanEncoder.from_pretrained(start).state_dict()
    assert all(torch.equal(w, earlier[n]) for n, w in net.state_dict().items() if n in earlier)
    assert len(seen) == 12
    second = config("second", steps=1, objective="hybrid", start=start, data=[str(fewer)])
    pretrain_encoder(second)
    rows = read_table(Path(second.out, "encoder", "seen.tsv"))
    assert len({r["sha256"] for r in rows}) == len(rows) > 12
    for changes in ({"local_brightness": True}, {"channels": [4, 16]}, {"patch": 1}):
        with pytest.raises(VCMError, match=r"is another one .*choose the same settings"):
            pretrain_encoder(config("third", start=start, **changes))
        assert not Path(config("third").out, "checkpoint.pt").exists()


def test_a_packed_encoder_says_what_it_saw_and_gives_nearly_the_same_features(config, tmp_path):
    pretrain_encoder(config(steps=1, objective="hybrid", local_brightness=True))
    whole = Path(config().out, "encoder")
    pack(whole, tmp_path / "half")
    parents = [load_parent(str(folder)) for folder in (whole, tmp_path / "half")]
    assert parents[0].seen == parents[1].seen and len(parents[0].seen) == 12
    assert parents[1].network.local
    image = torch.rand(1, 1, 16, 16, 16)
    there, here = (p.network.features(image) for p in parents)
    assert torch.allclose(there, here, atol=0.02)
    assert (tmp_path / "half" / "seen.tsv").is_file()


def test_a_contrast_that_was_not_learned_is_told(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss,contrast\n200,1,0.4\n400,1,1.0986\n", encoding="utf-8")
    with pytest.warns(VCMWarning, match=r"ended at 1.099, and 1.099 is chance"):
        warn_of_chance(log, 2)
    log.write_text("step,loss,contrast\n200,1,1.0986\n400,1,0.4\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_chance(log, 2)


def test_views_without_motion_lie_where_the_scan_does_or_its_mirror_image(brains, cache):
    scans, _ = find_scans([str(brains)], "train", "", cache)
    still, moved = (ViewSampler(scans, 2, 2, 0, 0.5, 8, 0.0, motion=m) for m in (0.0, 1.0))
    drawn = still.draw(np.random.default_rng(0))
    images = drawn.images.float()
    targets = still.make(drawn).targets
    # Shifted by half a voxel at most, as grid_sample reads the border.
    for target, image in zip(targets.flatten(0, 1), images.flatten(0, 1), strict=True):
        least = min((target - image).abs().mean(), (target - image.flip(0)).abs().mean())
        assert least < 1e-3
    away = moved.make(drawn).targets
    assert (away - images).abs().mean() > 10 * 1e-3


def test_the_untrained_encoder_is_the_same_every_time_and_as_large_as_the_configured_one():
    method = find_method("untrained", "regression")
    torch.manual_seed(1)
    first, again = (open_parents([method], Encoders())["untrained"] for _ in range(2))
    assert first.checksum == again.checksum and not first.seen
    settings = EncoderTraining()
    made = ScanEncoder(settings.channels, settings.groups, 0, settings.patch).unet
    shapes = [w.shape for w in made.state_dict().values()]
    assert [w.shape for w in first.network.state_dict().values()] == shapes


def test_the_loss_counts_every_voxel_and_tells_hidden_ones():
    net = ScanEncoder((4, 8), 2, patch=1)
    hidden = torch.zeros(1, 1, 8, 8, 8)
    hidden[..., :4] = 1
    targets = torch.rand(1, 1, 8, 8, 8)
    objective = EncoderObjective(net, None, 0, 0.2)
    losses = objective.losses(Views(targets * (1 - hidden), targets, hidden))
    with torch.no_grad():
        squared = (net(targets * (1 - hidden))[0] - targets).square()
    assert losses["loss"].item() == pytest.approx(squared.mean().item(), rel=1e-5)
    assert losses["hidden"].item() == pytest.approx(squared[..., :4].mean().item(), rel=1e-5)


def test_views_that_agree_cost_less_than_views_that_do_not():
    net = ScanEncoder((4, 8), 2, 8, patch=1)
    objective = EncoderObjective(net, None, 1.0, 0.2)
    scans = torch.rand(3, 1, 8, 8, 8) * torch.tensor([0.1, 0.5, 1.0])[:, None, None, None, None]
    none = torch.zeros(3, 2, 8, 8, 8)
    agree = torch.cat([scans, scans], 1)
    differ = torch.cat([scans, scans.roll(1, 0)], 1)
    same, other = (objective.losses(Views(x, x, none))["contrast"] for x in (agree, differ))
    assert same < other


def test_a_share_of_the_blocks_is_hidden_whole():
    hidden = hidden_blocks((16, 16, 12), 4, 0.5, [np.random.default_rng(0)])[0]
    assert hidden.shape == (16, 16, 12) and hidden.mean() == pytest.approx(0.5)
    blocks = hidden.unfold(0, 4, 4).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1))


def test_two_views_are_of_two_sequences_of_a_case_where_it_has_them(brains, cache):
    scans, _ = find_scans([str(brains)], "train", "", cache)
    first, second = (type(s)("one", q, s.known, s.file)
                     for s, q in zip(scans[:2], ("t1", "t2"), strict=True))  # fmt: skip
    drawn = ViewSampler([first, second], 1, 2, 16, 0.5, 4, 0.0).draw(np.random.default_rng(0))
    assert {scan.image().sum().item() for scan in (first, second)} == {
        image.sum().item() for image in drawn.images[0]
    }


def test_people_of_one_name_in_two_datasets_are_never_a_pair(tmp_path, cache):
    folders = [str(write_brains(tmp_path / name)) for name in ("one", "two")]
    for n in range(16):
        path = next((tmp_path / "two" / f"sub-{n:02}").rglob("*_T1w.nii.gz"))
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.flip(image.get_fdata(dtype=np.float32), 2), image.affine), path)
    scans, _ = find_scans(folders, "train", "", cache)
    assert len({s.known for s in scans}) == len(scans) == 2 * len({s.case for s in scans})
    sampler = ViewSampler(scans, 24, 2, 16, 0.5, 4, 0.0)
    images = sampler.draw(np.random.default_rng(0)).images
    assert torch.equal(images[:, 0], images[:, 1])


def test_the_scans_of_a_batch_differ_where_there_are_enough(brains, cache):
    scans, _ = find_scans([str(brains)], "train", "", cache)
    drawn = ViewSampler(scans[:3], 3, 1, 16, 0.5, 4, 0.0).draw(np.random.default_rng(0))
    assert len({image.sum().item() for image in drawn.images.float()}) == 3
    sampler = ViewSampler(scans[:3], 4, 1, 16, 0.5, 4, 0.0)
    assert len(sampler.draw(np.random.default_rng(0)).images) == 4


def test_views_are_made_on_the_device_of_the_scans_as_on_a_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vcm.fewshot.methods.views.RESOLUTION", 0
    )  # a pooling that the device lacks
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((16, 16, 16)).astype(np.float16))
    scan = UnlabelledScan("a", "t1", "", tmp_path / "a.npy")
    sampler = ViewSampler([scan], 8, 2, 16, 0.5, 4, 1.0)
    drawn = sampler.draw(np.random.default_rng(0))
    here = sampler.make(drawn)
    assert not torch.equal(here.targets[0, 0], here.targets[0, 1])
    with plugged_in() as device:
        there = sampler.make(moved(drawn, device))
        assert all(part.device == device for part in there)
        assert torch.allclose(there.targets.cpu(), here.targets, atol=1e-5)
        assert torch.equal(there.hidden.cpu(), here.hidden)


def test_a_scan_in_two_folders_counts_once_and_is_not_tested_on(brains, config, tmp_path, cache):
    """A copy without participants.tsv, as a set of scans for pretraining is: all of it counts as train."""
    copied = tmp_path / "copied"
    for path in brains.glob("sub-0[04]/anat/*_T1w.nii.gz"):
        (copied / path.relative_to(brains)).parent.mkdir(parents=True)
        shutil.copyfile(path, copied / path.relative_to(brains))
    with pytest.raises(VCMError, match=r"sub-00 in .*brains\d* is of the split test, but sub-00"):
        pretrain_encoder(config(steps=1, data=[str(brains), str(copied)]))
    scans, complaints = find_scans([str(brains), str(brains)], "train", "", cache)
    assert len(scans) == 12 == len(complaints)
    assert "sub-01 t1 in" in complaints[0] and complaints[0].endswith("and counts once.")


def test_a_scan_of_one_value_is_left_out_with_a_sentence(brains, tmp_path):
    copied = write_brains(tmp_path / "flat")
    path = copied / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), 7.0, np.float32), np.eye(4)), path)
    scans, complaints = find_scans([str(copied)], "train", "", tmp_path / "cache")
    assert len(scans) == 11 and "is constant" in complaints[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": []}, "No data is given"),
        ({"objective": "x"}, "'x' is unknown: choose mae or hybrid"),
        ({"objective": "hybrid", "batch_size": 1}, "set it to 2 or more"),
        ({"crop": 15}, "crop is 15: choose a multiple of 4"),
        ({"patch": 0}, "patch is 0: choose 1 voxel or more"),
        ({"hidden": 1.0}, "hidden is 1.0"),
        ({"augmentation": 2.0}, "augmentation is 2.0"),
        ({"motion": -1.0}, "motion is -1.0"),
        ({"start": "nowhere"}, "holds no pretrained network"),
    ],
)
def test_what_no_encoder_can_be_trained_with_is_refused(config, changes, words):
    with pytest.raises(VCMError, match=words):
        pretrain_encoder(config(**changes))
