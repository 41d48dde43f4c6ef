"""The supervisor: what it starts, starts again, and ends. Each test is a process of its own that forks."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dutchdoor.core import EngineError
from dutchdoor.gateway.protocol.server import listen
from dutchdoor.gateway.workers import numbers_folder, reserved_port

HEAD = """
import os, signal, sys, threading, time
from pathlib import Path
from dutchdoor.gateway import workers
from dutchdoor.gateway.workers import Failed, Ready, Supervisor
place = Path(sys.argv[1])

def starts(contact):
    "How often this place was taken before."
    path = place / f"starts-{contact.number}"
    count = int(path.read_text()) if path.exists() else 0
    path.write_text(str(count + 1))
    return count

def wait_for_end(contact):
    "Until it is told to end, or its supervisor is gone."
    end = threading.Event()
    for each in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(each, lambda *_: end.set())
    threading.Thread(target=lambda: (os.read(contact.lifeline, 1), end.set()), daemon=True).start()
    contact.say(Ready(routes=["m"], base_url="http://here"))
    while not end.wait(0.02):
        pass
    return 0

def run(work, drain_s=1.0):
    sys.exit(Supervisor(2, work, lambda ready: print("ready", *ready.routes, flush=True), drain_s=drain_s).run())

"""


class Running:
    """A supervisor's process."""

    def __init__(self, place: Path, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + script, str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def ended(self, within_s: float = 20) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=within_s)
        return self.process.returncode, said


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Running]]:
    running: list[Running] = []
    yield running
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def start(started: list[Running], place: Path, script: str) -> Running:
    started.append(Running(place, script))
    return started[-1]


def soon(what: object, within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_speaks_when_all_are_ready_and_ends_when_all_have_ended(
    started: list[Running], tmp_path: Path
) -> None:
    running = start(started, tmp_path, "run(wait_for_end)")
    assert running.line() == "ready m\n" and len(running.workers()) == 2
    running.process.send_signal(signal.SIGTERM)
    assert running.ended() == (0, "")


def test_a_worker_that_dies_is_started_again_at_once_and_then_more_slowly(
    started: list[Running], tmp_path: Path
) -> None:
    script = """
def work(contact):
    if contact.number == 1 and 0 < starts(contact) < 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return wait_for_end(contact)
run(work)
"""
    running = start(started, tmp_path, script)
    assert running.line() == "ready m\n"
    began = time.monotonic()
    os.kill(max(each.pid for each in running.workers()), signal.SIGKILL)
    soon(lambda: (tmp_path / "starts-1").read_text() == "5")
    assert time.monotonic() - began > 0.5 + 1 + 2 - 0.5
    running.process.send_signal(signal.SIGTERM)
    code, said = running.ended()
    assert code == 0 and said.count('"event":"worker-ended"') == 4 and '"how":"SIGKILL"' in said


def test_what_a_worker_says_at_the_start_ends_all_and_is_said_once(
    started: list[Running], tmp_path: Path
) -> None:
    script = """
def work(contact):
    contact.say(Failed(message="the file is broken", hint="mend it"))
    return 1
run(work)
"""
    running = start(started, tmp_path, script)
    assert running.ended() == (1, "error: the file is broken\n\nhint: mend it\n")


def test_a_worker_that_fails_while_others_are_ready_ends_all_at_the_start(
    started: list[Running], tmp_path: Path
) -> None:
    script = """
def work(contact):
    if contact.number == 1:
        raise ZeroDivisionError("planted")
    return wait_for_end(contact)
run(work)
"""
    code, said = start(started, tmp_path, script).ended()
    assert code == 70 and "ZeroDivisionError: planted" in said and "ended before it was ready" in said


def test_the_code_of_a_worker_that_knows_better_is_the_code_of_all(
    started: list[Running], tmp_path: Path
) -> None:
    running = start(started, tmp_path, "run(lambda contact: 3)")
    assert running.ended() == (3, "")


def test_a_second_signal_hurries_and_the_first_one_does_not_twice(
    started: list[Running], tmp_path: Path
) -> None:
    script = """
def work(contact):
    hurried = []
    signal.signal(signal.SIGTERM, lambda *_: (place / f"term-{contact.number}").touch())
    signal.signal(signal.SIGQUIT, lambda *_: hurried.append(1))
    contact.say(Ready(routes=["m"], base_url="x"))
    while not hurried:
        time.sleep(0.02)
    return 0
run(work, drain_s=60)
"""
    running = start(started, tmp_path, script)
    assert running.line() == "ready m\n"
    workers = running.workers()
    running.process.send_signal(signal.SIGTERM)
    soon(lambda: (tmp_path / "term-0").exists() and (tmp_path / "term-1").exists())
    for each in workers:  # as systemd does, which asks the whole group
        each.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    assert running.ended() == (0, "")


def test_a_worker_that_does_not_end_is_killed(started: list[Running], tmp_path: Path) -> None:
    script = """
workers.MERCY_S = 0.3
def work(contact):
    for each in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(each, signal.SIG_IGN)
    contact.say(Ready(routes=["m"], base_url="x"))
    while True:
        time.sleep(1)
run(work, drain_s=0.2)
"""
    running = start(started, tmp_path, script)
    assert running.line() == "ready m\n"
    running.process.send_signal(signal.SIGTERM)
    code, said = running.ended()
    assert code == 1 and '"event":"killed"' in said


def test_workers_end_when_the_supervisor_is_killed(started: list[Running], tmp_path: Path) -> None:
    running = start(started, tmp_path, "run(wait_for_end)")
    assert running.line() == "ready m\n"
    workers = running.workers()
    running.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_hangup_reaches_every_worker_also_from_one_of_them(started: list[Running], tmp_path: Path) -> None:
    script = """
def work(contact):
    signal.signal(signal.SIGHUP, lambda *_: (place / f"hup-{contact.number}").touch())
    if contact.number == 1:
        threading.Timer(0.5, contact.reload_all).start()
    return wait_for_end(contact)
run(work)
"""
    running = start(started, tmp_path, script)
    assert running.line() == "ready m\n"
    soon(lambda: (tmp_path / "hup-0").exists() and (tmp_path / "hup-1").exists())
    running.process.send_signal(signal.SIGINT)
    assert running.ended()[0] == 0


def test_a_reserved_port_is_for_ours_and_no_connection_goes_to_the_one_who_reserved_it() -> None:
    with reserved_port("127.0.0.1", 0) as port:
        with socket.socket() as early, pytest.raises(ConnectionRefusedError):
            early.connect(("127.0.0.1", port))
        with listen("127.0.0.1", port, reuse_port=True) as one, listen("127.0.0.1", port, reuse_port=True):
            assert one.getsockname()[1] == port
            with pytest.raises(EngineError, match="is in use"), reserved_port("127.0.0.1", port):
                pass


def test_numbers_are_removed_at_the_end_and_those_of_the_killed_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "metrics-left"
    left.mkdir()
    with numbers_folder(tmp_path) as one:
        assert not left.exists()
        with numbers_folder(tmp_path) as other:
            assert one.exists() and other.exists() and one != other
        assert one.exists() and not other.exists()
    assert list(tmp_path.iterdir()) == []
