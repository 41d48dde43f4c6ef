"""Counts for Prometheus: plain numbers in dictionaries on the way of a request, made into text when asked.

Labels are names of routes, targets, paths and states; never a key, and never what a client made up. Several
workers keep their numbers in a file each, and each can tell the sum: a worker that takes a dead one's place
goes on counting from its numbers.
"""

import logging
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor import __version__
from dutchdoor.gateway import log
from dutchdoor.gateway.record import Done, Refused, Tried

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds; OpenTelemetry's advice for gen_ai.server.request.duration, in which a chat model's answers lie.
TOTAL_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
NANO = 1e-9
CODE = re.compile(r"[a-z0-9_]{0,40}")
MOST_REFUSED = 200  # ways to be refused that are told apart

Labels = tuple[str, ...]


class Histogram(msgspec.Struct):
    """Counts by bucket, the last one without an upper bound, and their sum."""

    counts: list[int]
    sum: float = 0.0


class Counts(msgspec.Struct):
    """All that is counted by one worker, by labels."""

    requests: dict[Labels, int] = {}  # model, target, path, state
    refused: dict[Labels, int] = {}  # path, status, code
    total_s: dict[Labels, Histogram] = {}  # model, path
    first_s: dict[Labels, Histogram] = {}
    tokens: dict[Labels, list[int]] = {}  # model, target → input, of it cached, output, nano-dollars
    tries: dict[Labels, int] = {}  # target, outcome
    alarms: dict[Labels, int] = {}  # target
    unpriced: dict[Labels, int] = {}  # model, target
    again: dict[Labels, int] = {}  # model → further tries
    commits: int = 0


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What is so at this moment in one worker."""

    in_flight: int = 0
    unbooked: int = 0
    breakers: dict[str, bool] = {}  # target → left out for now
    commits: int = 0  # of this process's ledger


class Metrics:
    """Counts as an observer. `gauges` is asked when the numbers are told."""

    def __init__(self, gauges: Callable[[], Gauges] = Gauges, share: "Share | None" = None) -> None:
        self.gauges = gauges
        self._share = share
        self._counts = Counts() if share is None else share.before()
        self._before = self._counts.commits
        self._requests: defaultdict[Labels, int] = defaultdict(int, self._counts.requests)
        self._tries: defaultdict[Labels, int] = defaultdict(int, self._counts.tries)
        self._counts.requests, self._counts.tries = self._requests, self._tries

    def done(self, done: Done) -> None:
        counts, model, target, path = self._counts, done.model, done.target, done.dialect
        self._requests[model, target, path, done.state] += 1
        where = (model, target)
        tokens = counts.tokens.get(where)
        if tokens is None:
            tokens = counts.tokens[where] = [0, 0, 0, 0]
        tokens[0] += done.input_tokens
        tokens[1] += done.cached_tokens
        tokens[2] += done.output_tokens
        if done.nanodollars is not None:
            tokens[3] += done.nanodollars
        elif done.state != "failed":
            counts.unpriced[where] = counts.unpriced.get(where, 0) + 1
        by = (model, path)
        total = counts.total_s.get(by)
        if total is None:
            total = counts.total_s[by] = Histogram([0] * (len(TOTAL_S) + 1))
        total.counts[bisect_left(TOTAL_S, done.total_s)] += 1
        total.sum += done.total_s
        if done.stream and done.first_s is not None:
            first = counts.first_s.get(by)
            if first is None:
                first = counts.first_s[by] = Histogram([0] * (len(FIRST_S) + 1))
            first.counts[bisect_left(FIRST_S, done.first_s)] += 1
            first.sum += done.first_s
        if done.tries > 1:
            counts.again[model,] = counts.again.get((model,), 0) + done.tries - 1
        if done.alarm is not None:
            counts.alarms[target,] = counts.alarms.get((target,), 0) + 1

    def refused(self, refused: Refused) -> None:
        counts, by = self._counts.refused, (refused.dialect, str(refused.status), refused.code or "")
        if by not in counts and (len(counts) >= MOST_REFUSED or not CODE.fullmatch(by[2])):
            by = (*by[:2], "other")  # the code of an upstream, which may say anything
        counts[by] = counts.get(by, 0) + 1

    def tried(self, tried: Tried) -> None:
        # the words of a failure are for the log: as a label they would have no end
        self._tries[tried.target, "answered" if tried.failure is None else f"failed_{tried.status or 0}"] += 1

    def keep(self) -> None:
        """Write the numbers to this worker's file, where there are several."""
        if self._share is not None:
            self._share.write(self._now())

    def text(self) -> str:
        """The sum of all workers in Prometheus's text format 0.0.4."""
        if self._share is None:
            return text_of([self._now()])
        self.keep()  # so that one worker never tells less of another than that one told itself
        return text_of(self._share.read())

    def close(self) -> None:
        self.keep()

    def _now(self) -> "Told":
        gauges = self.gauges()
        self._counts.commits = self._before + gauges.commits
        return Told(counts=self._counts, gauges=gauges)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one worker."""

    counts: Counts
    gauges: Gauges


class Share:
    """The files of the workers of one server: `folder/NUMBER`, one for each place."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._path = folder / str(number)

    def before(self) -> Counts:
        """What was counted at this place before; nothing where that cannot be read."""
        try:
            return msgspec.msgpack.decode(self._path.read_bytes(), type=Told).counts
        except (OSError, msgspec.DecodeError):
            return Counts()

    def write(self, told: Told) -> None:
        """Put the file in its place whole; numbers that cannot be written are told as a fault."""
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.msgpack.encode(told))
            new.replace(self._path)
        except OSError as error:
            log.write(log.faults, logging.ERROR, "metrics", message=str(error))

    def read(self) -> list[Told]:
        """The numbers of all places."""
        found = []
        for path in sorted(self._folder.iterdir()):
            if not path.suffix:
                try:
                    found.append(msgspec.msgpack.decode(path.read_bytes(), type=Told))
                except (OSError, msgspec.DecodeError) as error:
                    log.write(log.faults, logging.ERROR, "metrics", message=str(error))
        return found


