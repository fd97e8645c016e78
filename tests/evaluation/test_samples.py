"""Samples that are kept, and when they are made again."""

import numpy as np
from small_brains import brain2mm_like

from vcm.evaluation.samples import Request, SampleStore

MAP = np.zeros((8, 2, 2, 2), np.float32)


def test_what_the_model_itself_decides_is_part_of_what_made_a_sample(tmp_path):
    def made_by(**settings):
        pipeline = brain2mm_like()
        pipeline.register_to_config(**settings)
        store = SampleStore(pipeline, tmp_path, "checksum", "ddim", 2)
        return [
            store.fingerprint(Request("arm", "one", 0, {}, given), []) for given in (None, [MAP])
        ]

    alone, obeying = plain = made_by()
    assert made_by() == plain
    assert made_by(temperature=0.5)[0] != alone
    for of_the_module in ({"scale": 1.5}, {"temperature": 0.5}):
        found = made_by(sampling=of_the_module)
        assert found[0] == alone
        assert found[1] != obeying
    assert made_by(clear_background=True) != plain
