"""The command `vcm`: which commands there are, and how errors end.

Knows no option of any command. --help loads no networks: each command imports its job when it runs.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TextIO

from vcm.cli import (
    evaluation,
    fewshot,
    preparation,
    segmentation,
    synthesis,
    training,
    upsampling,
    weights,
)
from vcm.cli.options import Command
from vcm.config import nearest
from vcm.errors import VCMError, VCMWarning

ABOUT = "Steer a frozen 3D diffusion model of brain MRI with a Volumetric Conditioning Module."
COMMANDS = (
    Command(("synthesize",), synthesis.synthesize, "condition", "LABEL_MAP"),
    Command(("segment", "tissues"), preparation.segment, "scan", "SCAN"),
    Command(("segment", "fit"), segmentation.fit, "scans", "SCAN"),
    Command(("segment", "apply"), segmentation.apply, "scans", "SCAN"),
    Command(("segment", "suggest"), segmentation.suggest),
    Command(("upsample",), upsampling.upsample, "scans", "SCAN"),
    Command(("simulate",), upsampling.simulate, "scan", "SCAN"),
    Command(("prepare",), preparation.prepare, "folder", "BIDS_FOLDER"),
    Command(("train",), training.train),
    Command(("evaluate",), evaluation.evaluate),
    Command(("pretrain", "autoencoder"), training.autoencoder),
    Command(("pretrain", "diffusion"), training.diffusion),
    Command(("pretrain", "band-decoder"), training.band_decoder),
    Command(("pretrain", "fine-diffusion"), training.fine_diffusion),
    Command(("pretrain", "fine-module"), training.fine_module),
    Command(("pretrain", "super-resolution"), training.super_resolution),
    Command(("pretrain", "segmenter"), training.segmenter),
    Command(("pretrain", "sequence-segmenter"), training.sequence_segmenter),
    Command(("pretrain", "detail"), training.detail),
    Command(("pretrain", "encoder"), training.encoder),
    Command(("pretrain", "contrasts"), training.contrasts),
    Command(("pretrain", "translator"), training.translator),
    Command(("pretrain", "slices"), segmentation.slices),
    Command(("fewshot", "index"), fewshot.index),
    Command(("fewshot", "study"), fewshot.study),
    Command(("fewshot", "rank"), fewshot.rank),
    Command(("fewshot", "finetune"), fewshot.finetune),
    Command(("fewshot", "predict"), fewshot.predict),
    Command(("fewshot", "evaluate"), fewshot.evaluate),
    Command(("fewshot", "embed"), fewshot.embed, "data", "FOLDER"),
    Command(("fewshot", "probe"), fewshot.probe),
    Command(("fewshot", "package"), fewshot.package),
    Command(("fewshot", "check"), fewshot.check),
    Command(("weights", "list"), weights.list_weights),
    Command(("weights", "show"), weights.show_weights),
    Command(("weights", "fetch"), weights.fetch_weights),
    Command(("weights", "import"), weights.import_model),
    Command(("weights", "verify"), weights.verify_weights),
    Command(("weights", "pack"), weights.pack_weights),
    Command(("weights", "export"), weights.export_weights),
)
#: Errors of the system that are no fault of the program: no room, a quota, a disk that only reads.
OF_THE_DISK = (errno.ENOSPC, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))
#: What commands of two words have in common, by the first.
GROUPS = {
    "segment": "Label maps of scans: eight tissue classes at once, or any labels from one labelled scan.",
    "pretrain": "Train the networks of a model.",
    "fewshot": "Learn a task from a few labelled scans, compare methods, package the result.",
    "weights": "Models that travel with the package, published ones, and copies of yours.",
}


def main() -> None:
    """Entry point."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line without its first word `vcm`; returns the exit code.

    A VCMError becomes one sentence on stderr and exit code 2, and so does a full disk; a VCMWarning one
    sentence, Ctrl-C exit code 130, a reader of the output that leaves, such as head, 141.
    """
    try:
        command, rest = find_command(list(arguments))
        if command is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("default", VCMWarning)
                warnings.showwarning = partial(_show_warning, set())
                command(rest)
        sys.stdout.flush()  # else a reader that has left is noticed when nobody can say it any more
    except VCMError as error:
        if "--verbose" in arguments:
            traceback.print_exc()
        option = f" (--{error.argument.replace('_', '-')})" if error.argument else ""
        print(f"vcm: {error}{option}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in OF_THE_DISK or "--verbose" in arguments:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(
            f"vcm: Writing failed{where} ({error.strerror}): free the disk, or choose a folder that can be "
            "written to.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("vcm: interrupted.", file=sys.stderr)
        return 130
    except SystemExit as end:  # argparse, after --help, and commands with codes of their own
        if isinstance(end.code, str):
            print(f"vcm: {end.code}", file=sys.stderr)
            return 1
        return end.code or 0
    return 0


def _reader_has_left() -> bool:
    """Whether the output is a pipe that nobody reads any more; pipes between processes break too."""
    if not hasattr(select, "poll"):  # Windows
        return False
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _show_warning(
    shown: set[str],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One of vcm's is a sentence for people, said once in a command; others look as Python makes them."""
    if issubclass(category, VCMWarning):
        if str(message) not in shown:
            print(f"vcm: warning: {message}", file=sys.stderr)
            shown.add(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr)


def find_command(arguments: list[str]) -> tuple[Command | None, list[str]]:
    """The command, and the words after its own; None where help or the version was printed.

    Raises VCMError for an unknown command.
    """
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        _print_help(ABOUT, ())
        return None, []
    if first == "--version":
        from vcm import __version__

        print(f"vcm {__version__}")
        return None, []
    depth = 2 if first in GROUPS else 1
    if depth == 2 and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        _print_help(GROUPS[first], (first,))
        return None, []
    words = tuple(arguments[:depth])
    for command in COMMANDS:
        if command.words == words:
            return command, arguments[depth:]
    if depth == 2:
        seconds = [c.words[1] for c in COMMANDS if c.words[0] == first]
        raise VCMError(
            f"'{words[1]}' is not a command of vcm {first}: {nearest(words[1], seconds)}"
        )
    firsts = list(dict.fromkeys(c.words[0] for c in COMMANDS))
    raise VCMError(f"'{first}' is not a command: {nearest(first, firsts)}")


def _print_help(about: str, words: tuple[str, ...]) -> None:
    """The commands, or those that begin with `words`, each with what it does."""
    shown = [c for c in COMMANDS if c.words[: len(words)] == words]
    width = max(len(" ".join(c.words)) for c in shown)
    print(f"usage: {' '.join(('vcm', *words))} COMMAND [ARGUMENTS] [OPTIONS]\n\n{about}\n")
    for command in shown:
        print(f"  {' '.join(command.words):<{width}}  {command.summary}")
    print("\nvcm COMMAND --help explains every option; vcm --version prints the version.")
