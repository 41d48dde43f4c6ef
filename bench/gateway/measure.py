"""One peer under load: what is measured, in which order, and what makes a measurement count.

A measurement with a single wrong answer is failed: it has a reason and no figures.
"""

import json
import os
import selectors
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import Launch, Peer, wait_for_port
from process import Tree, ask, free_port, listening

HERE = Path(__file__).resolve().parent
IN_FLIGHT = 64
RATE = 50  # requests a second of the open loop
WORDS = 100  # events of a stream
SHORT = 8  # events of a stream whose first one is timed
PROMPT = 900  # bytes


class Failed(Exception):  # noqa: N818 — a state, not an error of ours
    """A peer or a measurement of it is out; the message says why."""


@dataclass(frozen=True)
class Plan:
    warm_s: float
    seconds: float
    stream_s: float
    open_s: float
    step_s: float
    ceiling: bool = True  # also what upstream and load generator can do without a gateway


FULL = Plan(warm_s=0.8, seconds=3.0, stream_s=3.0, open_s=3.0, step_s=3.0)
QUICK = Plan(warm_s=0.3, seconds=1.5, stream_s=0.0, open_s=1.0, step_s=1.0, ceiling=False)


@dataclass(frozen=True)
class Cores:
    """Which cores the gateways and the load have. With two or more they never share one."""

    gateway: frozenset[int]
    upstream: frozenset[int]
    load: frozenset[int]

    @staticmethod
    def split(everything: bool = False) -> "Cores":
        mine = sorted(os.sched_getaffinity(0))
        if everything or len(mine) == 1:
            return Cores(*[frozenset(mine)] * 3)
        return Cores(frozenset(mine[:1]), frozenset(mine[1:2]), frozenset(mine[2:3] or mine[1:2]))


