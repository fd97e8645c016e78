import pytest

from vcm.errors import VCMError
from vcm.fewshot.cases.task_file import read_task
from vcm.fewshot.cases.tasks import sequence_name, sequence_of_file, task_from
from vcm.fewshot.container.contracts import contract_names, load_contract


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("t1.nii.gz", "t1"),
        ("t1ce.nii.gz", "t1ce"),
        ("sub-01_ce-gd_T1w.nii.gz", "t1ce"),
        ("sub-01_desc-brain_T1w.nii", "t1"),
        ("dwi_b1000.nii.gz", "dwi"),
        ("sub-01_T2starw.nii.gz", "t2s"),
        ("study1_FLAIR.nii.gz", "flair"),
        ("flair_reg_T2W.nii.gz", "t2"),
        ("notes.nii.gz", None),
        ("t1map.nii.gz", None),
        ("BraTS-GLI-00001-000-t1c.nii.gz", "t1ce"),
        ("BraTS-GLI-00001-000-t1n.nii.gz", "t1"),
        ("BraTS-GLI-00001-000-t2f.nii.gz", "flair"),
        ("UPENN-GBM-00001_11_T1GD.nii.gz", "t1ce"),
        ("T1-map.nii.gz", None),
    ],
)
def test_sequences_are_read_by_whole_tokens(name, sequence):
    assert sequence_of_file(name) == sequence


def test_an_unknown_sequence_is_refused():
    assert sequence_name("T2starw") == "t2s"
    with pytest.raises(VCMError, match="'t7' is unknown"):
        sequence_name("t7")


def task(**changes):
    return task_from({"kind": "regression", "inputs": ["t1"]} | changes)


def test_slots_are_filled_by_the_first_sequence_that_is_there():
    infarct = load_contract("fomo26:task1").task
    assert infarct.slots == ("flair", "dwi", "adc", "t2s")
    assert infarct.fill(["adc", "swi", "dwi", "flair"], "a")["t2s"] == "swi"
    with pytest.raises(VCMError, match=r"a has no t2s or swi \(it has flair, dwi, adc\)"):
        infarct.fill(["flair", "dwi", "adc"], "a")


def test_an_optional_sequence_may_be_missing_but_not_all():
    both = task(inputs=["t1", "flair"], optional=["flair"])
    assert both.fill(["t1"], "a") == {"t1": "t1"}
    with pytest.raises(VCMError, match="a has none of the sequences"):
        task(optional=["t1"]).fill(["t2"], "a")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "ranking"}, "'ranking' is unknown"),
        ({"inputs": []}, "has no inputs"),
        ({"inputs": [{"any_of": ["t1"]}]}, "one_of"),
        ({"kind": "classification"}, "without classes"),
        ({"kind": "classification", "classes": ["F"]}, "needs two"),
        ({"spacing": [1, 2]}, "one or three sizes"),
        ({"spacing": 1000}, "one or three sizes"),
        ({"input": ["t1"]}, "'input' is not a key"),
    ],
)
def test_bad_tasks_are_refused(changes, sentence):
    with pytest.raises(VCMError, match=sentence):
        task(**changes)


def test_a_task_survives_json():
    made = task(inputs=["t1", {"one_of": ["t2s", "swi"]}], optional=["t2s"], spacing=2)
    assert task_from(made.as_dict()) == made


def test_all_contracts_can_be_read_and_name_every_input():
    assert len(contract_names()) == 9
    for name in contract_names():
        contract = load_contract(name)
        named = {s for options in contract.task.inputs for s in options}
        assert named == set(contract.arguments)
    with pytest.raises(VCMError, match="'fomo26:task9' is unknown"):
        load_contract("fomo26:task9")


@pytest.mark.parametrize(
    "name",
    [
        "sub-1_T1_ce.nii.gz", "sub-1_T1w_Gd.nii", "sub-1_gad_T1w.nii.gz", "sub-1_T1_post.nii.gz",
        "sub-1_T1_post_contrast.nii.gz", "sub-1_T1_contrast.nii.gz",
    ],
)  # fmt: skip
def test_t1_after_a_contrast_agent_is_never_read_as_t1(name):
    assert sequence_of_file(name) == "t1ce"


@pytest.mark.parametrize(
    "name",
    ["sub-1_T1_pre.nii", "sub-1_T1_pre_contrast.nii", "sub-1_T1w_without_gd.nii", "sub-1_no_contrast_T1w.nii"],
)  # fmt: skip
def test_t1_before_or_without_a_contrast_agent_is_t1(name):
    assert sequence_of_file(name) == "t1"


def test_a_scan_of_any_sequence_is_for_embeddings_alone():
    with pytest.raises(VCMError, match="reads 'input', a scan of any sequence"):
        task(inputs=["input"])


def test_a_task_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "task.yaml").write_bytes("kind: regression # für Ärzte".encode("latin-1"))
    with pytest.raises(VCMError, match=r"task.yaml cannot be read .*: correct the YAML"):
        read_task(tmp_path / "task.yaml")