# -- text

Sample = tuple[str, Mapping[str, str], float]


def text_of(workers: Iterable[Told]) -> str:
    """The sum of several workers as text."""
    told = list(workers)
    lines: list[str] = []
    for name, kind, about, samples in _families(told):
        lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
        for suffix, labels, value in samples:
            inner = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
            lines.append(
                f"{name}{suffix}{{{inner}}} {_number(value)}" if inner else f"{name}{suffix} {_number(value)}"
            )
    return "\n".join(lines) + "\n"


def _families(told: list[Told]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    def counter(name: str, about: str, field: str, *names: str) -> tuple[str, str, str, list[Sample]]:
        summed = _summed([getattr(each.counts, field) for each in told])
        return (
            name,
            "counter",
            about,
            [("", dict(zip(names, at, strict=True)), n) for at, n in summed.items()],
        )

    yield counter(
        "dutchdoor_requests_total",
        "Admitted requests that ended.",
        "requests",
        "model",
        "target",
        "path",
        "state",
    )
    yield counter(
        "dutchdoor_refused_total", "Requests answered with an error.", "refused", "path", "status", "code"
    )
    limited = sum(
        n for each in told for at, n in each.counts.refused.items() if at[2] == "rate_limit_exceeded"
    )
    yield _plain(
        "dutchdoor_rate_limited_total", "counter", "Requests over the rate limit of their key.", limited
    )
    yield _histogram(
        told, "dutchdoor_request_duration_seconds", "From head to settlement.", "total_s", TOTAL_S
    )
    yield _histogram(
        told, "dutchdoor_time_to_first_token_seconds", "To the first byte of a stream.", "first_s", FIRST_S
    )
    yield from _spent(told)
    yield counter(
        "dutchdoor_unpriced_requests_total", "Ended without a known price.", "unpriced", "model", "target"
    )
    yield counter("dutchdoor_target_tries_total", "Attempts at targets.", "tries", "target", "outcome")
    yield counter("dutchdoor_further_tries_total", "Attempts after a request's first.", "again", "model")
    yield counter("dutchdoor_alarms_total", "More usage reported than was reserved.", "alarms", "target")
    yield from _moment(told)


def _spent(told: list[Told]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    sums: dict[Labels, list[int]] = {}
    for each in told:
        for at, tokens in each.counts.tokens.items():
            sums[at] = [a + b for a, b in zip(sums.get(at, (0, 0, 0, 0)), tokens, strict=True)]
    kinds = ("input", "cached_input", "output")
    yield (
        "dutchdoor_tokens_total",
        "counter",
        "Tokens booked; cached input is part of the input.",
        [
            ("", {"model": at[0], "target": at[1], "kind": kind}, tokens[index])
            for at, tokens in sums.items()
            for index, kind in enumerate(kinds)
        ],
    )
    yield (
        "dutchdoor_cost_usd_total",
        "counter",
        "US dollars booked; the bill has them to the nano-dollar.",
        [("", {"model": at[0], "target": at[1]}, tokens[3] * NANO) for at, tokens in sums.items()],
    )


def _moment(told: list[Told]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    out: dict[str, int] = {}
    for each in told:
        for target, is_open in each.gauges.breakers.items():
            out[target] = out.get(target, 0) + is_open
    yield (
        "dutchdoor_target_left_out",
        "gauge",
        "Workers that leave a target out for now.",
        [("", {"target": target}, count) for target, count in out.items()],
    )
    in_flight = sum(each.gauges.in_flight for each in told)
    yield _plain("dutchdoor_in_flight_requests", "gauge", "Model requests under way.", in_flight)
    unbooked = sum(each.gauges.unbooked for each in told)
    yield _plain("dutchdoor_unbooked_requests", "gauge", "Delivered, and not in the ledger yet.", unbooked)
    commits = sum(each.counts.commits for each in told)
    yield _plain("dutchdoor_ledger_commits_total", "counter", "Transactions of the ledger.", commits)
    yield _plain("dutchdoor_workers", "gauge", "Processes that serve.", len(told))
    info: list[Sample] = [("", {"version": __version__}, 1)]
    yield "dutchdoor_build_info", "gauge", "Which version serves.", info


def _plain(name: str, kind: str, about: str, value: float) -> tuple[str, str, str, list[Sample]]:
    return name, kind, about, [("", {}, value)]


def _histogram(
    told: list[Told], name: str, about: str, field: str, bounds: tuple[float, ...]
) -> tuple[str, str, str, list[Sample]]:
    counts: dict[Labels, list[int]] = {}
    sums: dict[Labels, float] = {}
    for each in told:
        for at, one in getattr(each.counts, field).items():
            empty = [0] * len(one.counts)
            counts[at] = [a + b for a, b in zip(counts.get(at, empty), one.counts, strict=True)]
            sums[at] = sums.get(at, 0.0) + one.sum
    samples: list[Sample] = []
    for at, numbers in counts.items():
        labels = {"model": at[0], "path": at[1]}
        upto = 0
        for bound, number in zip((*map(str, bounds), "+Inf"), numbers, strict=True):
            upto += number
            samples.append(("_bucket", {**labels, "le": bound}, upto))
        samples += [("_sum", labels, sums[at]), ("_count", labels, upto)]
    return name, "histogram", about, samples


def _summed(counts: Iterable[Mapping[Labels, int]]) -> dict[Labels, int]:
    sums: dict[Labels, int] = {}
    for each in counts:
        for at, number in each.items():
            sums[at] = sums.get(at, 0) + number
    return sums


def _escaped(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
