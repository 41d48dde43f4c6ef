"""Swapping without a restart: what is unchanged stays open, what is broken changes nothing, workers say when."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import Channel, DutchdoorError, EngineError, Tier, digest_file
from dutchdoor.engines.interface import ChatRequest, Chunk, EngineInfo
from dutchdoor.gateway.routing import family as families
from dutchdoor.gateway.routing import shelf, status, swap
from dutchdoor.gateway.routing.file import load_routes
from dutchdoor.gateway.routing.opening import HeldError, Opener, RoutesSource
from dutchdoor.gateway.routing.reload import Reloader
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.routing.status import Status
from dutchdoor.gateway.routing.swap import RefusedError, set_route, swap_route
from dutchdoor.gateway.targets.interface import Target
from dutchdoor.policy.decision import ChannelDecision, Decision, MemberDecision

URLS = """\
kind: dutchdoor/routes@1
targets:
  a: {url: "http://127.0.0.1:1/v1", model: m}
  b: {url: "http://127.0.0.1:2/v1", model: n}
routes:
  r: [a]
  s: [b]
"""
FAMILY = """\
kind: dutchdoor/family@1
family: f
version: 1.0.0
publisher: {name: Test}
members:
  - name: small
    license: MIT
    variants: [{id: a}]
    serve: {target: {url: "http://127.0.0.1:1/v1", model: m}}
  - name: large
    license: MIT
    variants: [{id: a}]
    serve: {target: {url: "http://127.0.0.1:2/v1", model: m}}
"""


class FakeGateway:
    """Takes routes as the gateway does, and keeps what was retired."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.retired: list[Target] = []
        self.swaps = 0

    def swap(self, routes: Mapping[str, Route], retired: Iterable[Target]) -> None:
        self.routes = dict(routes)
        self.retired += retired
        self.swaps += 1

    def to(self, model: str) -> list[str]:
        return [target.name for target in self.routes[model].targets]


class FakeEngine:
    """An engine that only knows whether it is open."""

    def __init__(self, path: Path) -> None:
        self.info = EngineInfo(name="fake", version="1", model=path.name, context_length=64)
        self.closed = False

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        yield Chunk(text="hi", finish_reason="stop")

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """The engines that were loaded, in order."""
    found: list[FakeEngine] = []

    async def load(path: Path, **_: Any) -> FakeEngine:
        if path.name == "broken":
            raise EngineError("it is broken")
        found.append(FakeEngine(path))
        return found[-1]

    monkeypatch.setattr(shelf, "open_engine", load)
    return found


def write(folder: Path, text: str) -> Path:
    path = folder / "routes.yaml"
    fresh = folder / ".fresh"
    fresh.write_text(text)
    fresh.rename(path)
    return path


def rows(**targets: str) -> str:
    lines = "".join(f"  {name}: {{{row}}}\n" for name, row in targets.items())
    return f"kind: dutchdoor/routes@1\ntargets:\n{lines}routes:\n  r: [{', '.join(targets)}]\n"


# -- what is open


async def test_only_what_has_changed_is_opened_again(tmp_path: Path) -> None:
    opener = Opener(tmp_path / "data")
    first = await opener.build(load_routes(write(tmp_path, URLS)))
    assert first.retired == () and list(first.routes) == ["r", "s"]
    changed = URLS.replace("model: n}", "model: other}").replace("r: [a]", "r: [a, b]")
    second = await opener.build(load_routes(write(tmp_path, changed)))
    assert second.routes["r"].targets[0] is first.routes["r"].targets[0]
    assert second.routes["s"].targets[0] is second.routes["r"].targets[1]
    assert second.retired == first.routes["s"].targets


async def test_an_engine_is_never_loaded_twice(tmp_path: Path, loaded: list[FakeEngine]) -> None:
    opener = Opener(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "w")
    (tmp_path / "w").mkdir()
    await opener.build(load_routes(write(tmp_path, rows(a="weights: w", b="weights: link"))))
    assert len(loaded) == 1
    priced = "weights: w, price: {input: 1, output: 2}"
    built = await opener.build(load_routes(write(tmp_path, rows(a=priced, renamed="weights: w"))))
    assert len(loaded) == 1 and len(built.retired) == 2
    for target in built.retired:  # as the gateway does when their requests have ended
        await target.close()
    assert not loaded[0].closed
    built = await opener.build(load_routes(write(tmp_path, rows(a="weights: other"))))
    assert [each.info.model for each in loaded] == ["w", "other"]
    for target in built.retired:
        await target.close()
    assert loaded[0].closed and not loaded[1].closed


