"""A segmenter of four sequences: what is drawn, that it learns and resumes, what it starts from, what is refused."""

import numpy as np
import pytest
import torch
from small_pool import small_pool

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.fewshot.methods.parents import load_parent
from vcm.imaging.random_sequences import LABELS, SEQUENCES, draw_sequences
from vcm.imaging.random_tumour import CORE, ENHANCING, OEDEMA, draw_tumour
from vcm.nets.segmenter import TissueSegmenter
from vcm.training.configuration import SequenceSegmenterTraining
from vcm.training.segmenter import start_from
from vcm.training.sequence_segmenter import (
    CropDraws,
    LabelledCrops,
    SequenceObjective,
    measure_sequence_segmenter,
    pretrain_sequence_segmenter,
)
from vcm.weights.segmenter import load_segmenter

SHORT = [
    "channels=[4,4]", "groups=2", "checkpoint_every=1", "tracker=none", "mixed_precision=no", "crop=8",
    "learning_rate=1e-3", "final_learning_rate=1e-3", "warmup_steps=0",
]  # fmt: skip
WHITE, CSF = LABELS.index("white matter"), LABELS.index("extracerebral CSF")


def training(data, out, *given):
    given = [f"data=[{data}]", f"out={out}", *SHORT, *given]
    return load_config(SequenceSegmenterTraining, None, given)


@pytest.fixture
def brain():
    classes = np.zeros((40, 40, 40), np.uint8)
    classes[4:36, 4:36, 4:36] = CSF
    classes[8:32, 8:32, 8:32] = WHITE
    return classes


def test_a_tumour_lies_in_the_brain_and_its_oedema_in_tissue(brain):
    held = set()
    for seed in range(20):
        parts = draw_tumour(brain, 2.0, np.random.default_rng(seed))
        assert not parts[brain == 0].any() and (brain[parts == OEDEMA] == WHITE).all()
        assert np.isin(parts, (CORE, ENHANCING)).any()
        held |= set(np.unique(parts))
    assert held == {0, CORE, OEDEMA, ENHANCING}
    assert not draw_tumour(np.zeros((8, 8, 8), np.uint8), 2.0, np.random.default_rng(0)).any()


def test_sequences_are_read_as_few_shot_scans_are_and_depend_on_the_generator_alone(brain):
    t1w = np.where(brain == WHITE, 0.8, np.where(brain > 0, 0.2, 0)).astype(np.float32)
    left_out, parts = 0, set()
    for seed in range(20):
        drawn = draw_sequences(t1w, brain, 2.0, np.random.default_rng(seed))
        assert drawn.images.shape == (len(SEQUENCES), 40, 40, 40) and drawn.labels.dtype == np.uint8
        assert drawn.images.min() == 0 and drawn.images.max() == 1
        assert not drawn.images[:, brain == 0].any() and not drawn.labels[brain == 0].any()
        assert drawn.labels.max() < len(LABELS)
        left_out += int((drawn.images.max((1, 2, 3)) == 0).sum())
        parts |= set(np.unique(drawn.labels[drawn.labels > CSF + 1]))
    assert 0 < left_out < 20 and parts == {9, 10, 11}
    again = draw_sequences(t1w, brain, 2.0, np.random.default_rng(19))
    assert np.array_equal(again.images, drawn.images)


def test_a_contrast_agent_shows_what_enhances_where_contrasts_are_real(brain):
    t1w = np.where(brain == WHITE, 0.8, np.where(brain > 0, 0.2, 0)).astype(np.float32)
    brighter = []
    for seed in range(40):
        images, labels = draw_sequences(t1w, brain, 2.0, np.random.default_rng(seed))
        where = labels == LABELS.index("enhancing")
        if where.sum() > 200 and images[:2].any((1, 2, 3)).all():
            t1, t1ce = (image[where].mean() for image in images[:2])
            brighter.append(t1ce > t1)
    assert len(brighter) > 8 and np.mean(brighter) > 0.7


def test_the_loss_leaves_out_the_dice_of_labels_that_are_not_there():
    torch.manual_seed(0)
    net = TissueSegmenter((4, 4), 2, len(LABELS), inputs=4)
    labels = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8)
    batch = LabelledCrops(torch.rand(2, 4, 8, 8, 8), labels)
    found = SequenceObjective(net)(batch)
    assert torch.isclose(found["loss"], found["entropy"])
    labels[:, :, :4] = 9
    found = SequenceObjective(net)(batch)
    assert 0 < found["loss"] - found["entropy"] < 1


def test_crops_lie_around_a_tumour_in_half_of_the_draws():
    config = SequenceSegmenterTraining(channels=[4, 4], crop=8)
    draw = CropDraws(small_pool(smooth=True), config)
    first = draw(np.random.default_rng(1))
    assert first.images.shape == (2, 4, 8, 8, 8) and first.labels.shape == (2, 1, 8, 8, 8)
    assert all(map(torch.equal, first, draw(np.random.default_rng(1))))
    with_parts = [int((draw(np.random.default_rng(n)).labels[0] > 8).any()) for n in range(20)]
    assert sum(with_parts) > 10


def test_a_stopped_training_goes_on_and_few_shots_begin_with_it(small_prepared, tmp_path):
    for steps, out in ((3, "whole"), (2, "parts"), (3, "parts")):
        measures = pretrain_sequence_segmenter(
            training(small_prepared, tmp_path / out, f"steps={steps}", "start=")
        )
    assert measures.keys() == {"loss", "entropy"}
    folders = [str(tmp_path / n / "segmenter") for n in ("whole", "parts")]
    whole, parts = (load_parent(folder) for folder in folders)
    assert whole.checksum == parts.checksum and whole.sequences == SEQUENCES and whole.labelled
    theirs = parts.network.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in whole.network.state_dict().items())
    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "Losses of the last training step" in page
    with pytest.raises(VCMError, match="reads 4 sequences side by side and knows tumours"):
        load_segmenter(folders[0])


def test_brains_to_measure_on_are_the_same_every_time():
    config = SequenceSegmenterTraining(channels=[4, 4], validation_brains=2)
    net = TissueSegmenter((4, 4), 2, len(LABELS), inputs=4).eval()
    first, again = (measure_sequence_segmenter(net, small_pool(), config) for _ in range(2))
    assert [r.scan for r in first] == ["0", "1"] and first[0].values.keys() == set(LABELS[1:])
    assert str(first) == str(again)


def test_it_starts_from_a_segmenter_of_one_scan():
    net = TissueSegmenter((8, 32, 64, 128), 8, len(LABELS), inputs=4).eval()
    start_from(net, "anysegmenter2mm")
    begun = load_segmenter("anysegmenter2mm").eval()
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        levels = net.levels(image.expand(1, 4, -1, -1, -1)), begun.levels(image)
    assert torch.allclose(levels[0][-1], levels[1][-1], atol=1e-3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["crop=7"], "crop is 7: choose a multiple of 2"),
        (["start=nowhere"], "nowhere holds no segmenter"),
        (["data=[]"], "No data is given"),
        (["validate_every=1"], "validation"),
    ],
)
def test_what_cannot_be_trained_is_refused(small_prepared, tmp_path, given, sentence):
    with pytest.raises(VCMError, match=sentence):
        pretrain_sequence_segmenter(training(small_prepared, tmp_path / "run", "steps=1", *given))
    assert not (tmp_path / "run").exists()
