"""Measures the gateway beside nginx, TensorZero, Portkey and LiteLLM, and writes docs/benchmarks/gateway.md.

    python bench/gateway/run.py [--peers NAMES] [--rounds N] [--seconds S] [--quick] [--profile] [--all-cores]

Under fifteen minutes on two cores, peers' installation included. All peers run beside one upstream and are measured
in turn, the others paused; each figure is the median of the rounds. Peers go into bench/.peers/ and stay there.
Progress on stderr, the table on stdout. --quick: ours and nginx, one round, under 20 seconds, writes no page.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import page
import peers
from measure import (
    FULL,
    QUICK,
    Cores,
    Failed,
    Load,
    Plan,
    Running,
    build,
    direct,
    fdatasync_us,
    start,
    start_again,
    start_upstream,
    weigh,
)
from process import Tree, listening, sweep

BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)


def main() -> int:
    options = _options()
    if options.dutchdoor:
        program, *rest = shlex.split(options.dutchdoor)
        found = shutil.which(program)
        if not found:
            raise SystemExit(f"error: there is no command {program}")
        peers.OURS[:] = [str(Path(found).absolute()), *rest]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    peers.CACHE.mkdir(exist_ok=True)
    (peers.CACHE / ".gitignore").write_text("*\n")
    with (peers.CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                "error: another run of the benchmark is going on\n\nhint: wait until it ends"
            ) from None
        sweep(peers.CACHE)
        build(peers.CACHE)
        return _profile() if options.profile else _compare(options)


def _compare(options: argparse.Namespace) -> int:
    names = ["dutchdoor", "nginx"] if options.quick else options.peers
    plan = (
        QUICK
        if options.quick
        else replace(FULL, **dict.fromkeys(("seconds", "stream_s", "step_s", "open_s"), options.seconds))
    )
    result = _measure(names, plan, options)
    medians = page.summarise(result)
    bars = page.bars(result, medians)
    if options.quick:
        last = peers.CACHE / "quick.json"
        before = json.loads(last.read_text()) if last.exists() else {}
        print(page.short(result, medians, bars, before))
        if "dutchdoor" in medians:
            last.write_text(json.dumps(medians))
    else:
        page.write(result, medians, bars, keep=options.no_page)
        print(page.table(result, medians, bars))
    return 1 if any(one["failed"] for one in medians.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ",".join(peers.PEERS)
    parser.add_argument("--peers", default=every, help=f"which ones, ours included  [default: {every}]")
    parser.add_argument("--rounds", type=int, default=5, help="medians are of so many  [default: 5]")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement  [default: 3]")
    parser.add_argument("--quick", action="store_true", help="ours and nginx, one round, no page")
    parser.add_argument("--profile", action="store_true", help="where ours spends its time, by py-spy")
    parser.add_argument(
        "--all-cores", action="store_true", help="a second look at the end: a worker a core, no pinning"
    )
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks alone")
    parser.add_argument(
        "--limit", type=float, default=840, help="no new round that would end later, s  [default: 840]"
    )
    parser.add_argument("--dutchdoor", metavar="COMMAND", help="ours  [default: .venv/bin/dutchdoor]")
    options = parser.parse_args()
    options.peers = options.peers.split(",")
    if unknown := set(options.peers) - set(peers.PEERS):
        parser.error(f"unknown peers {', '.join(sorted(unknown))}; there are {every}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("at least one round, and some seconds")
    return options


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _installed(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Those of the peers that are here, and why the others are not."""
    here, missing = [], {}
    for name in names:
        try:
            peers.PEERS[name].install(peers.PINS.get(name.partition("-")[0], ""), say)
            here.append(name)
        except peers.Missing as error:
            missing[name] = str(error)
            say(f"{peers.PEERS[name].title} is left out: {error}")
    return here, missing


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder on the repository's disk, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=peers.CACHE, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _cleaning() -> Iterator[contextlib.ExitStack]:
    """What is pushed on it is undone at the end, and a second Ctrl-C does not cut that short."""
    with contextlib.ExitStack() as undo:
        try:
            yield undo
        finally:
            before = {
                number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
            }
            undo.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def _measure(names: list[str], plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    names, missing = _installed(names)
    cores = Cores.split()
    load_before = os.getloadavg()[0]
    rounds: list[dict[str, Any]] = []
    starts: dict[str, list[tuple[float, float | None]]] = {}
    with _workplace() as work, _cleaning() as undo:
        upstream, port = start_upstream(peers.CACHE / "bin" / "upstream", cores, work / "lanes")
        undo.callback(upstream.end)
        load = Load(peers.CACHE / "bin" / "load", work, work / "lanes", cores)
        sync_us = fdatasync_us(work)
        running: dict[str, Running] = {}
        for name in names:
            try:
                one = start(peers.PEERS[name], work / name, port, cores)
            except (Failed, peers.Missing) as error:
                missing[name] = f"does not start: {error}"
                say(f"{peers.PEERS[name].title} does not start: {error}")
                continue
            undo.callback(one.tree.end)
            running[name] = one
            load.answers[name] = 1
            starts[name] = [(one.start_s, one.ready_s)]
            say(f"{one.peer.title} {one.peer.version()} answered after {one.start_s:.2f} s")
            one.tree.pause()
        wanted = 1 if options.quick else options.rounds
        for number in range(wanted):
            began = time.monotonic()
            rounds.append(_round(running, load, port, plan, work, cores, starts, again=not options.quick))
            took = time.monotonic() - began
            say(f"round {number + 1} of {wanted}: {took:.0f} s")
            if number + 1 < wanted and time.monotonic() - BEGAN + took > options.limit:
                say(f"time is up: {number + 1} rounds instead of {wanted}")
                break
        ledger = _ledger(running, load, work)
        wide = _wide(running, load, port, plan, work) if options.all_cores and not options.quick else {}
        ports = [one.port for one in running.values()] + [port]
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": page.machine(),
        "cores": {name: sorted(getattr(cores, name)) for name in ("gateway", "upstream", "load")},
        "load_before": load_before,
        "plan": vars(plan),
        "versions": {name: one.peer.version() for name, one in running.items()},
        "missing": missing,
        "fdatasync_us": sync_us,
        "starts": starts,
        "ledger": ledger,
        "rounds": rounds,
        "wide": wide,
        "took_s": time.monotonic() - BEGAN,
    }
    if left := [one for one in ports if listening(one)]:
        say(f"ports still taken: {left}")
    return result


