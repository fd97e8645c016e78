"""Where a label map has brain."""

import torch

from vcm.imaging.outline import GAP, end_with_maps, inside_map


def test_gaps_between_labels_are_inside_and_the_outside_is_not():
    classes = torch.zeros(1, 2, 24, 24, 24)
    classes[:, 0, 4:10, 4:20, 4:20] = 1
    classes[:, 1, 10 + 2 * GAP : 20, 4:20, 4:20] = 1
    inside = inside_map(classes)
    assert inside.shape == (1, 1, 24, 24, 24) and inside.dtype == torch.bool
    assert bool(inside[0, 0, 4:20, 4:20, 4:20].all())
    assert int(inside.sum()) == 16**3


def test_a_wider_gap_is_outside():
    classes = torch.zeros(1, 1, 24, 12, 12)
    classes[..., 2:8, :, :] = classes[..., 8 + 2 * GAP + 1 : 22, :, :] = 1
    assert not bool(inside_map(classes)[0, 0, 8 + GAP].any())


def test_a_map_up_to_the_border_stays_whole():
    assert bool(inside_map(torch.ones(2, 1, 8, 8, 8)).all())


def test_scans_that_go_on_beyond_their_maps_are_told():
    classes = torch.zeros(20, 20, 20, dtype=torch.uint8)
    classes[4:16, 4:16, 4:16] = 2
    image = (classes > 0).float()
    wider = image.clone()
    wider[4:16, 4:16, 16] = 0.5
    assert end_with_maps([(image, classes)])
    assert not end_with_maps([(wider, classes)])
    assert end_with_maps([(wider, classes), *[(image, classes)] * 9])


def test_a_volume_ends_where_its_map_ends_if_the_model_says_so():
    from small_brains import GRID, brain2mm_like

    pipeline = brain2mm_like()
    pipeline.set_progress_bar_config(disable=True)
    classes = torch.zeros(1, 8, *GRID.shape)
    classes[:, 1, 8:24, 8:40, 8:24] = 1
    inside = inside_map(classes)

    def made(**options):
        return pipeline(
            [classes], torch.full((1, 4), 0.5), num_inference_steps=1, seed=0, **options
        )

    plain = made().volumes
    silent = made(conditioning_scale=0).volumes
    assert bool((plain * ~inside).any()) and pipeline.outline([classes]) is None
    pipeline.register_to_config(clear_background=True)
    assert torch.equal(made().volumes, plain * inside)
    assert torch.equal(made(conditioning_scale=0).volumes, silent)
    features = pipeline.encode([classes])
    assert not features.requires_grad  # no graph is kept for the seeds
    by_features = pipeline(
        None, torch.full((1, 4), 0.5), num_inference_steps=1, seed=0, features=features,
        inside=pipeline.outline([classes]),
    )  # fmt: skip
    assert torch.equal(by_features.volumes, plain * inside)
    assert pipeline.outline(None) is None and pipeline.outline([None]) is None
    assert pipeline.with_module(pipeline.module, ["classes"]).clears_background
