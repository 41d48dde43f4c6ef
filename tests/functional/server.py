"""A real server process: started as a user would, stopped or killed as the test wants."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = str(Path(sys.executable).parent / "dutchdoor")
READY_S = 90


def dutchdoor(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [PROGRAM, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@dataclass
class Serving:
    """A server process that answers."""

    process: subprocess.Popen[str]
    url: str
    shown: str
    log: list[str]
    cwd: Path

    def key(self, *options: str) -> dict[str, Any]:
        """A new key, made by the command that the server printed."""
        printed = re.search(r"make a key:\s+(.*)", self.shown)
        assert printed
        command = printed[1].replace("NAME", "test").split()
        done = subprocess.run(
            [*command, *options, "--format", "json"],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Serving]:
    """`dutchdoor serve …` on a free port, ready."""
    process = subprocess.Popen(
        [PROGRAM, "serve", *arguments, "--port", "0"],
        cwd=cwd,
        env=env or dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    log: list[str] = []
    stderr = process.stderr
    reader = threading.Thread(target=lambda: log.extend(stderr), daemon=True)
    reader.start()
    timer = threading.Timer(READY_S, process.kill)
    timer.start()
    shown = ""
    while "make a key" not in shown:
        line = process.stdout.readline()
        if not line:
            process.wait(10)
            reader.join(5)
            timer.cancel()
            process.stdout.close()
            process.stderr.close()
            raise AssertionError(f"the server ended with {process.returncode}: {shown}{''.join(log)}")
        shown += line
    timer.cancel()
    found = re.search(r" at (http\S+)", shown)
    assert found
    try:
        yield Serving(process, found[1], shown, log, cwd)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(10)
        process.stdout.close()
        process.stderr.close()
