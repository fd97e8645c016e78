"""Samples that are kept, and when they are made again."""

from dataclasses import replace

import numpy as np
import pytest
from small_brains import brain2mm_like

from vcm.evaluation.ages import age_requests, arms_of, compared_ages
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


@pytest.mark.parametrize("damaged", [".npy", ".json"])
def test_a_sample_that_is_not_whole_is_drawn_again(tmp_path, monkeypatch, damaged):
    drawn = []
    store = SampleStore(brain2mm_like(), tmp_path, "checksum", "ddim", 2)
    monkeypatch.setattr("vcm.evaluation.samples.as_numbers", lambda rule, inputs: [])
    monkeypatch.setattr(
        store, "_sample", lambda *given: drawn.append(1) or np.full((8, 8, 8), 0.5, np.float32)
    )
    asked = [Request("arm", "one", 0, {})]
    store.volumes(asked, "Sampling")
    store.volumes(asked, "Sampling")
    assert len(drawn) == 1
    (path,) = (tmp_path / "arm").glob(f"*{damaged}")
    path.write_bytes(path.read_bytes()[:40])
    (again,) = store.volumes(asked, "Sampling")
    assert len(drawn) == 2 and (again == 0.5).all()
    store.volumes(asked, "Sampling")
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("trained", "compared"),
    [
        ((20, 80), [25, 75]),
        ((60, 80), [60, 75]),
        ((5, 20), [5, 20]),  # children: both ages lie beyond
        ((76, 90), [76, 90]),
        ((40, 40), []),
    ],
)
def test_two_ages_are_compared_wherever_the_trained_range_lies(trained, compared):
    rule = brain2mm_like().input_rule
    rule = replace(rule, ranges={**rule.ranges, "age": trained})
    assert list(compared_ages(rule).values()) == compared
    requests = age_requests(rule, 2, 0)
    assert sorted({r.inputs["age"].value for r in requests}) == compared
    assert len({(r.arm, r.name, r.seed) for r in requests}) == len(requests)
    assert bool(arms_of(rule)) == bool(compared)
