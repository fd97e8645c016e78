import pytest
import torch

from vcm import precision
from vcm.errors import VCMError
from vcm.precision import computes_bfloat16, resolve_mixed_precision, resolve_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_auto_takes_bfloat16_only_where_the_processor_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_bfloat16("cpu") is expected
    assert resolve_precision("auto", "cpu") == ("bfloat16" if expected else "float32")
    assert resolve_mixed_precision("auto", "cpu") == ("bf16" if expected else "no")


def test_a_given_precision_stays(monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_mixed_precision("bf16", "cpu") == "bf16"


def test_an_unknown_precision_is_refused():
    with pytest.raises(VCMError, match="'half': choose auto, float32, bfloat16"):
        resolve_precision("half", "cpu")
