"""Several processes behind one port, and one that starts them, starts them again, and ends them.

The supervisor serves nothing and has neither a loop nor threads, so that it can fork at any time. Every worker
listens on the same port with a socket of its own (SO_REUSEPORT): the kernel spreads connections over them. A
worker ends by itself when its supervisor is gone.
"""

import contextlib
import fcntl
import gc
import logging
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from dutchdoor.core import EngineError, Exit
from dutchdoor.gateway.protocol.server import listen

BACK_OFF_S = (
    0.5  # before the second start in a row of a worker that does not live; each pause is twice as long
)
LONGEST_BACK_OFF_S = 30.0
LIVES_S = 30.0  # a worker that served for so long was well
MERCY_S = 25.0  # for a worker to book and close after its time to drain, before it is killed
FAULT = 70  # the exit code of a worker that broke; sysexits.h, EX_SOFTWARE
NUMBERS = "metrics-"  # what the folders begin with in which workers keep their numbers


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker's first words: what it serves."""

    routes: list[str]
    base_url: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Its last words: why it cannot serve."""

    message: str
    hint: str | None


Words = Ready | Failed


class Contact:
    """A worker's line to its supervisor. `first`: it is the one that speaks for all of them at the start."""

    def __init__(self, number: int, pipe: int, lifeline: int, *, first: bool) -> None:
        self.number = number
        self.lifeline = lifeline  # comes to its end when the supervisor is gone
        self.first = first
        self._pipe = pipe
        self._supervisor = os.getppid()

    def say(self, words: Words) -> None:
        """Say the one thing there is to say."""
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            with contextlib.suppress(OSError):  # it is gone, which the lifeline tells
                os.write(pipe, msgspec.json.encode(words) + b"\n")
            os.close(pipe)

    def reload_all(self) -> bool:
        """Have every worker load its routes again; false where there is no supervisor any more."""
        if os.getppid() != self._supervisor:
            return False
        os.kill(self._supervisor, signal.SIGHUP)
        return True


