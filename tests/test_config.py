from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from vcm.config import LARGEST, find_config, load_config, nearest, split_arguments
from vcm.errors import VCMError


@dataclass
class Example:
    aliases: ClassVar[dict[str, str]] = {"rate": "learning_rate"}
    unbounded: ClassVar[frozenset[str]] = frozenset({"minutes"})
    readers: ClassVar = {"seeds": lambda text: [int(part) for part in text.split("+")]}

    data: list[str] = field(default_factory=list)
    channels: list[int] = field(default_factory=lambda: [4])
    model: str = ""
    out: Path | None = Path("out")
    batch_size: int = 2
    learning_rate: float = 0.1
    minutes: float = float("inf")
    most: int | None = 3
    prior: bool = False
    seeds: list[int] = field(default_factory=list)
    seed: int = 0


def written(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_then_overrides_then_options(tmp_path):
    path = written(tmp_path, "batch_size: 7\nmodel: a\nmost: 5\n")
    config = load_config(Example, path, ["model=b"], {"most": "6"})
    assert (config.batch_size, config.model, config.most) == (7, "b", 6)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data", "[a,b]", ["a", "b"]),
        ("data", "[]", []),
        ("channels", "[4, 8]", [4, 8]),
        ("model", "007", "007"),
        ("model", "no", "no"),
        ("model", "1e5", "1e5"),
        ("model", "'x y'", "x y"),
        ("out", "2024_01", Path("2024_01")),
        ("out", "null", None),
        ("learning_rate", "1e-4", 1e-4),
        ("minutes", ".inf", float("inf")),
        ("most", "null", None),
        ("prior", "true", True),
        ("seeds", "1+2", [1, 2]),
        ("seeds", "[1, 2]", [1, 2]),
    ],
)
def test_a_file_a_key_and_an_option_read_the_same(tmp_path, key, text, value):
    by_file = load_config(Example, written(tmp_path, f"{key}: {text}\n"))
    by_key = load_config(Example, None, [f"{key}={text}"])
    by_option = load_config(Example, None, [], {key: text})
    assert getattr(by_file, key) == value
    assert asdict(by_file) == asdict(by_key) == asdict(by_option)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("batchsize=3", "'batchsize' is not a configuration key: did you mean 'batch_size'?"),
        ("data=prepared", "data takes a list: data=[prepared]."),
        ("data=[a", "data is '[a': each element of the list is text."),
        ("channels=[1,x]", "channels is '[1,x]': each element of the list is a whole number."),
        ("channels=[[1]]", "channels is [[1]]: each element of the list is a whole number."),
        ("batch_size=many", "batch_size is 'many': it takes a whole number."),
        ("batch_size=3.7", "batch_size is '3.7': it takes a whole number."),
        ("batch_size=", "batch_size is '': it takes a whole number."),
        ("learning_rate=nan", "learning_rate is 'nan': it takes a number."),
        ("learning_rate=inf", "learning_rate is 'inf': it takes a number."),
        ("most=x", "most is 'x': it takes a whole number, or null."),
        ("prior=maybe", "prior is 'maybe': it takes true or false."),
        (f"batch_size={LARGEST}", f"batch_size is {LARGEST}: it takes a whole number below 2^63."),
        ("seed=-1", "seed is -1: it takes a whole number from 0."),
        ("model", "'model' is not a key with a value: write key=value."),
        ("model=${x}", "model is '${x}': it takes text."),
    ],
)
def test_a_wrong_value_is_one_sentence_with_key_value_and_rule(override, sentence):
    with pytest.raises(VCMError) as refused:
        load_config(Example, None, [override])
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "holds no keys"),
        ("just words\n", "holds no keys"),
        ("model: [\n", "cannot be read"),
        ("model: a\nmodel: b\n", "gives model 2 times"),
        ("modell: a\n", "did you mean 'model'"),
        ("data: prepared\n", r"data takes a list: data=\[prepared\]"),
        ("model: {a: b}\n", "model is {a: b}: it takes text"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, words):
    with pytest.raises(VCMError, match=words):
        load_config(Example, written(tmp_path, text))


def test_a_file_that_is_absent_empty_or_not_text(tmp_path):
    with pytest.raises(VCMError, match="does not exist"):
        load_config(Example, tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: é\n".encode("latin-1"))
    with pytest.raises(VCMError, match="cannot be read"):
        load_config(Example, tmp_path / "latin.yaml")
    assert load_config(Example, written(tmp_path, "# nothing\n")) == Example()


def test_a_key_given_twice_is_refused_and_an_alias_is_the_same_key():
    with pytest.raises(VCMError, match="learning_rate is given twice"):
        load_config(Example, None, ["rate=0.2"], {"learning_rate": "0.3"})
    assert load_config(Example, None, ["rate=0.2"]).learning_rate == 0.2
    assert load_config(Example, None, ["batch-size=5"]).batch_size == 5


@pytest.mark.parametrize("key", ["out", "folder"])
def test_an_empty_path_is_not_the_folder_that_one_is_in(key):
    @dataclass
    class Job:
        out: str = "runs/new"
        folder: Path = Path("new")

    with pytest.raises(VCMError, match=f"{key} is '': it takes a path."):
        load_config(Job, None, [f"{key}="])
    with pytest.raises(VCMError, match=r"out is '\?\?\?'"):
        load_config(Job, None, ["out=???"])


def test_words_are_a_configuration_keys_and_values(tmp_path):
    assert split_arguments(["my.yaml", "steps=9"], None) == (Path("my.yaml"), ["steps=9"], [])
    path, rest, _ = split_arguments(["brain2mm_classes"], None, "train")
    assert path is not None and path.is_file() and rest == []
    assert split_arguments(["steps=9"], tmp_path) == (tmp_path, ["steps=9"], [])
    odd = tmp_path / "a=b.nii.gz"
    odd.touch()
    found = split_arguments(["my.yaml", "steps=9", str(odd), "acq-1_x=2.nii"], None, values=True)
    assert found == (Path("my.yaml"), ["steps=9"], [str(odd), "acq-1_x=2.nii"])
    with pytest.raises(VCMError, match="Two configurations"):
        split_arguments(["my.yaml"], tmp_path)


def test_a_configuration_by_name():
    assert find_config("brain2mm_classes", "train").is_file()
    with pytest.raises(VCMError, match="did you mean 'brain2mm_classes'"):
        find_config("brain2mm_class", "train")
    with pytest.raises(VCMError, match="is a configuration of vcm train, not of vcm evaluate"):
        find_config("brain2mm_classes", "evaluate")


def test_the_nearest_word_or_all_of_them():
    assert nearest("stpes", ["steps", "seed"]) == "did you mean 'steps'?"
    assert nearest("xyz", ["steps", "seed"]) == "choose steps, seed."
