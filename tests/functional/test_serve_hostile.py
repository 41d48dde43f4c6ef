"""A server that is started and signalled in ways nobody means well."""

import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.functional.server import PROGRAM

ROUTES = """\
kind: dutchdoor/routes@1
targets:
  t: {url: "http://127.0.0.1:1/v1", model: m}
routes:
  m: [t]
"""


def answers(port: int) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as got:
                return bool(got.status == 200)
        except OSError:
            time.sleep(0.05)
    return False


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("workers", [1, 2])
def test_closed_standard_files_are_no_reason_to_end(tmp_path: Path, closed: str, workers: int) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    port = free_port()
    command = f'exec "{PROGRAM}" serve routes.yaml --port {port} --workers {workers} {closed}'
    with subprocess.Popen(["bash", "-c", command], cwd=tmp_path) as process:
        try:
            assert answers(port)
            for number in range(3):
                opened = str(Path(f"/proc/{process.pid}/fd/{number}").readlink())
                assert "ledger" not in opened and "socket" not in opened
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("workers", [1, 3])
def test_hangups_while_it_starts_do_not_end_it(tmp_path: Path, workers: int) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    port = free_port()
    command = [PROGRAM, "serve", "routes.yaml", "--port", str(port), "--workers", str(workers), "--quiet"]
    # hangups are ignored until Python has come to our first line: no program can do that for itself
    with subprocess.Popen(
        ["bash", "-c", 'trap "" HUP; exec "$@"', "bash", *command], cwd=tmp_path
    ) as process:
        try:
            time.sleep(0.1)  # until the trap is set
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                process.send_signal(signal.SIGHUP)
                time.sleep(0.005)
            assert answers(port) and process.poll() is None
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
