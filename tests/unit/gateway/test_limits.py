"""Rate limits: no minute holds more than the limit, wherever it begins, and what is told of it is true."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dutchdoor.core import UsageError
from dutchdoor.gateway.limits import window
from dutchdoor.gateway.limits.host import HostLimits
from dutchdoor.gateway.limits.interface import LimitError, Limits
from dutchdoor.gateway.limits.memory import MemoryLimits
from dutchdoor.gateway.limits.opening import open_limits
from tests.fakes.redis_server import RedisServer, redis_server  # noqa: F401 - a fixture


class Clock:
    def __init__(self, now: float = 1000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


Make = Callable[[Clock], Limits]


@pytest.fixture(params=["memory", "host"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "memory":
        return MemoryLimits
    return lambda clock: HostLimits(tmp_path / "serving", clock=clock, slots=8)


def passes(limits: Limits, rpm: int | None, tpm: int | None = None, tokens: int = 0, key: str = "k") -> bool:
    try:
        assert limits.take(key, rpm, tpm, tokens) is None
    except LimitError:
        return False
    return True


def told(limits: Limits, rpm: int | None, tpm: int | None = None) -> dict[str, str]:
    return {name.decode()[12:]: value.decode() for name, value in limits.headers("k", rpm, tpm)}


async def test_a_key_without_limits_is_not_counted(make: Make) -> None:
    limits = make(Clock())
    assert all(passes(limits, None) for _ in range(1000)) and limits.headers("k", None, None) == ()
    await limits.close()


async def test_exactly_the_limit_passes_and_the_rest_is_told_when(make: Make) -> None:
    clock = Clock(1000.25)
    limits = make(clock)
    assert [passes(limits, 3) for _ in range(5)] == [True, True, True, False, False]
    with pytest.raises(LimitError) as refused:
        limits.take("k", 3, None, 0)
    assert refused.value.which == "requests" and refused.value.retry_after_s == pytest.approx(60.75)
    clock.now += refused.value.retry_after_s - 0.01
    assert not passes(limits, 3)
    clock.now += 0.02
    assert [passes(limits, 3) for _ in range(4)] == [True, True, True, False]
    await limits.close()


async def test_no_burst_of_twice_the_limit_at_a_boundary(make: Make) -> None:
    clock = Clock(1059.9)
    limits = make(clock)
    assert sum(passes(limits, 10) for _ in range(20)) == 10
    for later in (0.2, 10, 30, 19):
        clock.now += later
        assert not passes(limits, 10)
    clock.now = 1059.9 + 61
    assert sum(passes(limits, 10) for _ in range(20)) == 10
    await limits.close()


async def test_another_key_has_limits_of_its_own(make: Make) -> None:
    limits = make(Clock())
    assert passes(limits, 1) and not passes(limits, 1)
    assert passes(limits, 1, key="other")
    await limits.close()


async def test_tokens_are_given_back_to_the_second_they_came_from(make: Make) -> None:
    clock = Clock(1000.5)
    limits = make(clock)
    assert passes(limits, None, 100, 80) and not passes(limits, None, 100, 30)
    clock.now += 10
    limits.give_back("k", 70, ago_s=10.1)
    assert passes(limits, None, 100, 90) and not passes(limits, None, 100, 1)
    clock.now += 51.5  # the first has gone by, with what is left of it
    limits.give_back("k", 5, ago_s=61.6)  # too late to give anything: it was free already
    assert not passes(limits, None, 100, 11) and passes(limits, None, 100, 10)
    await limits.close()


async def test_a_request_that_is_larger_than_the_limit_is_told_that_waiting_does_not_help(make: Make) -> None:
    limits = make(Clock())
    with pytest.raises(LimitError) as refused:
        limits.take("k", None, 100, 101)
    assert refused.value.never and dict(refused.value.answer().headers)[b"x-should-retry"] == b"false"
    with pytest.raises(LimitError) as later:
        limits.take("k", 1, None, 0)
        limits.take("k", 1, None, 0)
    assert dict(later.value.answer().headers) == {b"retry-after": b"61"}
    await limits.close()


async def test_headers_say_what_remains_and_when_all_is_back(make: Make) -> None:
    clock = Clock(1000.5)
    limits = make(clock)
    assert told(limits, 5, 100) == {
        "limit-requests": "5", "remaining-requests": "5", "reset-requests": "0s",
        "limit-tokens": "100", "remaining-tokens": "100", "reset-tokens": "0s",
    }  # fmt: skip
    limits.take("k", 5, 100, 30)
    clock.now += 2
    limits.take("k", 5, 100, 20)
    assert told(limits, 5) == {"limit-requests": "5", "remaining-requests": "3", "reset-requests": "60.5s"}
    assert told(limits, None, 100)["remaining-tokens"] == "50"
    await limits.close()


async def test_a_clock_of_another_start_of_the_machine_forgets(make: Make) -> None:
    clock = Clock(90_000.0)
    limits = make(clock)
    assert passes(limits, 1)
    clock.now = 100.0
    assert passes(limits, 1) and not passes(limits, 1)
    await limits.close()


Step = tuple[float, int, int, float]  # a pause, tokens reserved, tokens given back, and after how long
STEPS = st.lists(
    st.tuples(st.floats(0, 40), st.integers(0, 60), st.integers(0, 60), st.floats(0, 90)), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 6), st.integers(1, 100))
def test_no_span_of_a_minute_holds_more_than_the_limits(steps: list[Step], rpm: int, tpm: int) -> None:
    cells, now = window.empty(), 500.0
    passed: list[list[float]] = []  # when, and the tokens that it still counts
    owed: list[tuple[float, int, list[float]]] = []  # when to give back, how much, and of which
    for pause, reserved, unused, lasts in steps:
        now += pause
        for due, back, entry in [each for each in owed if each[0] <= now]:
            window.give_back(cells, now, back, now - entry[0] + 0.001)
            entry[1] -= back
            owed.remove((due, back, entry))
        try:
            window.take(cells, now, rpm, tpm, reserved)
        except LimitError as error:
            check_wait(cells, now, rpm, tpm, reserved, error)
            continue
        passed.append([now, reserved])
        owed.append((now + lasts, min(unused, reserved), passed[-1]))
        last = [each for each in passed if each[0] >= now - 60]
        assert len(last) <= rpm and sum(tokens for _, tokens in last) <= tpm
        assert cells[window.REQUESTS] == sum(cells[window.PER_REQUESTS : window.PER_TOKENS])
        assert cells[window.TOKENS] == sum(cells[window.PER_TOKENS :])


def check_wait(cells: list[int], now: float, rpm: int, tpm: int, tokens: int, error: LimitError) -> None:
    """The moment that is told is the first one at which that limit lets it pass."""
    if error.which == "requests":
        tokens = 0
    if error.never:
        assert tokens > tpm
        return
    window.take(
        list(cells), now + error.retry_after_s + 1e-6, None if error.which == "tokens" else rpm, tpm, tokens
    )
    with pytest.raises(LimitError):
        window.take(list(cells), max(now, now + error.retry_after_s - 0.001), rpm, tpm, tokens)


async def test_keys_that_are_not_used_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dutchdoor.gateway.limits.memory.MOST_KEYS", 4)
    clock = Clock()
    limits = MemoryLimits(clock)
    limits._most = 4
    for each in range(40):
        clock.now += 30
        assert passes(limits, 1, key=str(each))
    assert len(limits._keys) <= 8


async def test_more_keys_than_slots_are_still_limited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = HostLimits(tmp_path, clock=Clock(), slots=8)
    for each in range(12):
        assert passes(limits, 1, key=str(each)) and not passes(limits, 1, key=str(each))
    assert sum("limits-full" in each.message for each in caplog.records) == 1
    await limits.close()


async def test_a_slot_that_is_not_used_any_more_is_taken_by_another_key(tmp_path: Path) -> None:
    clock = Clock()
    here, there = (HostLimits(tmp_path, clock=clock, slots=8) for _ in range(2))
    for each in range(64):
        clock.now += 20
        assert passes(here, 1, key=str(each)) and not passes(there, 1, key=str(each))
    await here.close()
    await there.close()


TAKER = """
import os, sys
from pathlib import Path
from dutchdoor.gateway.limits.host import HostLimits
from dutchdoor.gateway.limits.interface import LimitError
limits, passed = HostLimits(Path(sys.argv[1])), 0
print("ready", flush=True); sys.stdin.readline()
for _ in range(3000):
    try:
        limits.take("k", 2000, None, 0)
        passed += 1
    except LimitError:
        pass
