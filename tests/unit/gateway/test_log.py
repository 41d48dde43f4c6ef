"""The log: one line a request, and a reader that is slow or gone holds nobody back."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from dutchdoor.gateway import log
from dutchdoor.gateway.log import RequestLog, Sink
from dutchdoor.gateway.record import Done, Refused

DONE = Done(
    id="req_1", key="key_1", dialect="/v1/chat/completions", model="m", target="t", state="finished",
    counted="reported", stream=True, input_tokens=7, output_tokens=4, nanodollars=19_000, at=1_780_000_000.25,
    first_s=0.0123, total_s=0.5,
)  # fmt: skip
REFUSED = Refused(
    id="req_2",
    dialect="/v1/chat/completions",
    model='a"b\nc',
    status=404,
    code="x",
    at=1_780_000_000.0,
    total_s=0.001,
)


async def test_a_request_is_one_line_of_json_and_lines_are_written_together() -> None:
    out: list[bytes] = []
    lines = RequestLog(out.append)
    lines.done(DONE)
    lines.refused(REFUSED)
    assert out == []
    await asyncio.sleep(2 * log.GATHER_S)
    (text,) = out
    first, second = (json.loads(line) for line in text.decode().splitlines())
    assert first == {
        "at": "2026-05-28T20:26:40.750Z", "level": "info", "event": "request", "id": "req_1", "key": "key_1",
        "model": "m", "target": "t", "state": "finished", "stream": True, "input_tokens": 7, "output_tokens": 4,
        "nanodollars": 19_000, "tries": 1, "first_ms": 12.3, "ms": 500.0,
    }  # fmt: skip
    assert second["event"] == "refused" and second["model"] == 'a"b\nc' and second["status"] == 404
    lines.done(DONE)
    lines.close()
    assert len(out) == 2


async def test_without_stderr_it_goes_through_logging(caplog: pytest.LogCaptureFixture) -> None:
    lines = RequestLog()
    lines.done(DONE)
    lines.close()
    assert not caplog.records  # nobody asked for requests
    caplog.set_level(logging.INFO, "dutchdoor.gateway")
    lines.done(DONE)
    lines.close()
    assert json.loads(caplog.records[0].getMessage())["id"] == "req_1"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_reader_that_does_not_read_holds_nobody_back_and_is_told_what_it_missed(
    pipe: tuple[int, int],
) -> None:
    reads, writes = pipe
    sink = Sink(writes)
    piece = b"x" * 65_535 + b"\n"
    began = time.monotonic()
    for _ in range(200):  # three times what is kept
        sink.write(piece)
    sink.close()
    assert time.monotonic() - began < log.GOODBYE_S + 1
    got = bytearray()
    os.set_blocking(reads, False)
    end = time.monotonic() + 10
    last = time.monotonic()
    while time.monotonic() - last < 0.5 and time.monotonic() < end:
        try:
            got += os.read(reads, 1 << 20)
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)  # the thread that writes has its turn
    told = [json.loads(line) for line in got.split(b"\n") if line.startswith(b"{")]
    kept = got.count(b"\n") - len(told)
    dropped = sum(each["writes"] for each in told)
    assert {each["event"] for each in told} == {"log-dropped"}
    assert kept + dropped == 200 and kept <= log.LARGEST_BACKLOG // len(piece) + 2


def test_a_reader_that_is_gone_is_no_error_and_the_next_lines_are_tried_again(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    sink = Sink(writes)
    os.close(reads)
    sink.write(b"a\n")
    sink.write(b"b\n")
    sink.close()
    closed = Sink(writes)
    os.close(writes)
    closed.write(b"c\n")
    closed.close()


def test_a_terminal_that_somebody_made_non_blocking_gets_all_of_it(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    os.set_blocking(writes, False)
    sink = Sink(writes)
    sink.write(b"y" * 200_000)
    got = 0
    while got < 200_000:
        got += len(os.read(reads, 1 << 16))
    sink.close()


def test_faults_go_to_stderr_as_lines_with_their_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    faults = log.faults
    before = (faults.level, faults.propagate, list(faults.handlers))
    try:
        log.to_stderr()
        try:
            raise ValueError("no")
        except ValueError:
            faults.exception('{"event": "fault", "id": "req_1"}')
        lines = RequestLog()
        lines.done(DONE)
        lines.close()
        for handler in faults.handlers:
            if isinstance(handler, log.SinkHandler):
                handler.close()
    finally:
        for handler in faults.handlers[:]:
            if handler not in before[2]:
                faults.removeHandler(handler)
        faults.setLevel(before[0])
        faults.propagate = before[1]
    fault, request = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert fault["event"] == "fault" and "ValueError: no" in fault["traceback"] and fault["level"] == "error"
    assert request["event"] == "request"
