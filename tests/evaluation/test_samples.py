"""Samples that are kept, and when they are made again."""

from small_brains import brain2mm_like

from vcm.evaluation.samples import SampleStore


def test_what_the_model_itself_decides_is_part_of_what_made_a_sample(tmp_path):
    def made_by(**settings):
        pipeline = brain2mm_like()
        pipeline.register_to_config(**settings)
        return SampleStore(pipeline, tmp_path, "checksum", "ddim", 2).made_by

    plain = made_by()
    assert made_by() == plain
    assert made_by(temperature=0.5) != plain
    assert made_by(clear_background=True) != plain
