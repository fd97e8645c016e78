"""Run a package as the challenge does: no network, a read-only root, /input, /output and /tmp only.

Knows processes and mounts; nothing of tasks. Apptainer where it is installed, else bubblewrap, else
a plain process that isolates nothing; which one ran is always said.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vcm.errors import VCMError
from vcm.fewshot.container.package import ENVIRONMENT

RUNTIMES = ("apptainer", "bubblewrap", "process")
_PROGRAMS = {"apptainer": "apptainer", "bubblewrap": "bwrap"}
_INSTALL = {
    "apptainer": "see apptainer.org/docs/admin",
    "bubblewrap": "apt-get install bubblewrap",
}


class MissingRuntime(VCMError):
    """A runtime that was demanded is not installed, or does not work here."""


@dataclass(frozen=True)
class Finished:
    """What a run left: exit code (None: stopped at its time limit), output, seconds of wall and CPU."""

    code: int | None
    output: str
    seconds: float
    cpu_seconds: float


def choose_runtime(demanded: str | None, image: Path) -> str:
    """The runtime to use: the one demanded, else the strictest that works.

    Args:
        demanded: one of RUNTIMES, or None.
        image: a package folder, or a .sif, which apptainer alone can run.

    Raises:
        VCMError: an unknown runtime.
        MissingRuntime: the runtime demanded, or needed for a .sif, does not work here.
    """
    if demanded is not None and demanded not in RUNTIMES:
        raise VCMError(f"The runtime '{demanded}' is unknown: choose one of {', '.join(RUNTIMES)}.")
    if image.suffix == ".sif":
        if demanded not in (None, "apptainer"):
            raise VCMError(f"{image.name} is an image, which {demanded} cannot run: use apptainer.")
        demanded = "apptainer"
    if demanded is not None:
        if not works(demanded):
            raise MissingRuntime(
                f"{demanded} is demanded, but it is not installed or does not work here: install it "
                f"({_INSTALL[demanded]}), or let vcm choose a runtime."
            )
        return demanded
    # Without an image that was built, apptainer has nothing to run.
    return "bubblewrap" if works("bubblewrap") else "process"


def works(runtime: str) -> bool:
    """Whether a runtime is installed and can start a process here."""
    if runtime == "process":
        return True
    program = shutil.which(_PROGRAMS[runtime])
    if program is None:
        return False
    if runtime == "apptainer":
        return True
    tried = subprocess.run(
        [program, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


def run(
    runtime: str, image: Path, arguments: list[str], inputs: Path, outputs: Path, limit: float
) -> Finished:
    """Call /app/predict.py with arguments that name files in /input and /output.

    A plain process has no such folders: there the names are those of this machine.

    Args:
        runtime: one of RUNTIMES.
        image: a folder that holds app/predict.py, or a .sif.
        arguments: of predict.py.
        inputs: Folder that appears as /input, read-only.
        outputs: Folder that appears as /output.
        limit: seconds of wall time after which the run is stopped.
    """
    with tempfile.TemporaryDirectory(prefix="vcm-check-") as scratch:
        environment = {**ENVIRONMENT, "PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "2"}
        if runtime == "apptainer":
            command = [
                "apptainer", "exec", "--containall", "--net", "--network", "none",
                "--bind", f"{inputs}:/input:ro", "--bind", f"{outputs}:/output:rw",
                "--bind", f"{scratch}:/tmp:rw", str(image), *_TIMED, "python",
                "/app/predict.py", *arguments,
            ]  # fmt: skip
            environment = dict(os.environ)
        elif runtime == "bubblewrap":
            command = [*_bubblewrap(image / "app", inputs, outputs), *_TIMED, sys.executable]
            command += ["/app/predict.py", *arguments]
        else:
            here = {"/input/": f"{inputs}/", "/output/": f"{outputs}/"}
            moved = [_moved(a, here) for a in arguments]
            command = [*_TIMED, sys.executable, str(image / "app" / "predict.py"), *moved]
            environment |= {"HOME": scratch, "TMPDIR": scratch}
        return _finished(command, environment, limit)


def _bubblewrap(app: Path, inputs: Path, outputs: Path) -> list[str]:
    """No network, no processes of others, a root of system folders and this Python, read-only."""
    binds: list[str] = []
    for folder in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt"):
        if Path(folder).is_symlink():
            binds += ["--symlink", os.readlink(folder), folder]
        elif Path(folder).is_dir():
            binds += ["--ro-bind", folder, folder]
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        if not prefix.startswith("/usr"):
            binds += ["--ro-bind", prefix, prefix]
    return [
        "bwrap", "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev",
        # Before the folders of Python, which may lie in /tmp.
        "--tmpfs", "/tmp", *binds, "--ro-bind", str(app), "/app", "--ro-bind", str(inputs), "/input",
        "--bind", str(outputs), "/output", "--remount-ro", "/", "--chdir", "/",
    ]  # fmt: skip


def _finished(command: list[str], environment: dict[str, str], limit: float) -> Finished:
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # The session that was started above, and with it all that the package started.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Finished(None, output, time.perf_counter() - started, float("nan"))
    output, cpu = _without_times(output)
    return Finished(process.returncode, output, time.perf_counter() - started, cpu)


#: Runs a command, then tells the CPU time of it and its children, which no one outside can see.
_TIMED = ["sh", "-c", '"$@"; code=$?; echo; times; exit $code', "sh"]


def _without_times(output: str) -> tuple[str, float]:
    """What a timed command wrote, and its CPU seconds: the second of the two last lines."""
    lines = output.rstrip().splitlines()
    found = re.findall(r"(\d+)m([\d.]+)s", lines[-1]) if lines else []
    if len(found) != 2:
        return output, float("nan")
    return "\n".join(lines[:-2]), sum(60 * int(m) + float(s) for m, s in found)


def _moved(argument: str, here: dict[str, str]) -> str:
    for inside, outside in here.items():
        if argument.startswith(inside):
            return outside + argument.removeprefix(inside)
    return argument