print(passed)
"""


def test_processes_of_one_host_share_a_limit_exactly(tmp_path: Path) -> None:
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for each in takers:
        assert each.stdout and each.stdout.readline() == "ready\n"
    for each in takers:
        assert each.stdin
        each.stdin.write("\n")
        each.stdin.flush()
    assert sum(int(each.communicate(timeout=60)[0]) for each in takers) == 2000


HOLDER = """
import fcntl, sys, time
from pathlib import Path
from dutchdoor.gateway.limits.host import HostLimits
limits = HostLimits(Path(sys.argv[1]))
limits.take("k", 5, None, 0)
fcntl.flock(limits._file, fcntl.LOCK_EX)
limits._find("k")[3] += 0
print("held", flush=True); time.sleep(60)
"""


def test_a_process_that_is_killed_while_it_holds_the_lock_stops_nobody(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    limits = HostLimits(tmp_path)
    timer = threading.Timer(0.2, os.kill, (holder.pid, signal.SIGKILL))
    timer.start()
    assert [passes(limits, 5) for _ in range(6)] == [True] * 4 + [False] * 2
    holder.communicate()
    asyncio.run(limits.close())


# -- a real server


@pytest.fixture
async def shared(redis_server: RedisServer) -> AsyncIterator[Limits]:  # noqa: F811 - the fixture
    limits = await open_limits(redis_server.url, Path("nowhere"))
    yield limits
    await limits.close()


async def ask(limits: Limits, rpm: int | None, tpm: int | None = None, tokens: int = 0) -> bool:
    try:
        waiting = limits.take("k", rpm, tpm, tokens)
        if waiting is not None:
            await waiting
    except LimitError:
        return False
    return True


async def test_a_hundred_clients_of_two_gateways_pass_exactly_the_limit(
    shared: Limits,
    redis_server: RedisServer,  # noqa: F811 - the fixture
) -> None:
    other = await open_limits(redis_server.url, Path("nowhere"))
    asked = [ask(limits, 70) for _ in range(100) for limits in (shared, other)]
    assert sum(await asyncio.gather(*asked)) == 70
    assert dict(shared.headers("k", 70, None))[b"x-ratelimit-remaining-requests"] == b"0"
    await other.close()


async def test_the_server_tells_when_and_what_remains(shared: Limits) -> None:
    assert await ask(shared, 2, 100, 60)
    left = dict(shared.headers("k", 2, 100))
    assert left[b"x-ratelimit-remaining-tokens"] == b"40" and left[b"x-ratelimit-remaining-requests"] == b"1"
    assert 59 < float(left[b"x-ratelimit-reset-tokens"].rstrip(b"s")) <= 61
    with pytest.raises(LimitError) as refused:
        await shared.take("k", 2, 100, 60)  # type: ignore[misc]
    assert refused.value.which == "tokens" and 59 < refused.value.retry_after_s <= 61
    with pytest.raises(LimitError) as never:
        await shared.take("k", 2, 100, 101)  # type: ignore[misc]
    assert never.value.never
    shared.give_back("k", 50, 0.01)
    assert await ask(shared, 2, 100, 60)
    with pytest.raises(LimitError) as requests:
        await shared.take("k", 2, 100, 1)  # type: ignore[misc]
    assert requests.value.which == "requests"


@pytest.mark.parametrize("how", ["stop", "freeze"])
async def test_without_the_server_each_counts_alone_and_says_so_once(
    how: str,
    redis_server: RedisServer,  # noqa: F811 - the fixture
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = await open_limits(redis_server.url, Path("nowhere"))
    assert await ask(limits, 3)
    getattr(redis_server, how)()
    began = time.monotonic()
    assert sum(await asyncio.gather(*(ask(limits, 3) for _ in range(50)))) == 3
    assert time.monotonic() - began < 2
    began = time.monotonic()
    assert not await ask(limits, 3)
    assert time.monotonic() - began < 0.05  # nobody waits for it again
    assert sum("limits-alone" in each.message for each in caplog.records) == 1
    redis_server.stop()
    redis_server.start()
    for _ in range(100):
        if any("limits-shared" in each.message for each in caplog.records):
            break
        await asyncio.sleep(0.05)
    assert [await ask(limits, 3) for _ in range(4)] == [True] * 3 + [False]
    await limits.close()


async def test_a_server_that_is_not_there_at_the_start_does_not_stop_the_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = await open_limits("redis://user:secret@127.0.0.1:1/0", Path("nowhere"))
    assert [await ask(limits, 1) for _ in range(2)] == [True, False]
    await limits.close()
    assert "limits-alone" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize(("where", "workers"), [("memory", 2), ("http://x", 1), ("", 1)])
async def test_limits_that_mean_nothing_are_refused(where: str, workers: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        await open_limits(where, tmp_path, workers=workers)


async def test_several_workers_share_by_default(tmp_path: Path) -> None:
    limits = await open_limits(None, tmp_path, workers=2)
    assert isinstance(limits, HostLimits)
    await limits.close()
    assert isinstance(await open_limits(None, tmp_path), MemoryLimits)
