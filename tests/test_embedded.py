import pytest

from vcm.embedded import embedded_folder, example_condition, find_model, model_folder
from vcm.errors import VCMError


def test_a_model_is_found_by_name_and_by_folder():
    folder = model_folder("brain2mm")
    assert folder == model_folder(folder) == embedded_folder("brain2mm")
    assert find_model("segmenter2mm") is None and embedded_folder("segmenter2mm") is not None
    assert example_condition().is_file()


@pytest.mark.parametrize(
    ("model", "remedy"), [("brain2m", "did you mean 'brain2mm'"), ("x", "vcm weights import wrote")]
)
def test_an_unknown_model_names_the_embedded_ones(model, remedy):
    with pytest.raises(VCMError, match=f"neither embedded .*brain2mm.*{remedy}"):
        model_folder(model)