def _round(
    running: dict[str, Running],
    load: Load,
    upstream: int,
    plan: Plan,
    work: Path,
    cores: Cores,
    starts: dict[str, list[tuple[float, float | None]]],
    *,
    again: bool,
) -> dict[str, Any]:
    """Each peer once, the others paused meanwhile; and once more without any."""
    found: dict[str, Any] = {"direct": direct(load, upstream, plan)}
    for name, one in running.items():
        one.tree.go_on()
        time.sleep(0.05)
        found[name] = weigh(one, load, plan, say)
        one.tree.pause()
        rate = found[name].get("requests_s", 0)
        say(f"{one.peer.title}: {rate:,.0f} requests/s, {found[name].get('cpu_us', 0):,.0f} µs each")
        if again and starts[name][0][0] < 5:  # a slow one is started once
            with contextlib.suppress(Failed, peers.Missing):
                starts[name].append(start_again(one.peer, work / f"{name}-again", upstream, cores))
            shutil.rmtree(work / f"{name}-again", ignore_errors=True)
    return found


def _ledger(running: dict[str, Running], load: Load, work: Path) -> dict[str, int | None]:
    """What our ledger booked, beside what the load generator received in full."""
    if "dutchdoor" not in running:
        return {}
    running["dutchdoor"].tree.go_on()
    time.sleep(0.2)
    return {"booked": peers.booked(work / "dutchdoor"), "received": load.answers["dutchdoor"]}


def _wide(running: dict[str, Running], load: Load, upstream: int, plan: Plan, work: Path) -> dict[str, Any]:
    """All cores for everyone, a worker a core: a look at saturation, once."""
    cores = Cores.split(everything=True)
    found: dict[str, Any] = {}
    once = replace(plan, open_s=0.5, stream_s=0)
    for one in running.values():
        one.tree.end()
    for name in running:
        try:
            wide = start(peers.PEERS[name], work / f"{name}-wide", upstream, cores, len(cores.gateway))
        except (Failed, peers.Missing) as error:
            say(f"{peers.PEERS[name].title} with a worker a core does not start: {error}")
            continue
        try:
            got = weigh(wide, load, once, say)
            found[name] = {key: got.get(key) for key in ("requests_s", "cpu_us", "chunks_s", "memory_mb")}
        finally:
            wide.tree.end()
    return found


def _profile() -> int:
    """Where the time goes: py-spy on ours under saturation, the functions with the most time of their own."""
    spy = peers.CACHE / "py-spy" / "bin" / "py-spy"
    peers._python_env("py-spy", "py-spy")(peers.PINS["py-spy"], say)
    cores = Cores.split()
    with _workplace() as work, _cleaning() as undo:
        upstream, port = start_upstream(peers.CACHE / "bin" / "upstream", cores, work / "lanes")
        undo.callback(upstream.end)
        one = start(peers.PEERS["dutchdoor"], work / "dutchdoor", port, cores)
        undo.callback(one.tree.end)
        load = Load(peers.CACHE / "bin" / "load", work, work / "lanes", cores)
        for stream in (False, True):
            out = work / "profile"
            command = [
                str(spy),
                "record",
                "-p",
                str(one.tree.process.pid),
                "-d",
                "4",
                "-r",
                "400",
                "-f",
                "raw",
            ]
            recorder = Tree([*command, "-o", str(out)], cores=cores.load, log=work / "spy.log")
            try:
                load.run(
                    "dutchdoor",
                    one.launch,
                    one.port,
                    mode="closed",
                    amount=64,
                    warm_s=0.3,
                    seconds=4.5,
                    stream=stream,
                )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    recorder.process.wait(10)
            finally:
                recorder.end()
            if not out.exists():
                print((work / "spy.log").read_text(), file=sys.stderr)
                return 1
            print(page.profile(out.read_text(), "streams" if stream else "whole answers"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