class _Worker:
    """A place, and the process that is in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.pipe = -1
        self.said = b""
        self.ready: Ready | None = None
        self.begun = 0.0
        self.failures = 0  # in a row
        self.again_at: float | None = None


class Supervisor:
    """`count` processes that run `work`. `announce` is called once, when all of them are ready."""

    def __init__(
        self, count: int, work: Callable[[Contact], int], announce: Callable[[Ready], None], *, drain_s: float
    ) -> None:
        self._work = work
        self._announce = announce
        self._drain_s = drain_s
        self._workers = [_Worker(number) for number in range(count)]
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._stopping: float | None = None  # when the last of them is killed
        self._hurried = False
        self._announced = False
        self._code = int(Exit.CLEAN)

    def run(self) -> int:
        """Return the exit code when all workers have ended."""
        lifeline, self._life = os.pipe()
        self._lifeline = lifeline
        gc.collect()
        gc.freeze()  # what is here now is shared with the workers as long as nobody writes to it
        with self._listening():
            self._fork(self._workers[0])  # alone: what is wrong for all is said once
            while any(each.pid or each.again_at for each in self._workers):
                for _ in self._selector.select(self._until_next()):
                    self._read()
                self._heed()
                self._reap()
                self._start_again()
        return self._code

    # -- what happens

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals wake the loop, and are heeded there."""
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        self._wakes = ours
        self._woken_by = theirs
        heeded = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {
            each: signal.signal(each, lambda number, _: self._signals.append(number)) for each in heeded
        }
        wakeup = signal.set_wakeup_fd(theirs.fileno())
        self._selector.register(ours, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            ours.close()
            theirs.close()
            os.close(self._life)
            os.close(self._lifeline)

    def _until_next(self) -> float | None:
        times = [each.again_at for each in self._workers if each.again_at is not None]
        if self._stopping is not None:
            times.append(self._stopping)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakes.recv(4096)
        for worker in self._workers:
            if worker.pipe >= 0:
                self._listen_to(worker)

    def _listen_to(self, worker: _Worker) -> None:
        try:
            data = os.read(worker.pipe, 1 << 16)
        except BlockingIOError:
            return
        worker.said += data
        if not data:
            self._hang_up(worker)
        if not worker.said.endswith(b"\n"):
            return
        words = msgspec.json.decode(worker.said, type=Words)
        self._hang_up(worker)
        if isinstance(words, Failed):
            _tell(f"error: {words.message}" + (f"\n\nhint: {words.hint}" if words.hint else ""))
            return
        worker.ready = words
        self._is_ready(words)

    def _is_ready(self, words: Ready) -> None:
        if self._announced or self._stopping is not None:
            return
        for each in self._workers:
            if not each.pid:
                self._fork(each)
        if all(each.ready for each in self._workers):
            self._announced = True
            self._announce(words)

    def _heed(self) -> None:
        signals, self._signals[:] = list(self._signals), []
        for number in signals:
            if number == signal.SIGHUP:
                self._send(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(hurry=self._stopping is not None)
        if self._stopping is not None and time.monotonic() >= self._stopping:
            self._stopping = time.monotonic() + MERCY_S
            self._code = Exit.FAILED
            _log("killed", workers=[each.pid for each in self._workers if each.pid])
            self._send(signal.SIGKILL)

    def _stop(self, *, hurry: bool = False) -> None:
        left = MERCY_S if hurry else self._drain_s + MERCY_S
        self._stopping = time.monotonic() + left
        for each in self._workers:
            each.again_at = None
        # its own signal to hurry: the first one may reach a worker twice, from us and from who asked us
        self._send(signal.SIGQUIT if hurry else signal.SIGTERM)

    def _send(self, number: int) -> None:
        for each in self._workers:
            if each.pid:
                os.kill(each.pid, number)

    def _reap(self) -> None:
        for each in self._workers:
            if not each.pid:
                continue
            pid, status = os.waitpid(each.pid, os.WNOHANG)
            if pid:
                if each.pipe >= 0:
                    self._listen_to(each)  # what it said just before
                self._ended(each, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, code: int) -> None:
        pid, worker.pid = worker.pid, 0
        was_ready, worker.ready = worker.ready is not None, None
        self._hang_up(worker)
        if self._stopping is not None:
            asked = not was_ready and code in (
                -signal.SIGTERM,
                -signal.SIGQUIT,
            )  # it had nothing to finish yet
            if code != 0 and not asked:
                self._code = self._code or Exit.FAILED
            return
        if not self._announced:  # nobody is served yet: end it all, with the code of the one that knew why
            self._code = code if code > 0 else int(Exit.FAILED)
            if code in (FAULT, 0) or code < 0:
                _tell(f"error: a worker ended before it was ready ({_how(code)})")
            self._stop(hurry=True)
            return
        lived = time.monotonic() - worker.begun
        worker.failures = 0 if was_ready and lived > LIVES_S else worker.failures + 1
        pause = 0.0
        if worker.failures > 1:
            pause = min(BACK_OFF_S * 2 ** min(worker.failures - 2, 16), LONGEST_BACK_OFF_S)
        worker.again_at = time.monotonic() + pause
        _log("worker-ended", pid=pid, how=_how(code), lived_s=round(lived, 1), again_in_s=pause)

    def _start_again(self) -> None:
        now = time.monotonic()
        for each in self._workers:
            if each.again_at is not None and each.again_at <= now and self._stopping is None:
                each.again_at = None
                self._fork(each)

    # -- processes

    def _fork(self, worker: _Worker) -> None:
        hears, speaks = os.pipe()
        os.set_blocking(hears, False)
        first = worker.number == 0 and not self._announced
        sys.stdout.flush()
        sys.stderr.flush()
        every = signal.valid_signals()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, every)  # the handlers are not the child's
        pid = os.fork()
        if pid == 0:
            self._be(worker, speaks, hears, before, first=first)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(speaks)
        worker.pid, worker.pipe, worker.said, worker.begun = pid, hears, b"", time.monotonic()
        self._selector.register(hears, selectors.EVENT_READ)

    def _be(self, worker: _Worker, speaks: int, hears: int, mask: Iterable[int], *, first: bool) -> None:
        """In the child: run the work; never returns."""
        code = FAULT
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has loaded what it is asked to load again
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # a terminal sends it to all; the supervisor heeds it
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._selector.close()
            self._wakes.close()
            self._woken_by.close()
            for each in (self._life, hears, *(other.pipe for other in self._workers if other.pipe >= 0)):
                os.close(each)
            code = self._work(Contact(worker.number, speaks, self._lifeline, first=first))
        except BaseException:  # noqa: BLE001 - the edge: nothing of the supervisor may run here
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):  # whoever reads it may be gone
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _hang_up(self, worker: _Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """A port that only processes of ours can listen on, with `listen(…, reuse_port=True)`; 0 takes a free one.

    Raises EngineError where another server has it.
    """
    if port:
        listen(host, port).close()  # with SO_REUSEPORT a second server would share it without a word
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            place.bind((host, port))  # and no `listen`: it takes no connection
        except OSError as error:
            raise EngineError(
                f"{host}:{port} cannot be listened on: {error.strerror}", hint="look at --host and --port"
            ) from error
        yield place.getsockname()[1]


@contextlib.contextmanager
def numbers_folder(serving: Path) -> Iterator[Path]:
    """A folder for the workers' numbers, removed at the end; those of servers that were killed go as well.

    Whoever uses one holds a lock on it, and so do the processes that it forks.
    """
    serving.mkdir(parents=True, exist_ok=True)
    for old in serving.glob(NUMBERS + "*"):
        with _locked(old) as free:
            if free:
                shutil.rmtree(old, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=NUMBERS, dir=serving))
        with _locked(folder) as ours:
            if not ours or not folder.exists():  # another server took it for one that was left behind
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    try:
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _tell(text: str) -> None:
    """Straight to stderr: a thread that writes would be in the way of the next fork."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _log(event: str, **fields: object) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    _tell(msgspec.json.encode({"at": at, "level": "error", "event": event, **fields}).decode())
