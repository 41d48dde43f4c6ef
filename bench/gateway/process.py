"""What a peer is as processes: started in a session of its own, weighed, paused, ended with all that it started.

Linux only: reads /proc. CPU is user + system time, with that of children that have ended; memory is PSS.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1


class Tree:
    """A process and all that came from it, by parenthood and by session."""

    def __init__(
        self,
        command: list[str],
        *,
        cores: Iterable[int],
        log: Path | None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.started = time.monotonic()
        with (Path(os.devnull) if log is None else log).open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_bound_to(frozenset(cores)),  # noqa: PLW1509 — no thread is running here
            )
        self._seen: set[int] = {self.process.pid}

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def pids(self) -> list[int]:
        root = self.process.pid
        parents, found = {}, {root}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _stat(int(entry.name))
                if fields:
                    pid = int(entry.name)
                    parents[pid] = int(fields[1])
                    if int(fields[3]) == root:  # its session
                        found.add(pid)
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        found &= parents.keys()
        self._seen |= found
        return sorted(found)

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids():
            if fields := _stat(pid):
                total += sum(int(value) for value in fields[11:15])  # utime, stime, cutime, cstime
        return total / TICKS

    def memory_mb(self) -> float:
        kilobytes = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        kilobytes += int(line.split()[1])
        return kilobytes * 1024 / 1e6

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def end(self, patience_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL to whatever is left."""
        self.pids()
        self.go_on()
        self._send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        self._send(signal.SIGKILL, self._seen)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)

    def _send(self, number: int, also: Iterable[int] = ()) -> None:
        root = self.process.pid
        mine = set(self.pids())
        # one that was seen before and is now nobody's child is still ours while its session says so
        mine |= {pid for pid in also if (fields := _stat(pid)) and int(fields[3]) == root}
        for pid in mine:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None where it is gone or a zombie that was not waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _bound_to(cores: frozenset[int]) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        os.sched_setaffinity(0, cores)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not even a kill -9 of the benchmark leaves it running

    return before_exec


def sweep(folder: Path) -> None:
    """End what a killed run has left: the processes that work in a `run-` folder here, and the folders."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str((entry / "cwd").readlink()).startswith(str(folder / "run-")):
                    os.kill(int(entry.name), signal.SIGKILL)
    for left in folder.glob("run-*"):
        shutil.rmtree(left, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, request: bytes, timeout_s: float = 10.0) -> tuple[int, bytes]:
    """One request on a connection of its own: the status (0 where there is none) and what came."""
    data = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
            connection.sendall(request)
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece:
                    break
                data += piece
            with contextlib.suppress(OSError):
                connection.settimeout(0.2)
                if b"200 OK" not in data[:20]:
                    data += connection.recv(65536)
    except OSError:
        return 0, data
    words = data[:20].split()
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), data
