"""What the gateway writes down: one JSON line a request, without prompts, answers or keys, and its faults.

Lines of requests do not go through `logging`: they are gathered, and written by a thread of their own, so that
nobody who reads stderr too slowly, or not at all, can hold a request back.
"""

import asyncio
import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from dutchdoor.gateway.record import Done, Refused, Tried

requests = logging.getLogger("dutchdoor.gateway.requests")
faults = logging.getLogger("dutchdoor.gateway")

GATHER_S = 0.05  # how long a line waits for others to be written with
LARGEST_BACKLOG = 4 << 20  # bytes that wait for who reads stderr; what comes on top is counted, not kept
GOODBYE_S = 1.0  # for the last lines, at the end

Write = Callable[[bytes], None]


def write(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log `{"event": …, …}`; the fields are counts, names and ids."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", msgspec.json.encode({"event": event, **fields}).decode())


def to_stderr(level: int = logging.INFO) -> None:
    """Write the gateway's log as JSON lines to stderr."""
    sys.stderr.flush()
    handler = SinkHandler(Sink(sys.stderr.fileno()))
    handler.setFormatter(_Line())
    faults.addHandler(handler)
    faults.setLevel(level)
    faults.propagate = False


class Sink:
    """Bytes on their way to a file descriptor that may block or be gone: `write` never waits and never
    raises.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waits = 0  # bytes
        self._dropped = 0  # writes
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._waits + len(data) > LARGEST_BACKLOG:
                self._dropped += 1
                return
            self._waits += len(data)
            self._queue.put(data)
            if self._thread is None:  # not before: a process that forks has no other threads
                self._thread = threading.Thread(target=self._run, name="dutchdoor-log", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what waits, if it can be written soon."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(GOODBYE_S)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            with self._lock:
                lost, self._dropped = self._dropped, 0
            size = len(data)
            if lost:
                data += msgspec.json.encode({"event": "log-dropped", "writes": lost}) + b"\n"
            with contextlib.suppress(OSError):  # nobody reads any more; the next one may
                self._write(data)
            with self._lock:
                self._waits -= size

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # somebody made the terminal non-blocking
                time.sleep(GATHER_S)


class SinkHandler(logging.Handler):
    """What comes through `logging`, into a sink."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.sink.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # noqa: BLE001 - a record that cannot be written must not stop what it tells of
            self.handleError(record)

    def close(self) -> None:
        self.sink.close()
        super().close()


class _Line(logging.Formatter):
    """Time and level in front of the object's own fields, so that a line is one JSON value."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        try:
            fields = msgspec.json.decode(text) if text.startswith("{") else {"event": text}
        except msgspec.DecodeError:  # such as a name with a quote in it
            fields = {"event": text}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z"
        return msgspec.json.encode({"at": stamp, "level": record.levelname.lower(), **fields}).decode()


class RequestLine(msgspec.Struct, tag_field="event", tag="request"):
    """What is written of an admitted request; times in milliseconds."""

    id: str
    key: str
    model: str
    target: str
    state: str
    stream: bool
    input_tokens: int
    output_tokens: int
    nanodollars: int | None
    tries: int
    first_ms: float | None
    ms: float


class RefusedLine(msgspec.Struct, tag_field="event", tag="refused"):
    """What is written of a request that was answered with an error."""

    id: str
    key: str | None
    model: str | None
    status: int
    code: str | None
    ms: float


class RequestLog:
    """One JSON line for each request, as an observer: to `out`, else where `to_stderr` writes, else through
    `logging`.
    """

    def __init__(self, out: Write | None = None) -> None:
        self._out = out
        self._lines: list[bytes] = []
        self._second = 0
        self._prefix = b""
        self._encode = msgspec.json.Encoder().encode

    def done(self, done: Done) -> None:
        if self._out is None and not requests.isEnabledFor(logging.INFO):
            return
        first = done.first_s
        line = RequestLine(
            done.id,
            done.key,
            done.model,
            done.target,
            done.state,
            done.stream,
            done.input_tokens,
            done.output_tokens,
            done.nanodollars,
            done.tries,
            None if first is None else int(first * 1e4) / 10,
            int(done.total_s * 1e4) / 10,
        )
        self._add(self._encode(line), done.at + done.total_s)

    def refused(self, refused: Refused) -> None:
        if self._out is None and not requests.isEnabledFor(logging.INFO):
            return
        line = RefusedLine(
            refused.id,
            refused.key,
            refused.model,
            refused.status,
            refused.code,
            int(refused.total_s * 1e4) / 10,
        )
        self._add(self._encode(line), refused.at + refused.total_s)

    def tried(self, tried: Tried) -> None:
        """A failure is told as a fault, where it is known what it was."""

    def close(self) -> None:
        """Hand on what is held; the process writes it before it ends."""
        self._flush()

    def _add(self, line: bytes, at: float) -> None:
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime('{"at":"%Y-%m-%dT%H:%M:%S.', time.gmtime(second)).encode()
        ms = int((at - second) * 1000)
        self._lines.append(b'%b%03dZ","level":"info",%b' % (self._prefix, ms, line[1:]))
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_later(GATHER_S, self._flush)
            except RuntimeError:  # outside of a loop nobody would come back to it
                self._flush()

    def _flush(self) -> None:
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        sink = _sink()
        out = self._out or (None if sink is None else sink.write)
        if out is not None:
            out(b"\n".join(lines) + b"\n")
            return
        for line in lines:  # a program that has this room inside of it listens to `logging`
            requests.info("%s", line.decode())


def _sink() -> Sink | None:
    """Where `to_stderr` writes."""
    return next((each.sink for each in faults.handlers if isinstance(each, SinkHandler)), None)
