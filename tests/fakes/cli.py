"""The command line, run inside this process: the same `main`, without half a second of imports a call."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from dutchdoor.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, cwd: Path) -> Done:
    """Run `dutchdoor ARGUMENTS` in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(each) for each in arguments])
        except SystemExit as left:
            code = left.code
    return Done(code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())