def build(cache: Path) -> None:
    """Compile upstream and load generator where they are older than their source."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise SystemExit("error: there is no C compiler\n\nhint: apt-get install gcc libc6-dev")
    (cache / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "load"):
        source, program = HERE / f"{name}.c", cache / "bin" / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            done = subprocess.run(
                [compiler, "-O2", "-o", str(program), str(source)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise SystemExit(f"error: {source.name} does not compile\n\n{done.stderr}")


def request(launch: Launch, *, stream: bool, words: int = WORDS, in_step: bool = False) -> bytes:
    marks = f"chunks={words} " + ("lane=0000 " if in_step else "")
    fields: dict[str, Any] = {
        "model": launch.model,
        "messages": [{"role": "user", "content": marks + "words of a question " * (PROMPT // 20)}],
        "max_tokens": 256,
    }
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(fields, separators=(",", ":")).encode()
    heads = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        **launch.headers,
        "content-length": str(len(body)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in heads.items())
    return f"POST {launch.path} HTTP/1.1\r\n{lines}\r\n".encode() + body


@dataclass
class Load:
    """The load generator, and how many good answers it has got in all."""

    program: Path
    work: Path
    lanes: Path  # memory that it shares with the upstream
    cores: Cores
    answers: dict[str, int] = field(default_factory=dict)

    def run(
        self,
        name: str,
        launch: Launch,
        port: int,
        *,
        mode: str,
        amount: float,
        warm_s: float,
        seconds: float,
        stream: bool = False,
        words: int = WORDS,
        in_step: bool = False,
        grace_s: float = 5.0,
        at_edge: Callable[[], float] | None = None,
    ) -> dict[str, Any]:
        """What it found, with `cpu_s`, the difference of `at_edge` between end and beginning of the measured time."""
        file = self.work / "request"
        file.write_bytes(request(launch, stream=stream, words=words, in_step=in_step))
        expected = words if stream else 16
        command = [
            *(
                str(self.program),
                str(port),
                str(file),
                mode,
                str(amount),
                str(warm_s),
                str(seconds),
                str(expected),
            ),
            *("stream" if stream else "whole", str(grace_s), str(self.lanes)),
        ]
        tree = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cores.load),  # noqa: PLW1509 — no threads
        )  # fmt: skip
        edges: list[float] = []
        found: dict[str, Any] = {}
        try:
            for line in _lines(tree, time.monotonic() + warm_s + seconds + grace_s + 10):
                if line.startswith("{"):
                    found = json.loads(line)
                elif at_edge:
                    edges.append(at_edge())
        finally:
            if tree.poll() is None:
                tree.kill()
            tree.wait()
            if tree.stdout:
                tree.stdout.close()
        if not found:
            raise Failed("the load generator did not end")
        self.answers[name] = self.answers.get(name, 0) + found["total"]
        if found["errors"]:
            raise Failed(f"{found['errors']} wrong answers: {found['error'][:160]}")
        if mode == "closed" and not found["requests"] and not found["words"]:
            raise Failed("no answer in the measured time")
        found["cpu_s"] = edges[1] - edges[0] if len(edges) == 2 else 0.0
        return found


def _lines(process: "subprocess.Popen[str]", until: float) -> Any:
    assert process.stdout
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while waiting.select(max(0.0, until - time.monotonic())):
            line = process.stdout.readline()
            if not line:
                return
            yield line


@dataclass
class Running:
    peer: Peer
    launch: Launch
    tree: Tree
    port: int
    start_s: float
    ready_s: float | None


def start(peer: Peer, work: Path, upstream: int, cores: Cores, workers: int = 1) -> Running:
    """Spawn it and wait for the first real answer; the times count from the spawn."""
    work.mkdir(parents=True, exist_ok=True)
    launch = peer.prepare(work, free_port(), upstream, workers)
    log = None if launch.silent else work / "log"
    # what this Python was started with is no business of theirs; ours may be a source tree named by PYTHONPATH
    dropped = ("VIRTUAL_ENV",) if peer.name == "dutchdoor" else ("VIRTUAL_ENV", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in dropped} | launch.env
    tree = Tree(launch.command, cores=cores.gateway, log=log, env=env, cwd=work)
    try:
        until = tree.started + launch.start_limit_s
        port = wait_for_port(launch, lambda: tree.alive, launch.start_limit_s)
        whole = request(launch, stream=False)
        ready_s, seen = None, b""
        while port and tree.alive and time.monotonic() < until:
            if launch.ready_path and ready_s is None:
                got = f"GET {launch.ready_path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
                if ask(port, got.encode(), 2)[0] == 200:
                    ready_s = time.monotonic() - tree.started
            if ready_s is not None or not launch.ready_path:
                status, seen = ask(port, whole)
                if status == 200:
                    return Running(peer, launch, tree, port, time.monotonic() - tree.started, ready_s)
            time.sleep(0.003)
        why = "it ended" if not tree.alive else f"no answer in {launch.start_limit_s:.0f} s"
        raise Failed(f"{why}: {_last_words(peer, launch, log, seen, env)}")
    except BaseException:
        tree.end()
        raise


def _last_words(peer: Peer, launch: Launch, log: Path | None, seen: bytes, env: dict[str, str]) -> str:
    if seen:
        return seen[-200:].decode(errors="replace")
    if log is None:  # it was silent: once more, aloud
        try:
            done = subprocess.run(
                launch.command, check=False, capture_output=True, text=True, timeout=4, env=env
            )
            text = done.stderr
        except subprocess.TimeoutExpired as error:
            text = (error.stderr or b"").decode(errors="replace")
    else:
        text = log.read_text(errors="replace") if log.exists() else ""
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:])[:300]


def start_again(peer: Peer, work: Path, upstream: int, cores: Cores) -> tuple[float, float | None]:
    """One more start, timed, and ended at once."""
    once = start(peer, work, upstream, cores)
    once.tree.end()
    return once.start_s, once.ready_s


def direct(load: Load, port: int, plan: Plan) -> dict[str, Any]:
    """The same without a gateway: what the open loop's times are compared with."""
    launch = Launch([], port=port)
    found: dict[str, Any] = {}
    whole = load.run("direct", launch, port, mode="open", amount=RATE, warm_s=0.3, seconds=plan.open_s)
    first = load.run(
        "direct",
        launch,
        port,
        mode="open",
        amount=RATE,
        warm_s=0.3,
        seconds=plan.open_s,
        stream=True,
        words=SHORT,
    )
    found["latency_us"], found["first_us"] = whole["latency_us"], first["first_us"]
    most = load.run("direct", launch, port, mode="closed", amount=IN_FLIGHT, warm_s=0.2, seconds=0.6)
    streams = load.run(
        "direct",
        launch,
        port,
        mode="closed",
        amount=IN_FLIGHT,
        warm_s=0.2,
        seconds=0.6,
        stream=True,
        in_step=True,
    )
    found["requests_s"] = most["requests"] / most["seconds"]
    found["chunks_s"] = streams["words"] / streams["seconds"]
    return found