async def test_what_cannot_be_opened_leaves_all_as_it_was(tmp_path: Path, loaded: list[FakeEngine]) -> None:
    opener = Opener(tmp_path / "data")
    await opener.build(load_routes(write(tmp_path, rows(a="weights: w"))))
    broken = rows(a="weights: w", b="weights: new", c="weights: broken")
    with pytest.raises(EngineError, match="it is broken"):
        await opener.build(load_routes(write(tmp_path, broken)))
    assert [each.closed for each in loaded] == [False, True]
    built = await opener.build(load_routes(write(tmp_path, rows(a="weights: w"))))
    assert built.retired == () and len(loaded) == 2


def judge(**open_: bool) -> Decision:
    def member(is_open: bool) -> MemberDecision:
        channel = ChannelDecision(open=is_open, closed_by=None if is_open else "evidence")
        return MemberDecision(tier=Tier.API if is_open else Tier.HELD, channels={Channel.API: channel})

    members = {name: member(is_open) for name, is_open in open_.items()}
    return Decision(family="f", version="1.0.0", policies=(), members=members, components=())


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Which members are open; change it to change the evidence."""
    state = {"small": True, "large": True}

    async def decide(*_: object) -> families.Judged:
        return families.Judged(decision=judge(**state), warnings=())

    monkeypatch.setattr(families, "decide_from_store", decide)
    return state


async def test_a_member_that_became_held_disappears(tmp_path: Path, decided: dict[str, bool]) -> None:
    (tmp_path / "family.yaml").write_text(FAMILY)
    gateway = FakeGateway()
    reloader = Reloader(families.FamilySource(tmp_path / "family.yaml", Opener(tmp_path / "data")))
    first = await reloader.first()
    assert list(first.routes) == ["small", "large"]
    reloader.start(gateway)
    decided["large"] = False
    (tmp_path / "family.yaml").touch()  # the file alone is no reason
    await asyncio.sleep(0.3)
    assert gateway.swaps == 0
    reloader.ask()
    await until(lambda: gateway.swaps == 1)
    assert list(gateway.routes) == ["small"]
    assert gateway.routes["small"].targets[0] is first.routes["small"].targets[0]
    assert [target.name for target in gateway.retired] == ["large"]
    await reloader.stop()


async def test_a_held_member_leaves_its_routes_and_does_not_keep_the_others(
    tmp_path: Path, decided: dict[str, bool]
) -> None:
    (tmp_path / "family.yaml").write_text(FAMILY)
    text = (
        "kind: dutchdoor/routes@1\ntargets: {s: {family: family.yaml, member: small}, "
        "l: {family: family.yaml, member: large}}\nroutes: {both: {s: 1, l: 9}, only: [l]}\n"
    )
    opener = Opener(tmp_path / "data")
    loaded_ = load_routes(write(tmp_path, text))
    decided["large"] = False
    with pytest.raises(HeldError, match="is not open"):  # at first it is an error
        await opener.build(loaded_)
    decided["large"] = True
    await opener.build(loaded_)
    decided["large"] = False
    built = await opener.build(loaded_)
    assert list(built.routes) == ["both"] and built.routes["both"].weights == (1.0,)
    assert [target.name for target in built.retired] == ["l"]


# -- the watch


async def until(fact: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come to that in time"
        await asyncio.sleep(0.01)


class Worker:
    """A serving process in small: a reloader over a gateway, and what it said last."""

    def __init__(self, path: Path) -> None:
        self.gateway = FakeGateway()
        self.said: list[Status] = []
        self.reloader = Reloader(RoutesSource(path, Opener(path.parent / "data")))

    async def __aenter__(self) -> "Worker":
        self.gateway.routes = (await self.reloader.first()).routes
        self.reloader.start(self.gateway, report=self.report, base_url="http://x/v1")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reloader.stop()

    def report(self, data: bytes) -> None:
        self.said.append(msgspec.json.decode(data, type=Status))


async def test_a_changed_file_becomes_the_routes_and_is_acknowledged(tmp_path: Path) -> None:
    path = write(tmp_path, URLS)
    async with Worker(path) as worker:
        assert worker.said[0].digest == digest_file(path) and worker.said[0].error is None
        assert worker.said[0].routes == str(path)
        write(tmp_path, URLS.replace("r: [a]", "r: [b]"))
        await until(lambda: len(worker.said) == 2)
        assert worker.gateway.to("r") == ["b"]
        assert worker.said[1].digest == digest_file(path) and worker.said[1].error is None


async def test_a_broken_file_keeps_the_old_routes_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, URLS)
    async with Worker(path) as worker:
        with caplog.at_level(logging.ERROR, logger="dutchdoor.gateway"):
            write(tmp_path, URLS.replace("s: [b]", "s: [c]"))
            await until(lambda: len(worker.said) == 2)
        assert worker.gateway.to("s") == ["b"] and worker.gateway.swaps == 0
        assert worker.said[1].digest == digest_file(path)
        assert "there is no target 'c'" in str(worker.said[1].error)
        (record,) = [each for each in caplog.records if "routes-refused" in each.getMessage()]
        assert "there is no target 'c'" in record.getMessage()
        path.unlink()
        await asyncio.sleep(0.25)  # a file that is gone is one that is being replaced
        write(tmp_path, URLS.replace("s: [b]", "s: [a]"))
        await until(lambda: len(worker.said) == 3)
        assert worker.gateway.to("s") == ["a"] and worker.said[2].error is None


async def test_a_file_that_is_still_written_to_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, URLS)
    async with Worker(path) as worker:
        changed = URLS.replace("r: [a]", "r: [b]")
        with path.open("w") as file:
            for start in range(0, len(changed), 20):
                file.write(changed[start : start + 20])
                file.flush()
                await asyncio.sleep(0.03)
        await until(lambda: worker.gateway.swaps == 1)
        assert worker.gateway.to("r") == ["b"]
        assert not any(said.error for said in worker.said)


async def test_a_fault_of_ours_does_not_stop_the_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, URLS)
    async with Worker(path) as worker:
        source = worker.reloader._source
        assert isinstance(source, RoutesSource)
        source.read = {}.pop
        with caplog.at_level(logging.CRITICAL, logger="dutchdoor.gateway"):
            worker.reloader.ask()
            await until(lambda: len(worker.said) == 2)
        assert "KeyError" in str(worker.said[1].error)
        source.read = load_routes
        worker.reloader.ask()
        await until(lambda: worker.gateway.swaps == 1)


# -- `routes set`


@contextlib.contextmanager
def living(monkeypatch: pytest.MonkeyPatch, *workers: Worker, silent: Status | None = None) -> Iterator[None]:
    """What the run files of these workers hold."""

    def read(_: Path) -> list[bytes]:
        said = [worker.said[-1] for worker in workers] + ([silent] if silent else [])
        return [msgspec.json.encode(each) for each in said] + [b"", b"not a status"]

    with monkeypatch.context() as patched:
        patched.setattr(status.runs, "living", read)
        yield


async def test_a_swap_returns_when_all_who_serve_the_file_have_switched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, URLS)
    (tmp_path / "elsewhere").mkdir()
    other = write(tmp_path / "elsewhere", URLS)
    async with Worker(path) as one, Worker(path) as two, Worker(other) as three:
        with living(monkeypatch, one, two, three):
            done = await swap_route(path, "r", ["b", "a"], tmp_path)
        assert (done.workers, done.to, done.weights) == (2, ("b", "a"), None)
        assert one.gateway.to("r") == two.gateway.to("r") == ["b", "a"]
        assert three.gateway.swaps == 0


async def test_without_a_server_the_file_is_only_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, URLS)
    with living(monkeypatch):
        done = await swap_route(path, "r", {"a": 1, "b": 3}, tmp_path)
    assert (done.workers, done.weights) == (0, (1.0, 3.0))
    assert path.read_text() == URLS.replace("r: [a]", "r: {a: 1, b: 3}")


async def test_what_a_worker_cannot_use_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = URLS.replace("model: n}", "model: n, key_env: NO_SUCH_KEY}").replace("  s: [b]\n", "")
    path = write(tmp_path, text)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    async with Worker(path) as worker:
        with living(monkeypatch, worker), pytest.raises(RefusedError, match="NO_SUCH_KEY is not set"):
            await swap_route(path, "r", ["b"], tmp_path)
        assert path.read_text() == text
        await until(lambda: worker.said[-1].error is None)
        assert worker.gateway.to("r") == ["a"]


async def test_a_worker_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, URLS)
    silent = Status(pid=1, routes=str(path), digest="sha256:0", error=None, base_url=None)
    async with Worker(path) as worker:
        with (
            living(monkeypatch, worker, silent=silent),
            pytest.raises(EngineError, match="1 of 2 processes switched"),
        ):
            await swap_route(path, "r", ["b"], tmp_path, timeout_s=0.5)
        assert "r: [b]" in path.read_text()


async def test_two_swaps_at_once_both_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, URLS)
    async with Worker(path) as worker:
        with living(monkeypatch, worker):
            await asyncio.gather(
                swap_route(path, "r", ["b"], tmp_path), swap_route(path, "s", ["a"], tmp_path)
            )
        assert (worker.gateway.to("r"), worker.gateway.to("s")) == (["b"], ["a"])


def test_no_setting_of_a_route_is_lost(tmp_path: Path) -> None:
    names = [f"r{index}" for index in range(8)]
    text = URLS.replace("  r: [a]\n", "".join(f"  {name}: [a]\n" for name in names))
    path = write(tmp_path, text)
    threads = [threading.Thread(target=set_route, args=(path, name, ["b"])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text().count("[b]") == 9


async def test_who_waits_too_long_for_another_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, URLS)
    with swap._locked(path), pytest.raises(DutchdoorError, match="another command"):
        await swap_route(path, "r", ["b"], tmp_path, timeout_s=0.1)
    assert path.read_text() == URLS
