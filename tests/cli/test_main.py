import subprocess
import sys
import textwrap
import warnings

import pytest
from command_line import vcm

from vcm.cli import main
from vcm.cli.console import notes
from vcm.cli.main import COMMANDS, GROUPS
from vcm.cli.options import Command
from vcm.errors import VCMError, VCMWarning, noted


def test_help_names_every_command():
    for words in ((), ("--help",)):
        shown = vcm(*words)
        assert shown.exit_code == 0
        for command in COMMANDS:
            assert command.summary.endswith(".") and command.summary in shown.output
    for first in GROUPS:
        assert vcm(first).output == vcm(first, "-h").output
        assert "verify" in vcm("weights").output and "synthesize" not in vcm("weights").output


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c.words))
def test_every_command_has_help(command):
    shown = vcm(*command.words, "--help")
    assert shown.exit_code == 0 and shown.output.startswith(f"usage: {command.name} ")


def test_help_imports_no_networks():
    """What makes --help slow is torch; nothing on the way to it may import it."""
    source = textwrap.dedent(
        """
        import sys
        from vcm.cli.main import COMMANDS
        for command in COMMANDS:
            command.parser().format_help()
        heavy = {"torch", "numpy", "nibabel", "omegaconf", "monai", "rich"} & set(sys.modules)
        sys.exit(f"imported: {heavy}" if heavy else 0)
        """
    )
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "vcm: 'trian' is not a command: did you mean 'train'?"),
        (["weights", "lst"], "vcm: 'lst' is not a command of vcm weights: did you mean 'list'?"),
        (["segment", "a.nii"], "vcm: 'a.nii' is not a command of vcm segment: choose tissues, fit, apply, suggest."),
        (["train", "data=x"], "vcm: data takes a list: data=[x]."),
        (["segment", "suggest", "data=[x]", "show=-3"], "vcm: show is -3: choose 1 or more."),
        (["train", "--stpes", "3"], "vcm: --stpes is not an option of vcm train: did you mean '--steps'?"),
        (["synthesize", "a", "b"], "vcm: 2 arguments are given (a, b): give one LABEL_MAP."),
        (["weights", "show", "a", "b"], "vcm: 'b' is one argument too many for vcm weights show: leave it out."),
        (["upsample", "--seed", "9" * 20], f"vcm: seed is {'9' * 20}: it takes a whole number below 2^63."),
    ],
)  # fmt: skip
def test_a_refusal_is_one_sentence_and_exit_code_2(words, sentence):
    found = vcm(*words)
    assert (found.exit_code, found.error, found.output) == (2, f"{sentence}\n", "")


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (command, option, value)
        for command in ("segment apply", "segment tissues", "upsample", "synthesize")
        for option, value in (("participant-label", "01"), ("desc", "preproc"), ("suffix", "T2w"))
        if option != "suffix" or command in ("segment tissues", "upsample")
    ],
)
def test_what_chooses_scans_of_a_dataset_is_refused_without_one(tmp_path, command, option, value):
    """Else all scans of the folder would be done."""
    found = vcm(*command.split(), tmp_path, f"--{option}", value, "--out", tmp_path / "out")
    name = option.replace("-", "_")
    assert (found.exit_code, found.error, found.output) == (
        2,
        f"vcm: {name} is {value}, but it belongs to --bids: add --bids, or leave it out. (--{option})\n",
        "",
    )
    assert not (tmp_path / "out").exists()


def test_an_empty_participant_label_does_not_mean_all(tmp_path):
    (tmp_path / "in" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "in" / "sub-01" / "anat" / "sub-01_T1w.nii.gz").touch()
    words = ["--bids", tmp_path / "in", "--out", tmp_path / "out", "--participant-label", ""]
    found = vcm("upsample", *words)
    assert found.exit_code == 2 and "sub- is not a subject of" in found.error
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_exit_code_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "COMMANDS", (Command(("stop",), interrupted),))
    assert vcm("stop").exit_code == 130


def test_a_command_can_end_with_a_code_or_a_sentence_of_its_own(monkeypatch):
    monkeypatch.setattr(main, "COMMANDS", (Command(("end",), lambda: sys.exit(3)),))
    assert vcm("end") == (3, "", "")
    monkeypatch.setattr(main, "COMMANDS", (Command(("end",), lambda: sys.exit("A fault.")),))
    assert vcm("end") == (1, "", "vcm: A fault.\n")


def test_a_reader_that_leaves_is_exit_code_141_whatever_the_buffer():
    for how in ([], ["-u"]):
        command = [sys.executable, *how, "-m", "vcm", "--help"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            said = process.stderr.read()
        assert (process.returncode, said) == (141, b"")


def test_a_pipe_between_processes_that_breaks_is_no_reader_that_left():
    source = """
        import sys
        from vcm.cli import main
        from vcm.cli.options import Command
        def fail():
            raise BrokenPipeError("of a worker")
        main.COMMANDS = (Command(("fail",), fail),)
        sys.exit(main.run_command(["fail"]))
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "of a worker" in ended.stderr


def test_the_version():
    from vcm import __version__

    assert vcm("--version").output == f"vcm {__version__}\n"


def test_quiet_prints_results_alone_and_verbose_the_traceback(monkeypatch):
    def speak():
        notes().print("a note")
        print("a result")

    def fail():
        raise VCMError("A reason.")

    commands = Command(("speak",), speak), Command(("fail",), fail)
    monkeypatch.setattr(main, "COMMANDS", commands)
    assert vcm("speak")[1:] == ("a result\n", "a note\n")
    assert vcm("speak", "--quiet")[1:] == ("a result\n", "")
    assert vcm("fail").error == "vcm: A reason.\n"
    assert "in fail" in vcm("fail", "--verbose").error


def test_progress_is_for_terminals_and_never_on_stdout(monkeypatch):
    def work():
        from vcm.progress import track

        print(sum(track(range(3), "Working")))

    monkeypatch.setattr(main, "COMMANDS", (Command(("work",), work),))
    assert vcm("work") == (0, "3\n", "")


def test_a_warning_is_said_once_in_a_command(monkeypatch):
    """Also where a file is read again, and something in between has touched the filters."""

    def read():
        for _ in range(2):
            warnings.warn("a.nii is odd.", VCMWarning, stacklevel=1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
        with noted() as kept:
            warnings.warn("b.nii is odd.", VCMWarning, stacklevel=1)
            warnings.warn("b.nii is odd.", VCMWarning, stacklevel=1)
        print(*kept)

    monkeypatch.setattr(main, "COMMANDS", (Command(("read",), read),))
    for _ in range(2):
        assert vcm("read") == (0, "b.nii is odd.\n", "vcm: warning: a.nii is odd.\n")