def weigh(one: Running, load: Load, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures of one peer in one round; what failed is in `failed` by the name of the measurement."""
    found: dict[str, Any] = {"failed": {}}
    grace = one.peer.drain_s
    common: dict[str, Any] = {"at_edge": one.tree.cpu_s, "grace_s": grace}
    name, launch, port = one.peer.name, one.launch, one.port

    def saturation() -> None:
        got = load.run(
            name,
            launch,
            port,
            mode="closed",
            amount=IN_FLIGHT,
            warm_s=plan.warm_s,
            seconds=plan.seconds,
            **common,
        )
        found["requests_s"] = got["requests"] / got["seconds"]
        found["cpu_us"] = got["cpu_s"] / got["requests"] * 1e6
        found["busy"] = got["cpu_s"] / got["seconds"]
        found["saturated_p50_us"], found["saturated_p99_us"] = got["p50_us"], got["p99_us"]

    def streams() -> None:
        got = load.run(
            name, launch, port, mode="closed", amount=IN_FLIGHT, warm_s=plan.warm_s, seconds=plan.stream_s,
            stream=True, **common,
        )  # fmt: skip
        found["rush_chunks_s"] = got["words"] / got["seconds"]

    def in_step() -> None:
        got = load.run(
            name, launch, port, mode="closed", amount=IN_FLIGHT, warm_s=plan.warm_s, seconds=plan.step_s,
            stream=True, in_step=True, **common,
        )  # fmt: skip
        found["chunks_s"] = got["words"] / got["seconds"]
        found["chunk_cpu_us"] = got["cpu_s"] / got["words"] * 1e6
        found["stream_busy"] = got["cpu_s"] / got["seconds"]

    def timetable() -> None:
        got = load.run(
            name, launch, port, mode="open", amount=RATE, warm_s=0.3, seconds=plan.open_s, grace_s=grace
        )
        found["latency_us"], found["late"] = got["latency_us"], got["asked"] - got["requests"]

    def first() -> None:
        got = load.run(
            name, launch, port, mode="open", amount=RATE, warm_s=0.3, seconds=plan.open_s, stream=True, words=SHORT,
            grace_s=grace,
        )  # fmt: skip
        found["first_us"], found["late_first"] = got["first_us"], got["asked"] - got["requests"]

    steps = {"requests": saturation, "streams": in_step, "latency": timetable, "first token": first}
    if plan.stream_s:
        steps["rushed streams"] = streams
    for step, work in steps.items():
        try:
            work()
        except Failed as error:
            found["failed"][step] = str(error)
            say(f"{one.peer.title}, {step}: {error}")
        if not one.tree.alive:
            found["failed"].setdefault(step, "it ended")
            break
    found["memory_mb"] = one.tree.memory_mb()
    return found


def fdatasync_us(folder: Path, times: int = 200) -> float:
    """Median of small appends, each followed by fdatasync, on the disk of the data folder."""
    file = folder / "sync"
    took = []
    with file.open("wb", buffering=0) as out:
        for _ in range(times):
            began = time.perf_counter()
            out.write(b"x" * 512)
            os.fdatasync(out.fileno())
            took.append(time.perf_counter() - began)
    file.unlink()
    return statistics.median(took) * 1e6


def start_upstream(program: Path, cores: Cores, lanes: Path) -> tuple[Tree, int]:
    port = free_port()
    tree = Tree([str(program), str(port), str(lanes)], cores=cores.upstream, log=None)
    until = time.monotonic() + 5
    while not listening(port):
        if not tree.alive or time.monotonic() > until:
            tree.end()
            raise SystemExit("error: the upstream does not start")
        time.sleep(0.01)
    return tree, port
