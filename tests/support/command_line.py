"""`vcm` in this process, with what it printed."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

from vcm.cli.main import run_command


class Result(NamedTuple):
    exit_code: int
    output: str
    error: str


def vcm(*arguments):
    out, error = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        code = run_command([str(a) for a in arguments])
    return Result(code, out.getvalue(), error.getvalue())
