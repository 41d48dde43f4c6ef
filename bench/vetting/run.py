"""What asking 2,000 cases costs, ours beside its peers, and the page that says so.

    .venv/bin/python bench/vetting/run.py [--tools Dutchdoor,"bare loop"] [--no-page]

An endpoint of its own answers each request after 50 ms; every tool has 64 in flight, so no tool can take less than
2,000 / 64 waves of 50 ms. Each tool is also called over one wave: what that costs is its start, and the difference is
what 2,000 samples cost. Linux only.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import CACHE, HERE, ROOT, TOOLS, Call, Missing, Tool, write_cases

CASES, CONCURRENCY, LATENCY_MS = 2000, 64, 50
WAVE_S = LATENCY_MS / 1000
IDEAL_S = WAVE_S * CASES / CONCURRENCY
MOST_WALL, MOST_CPU = 1.3, 1.5  # × ideal, × the bare loop
SCORE = 0.9  # one case in ten has a wrong target
LIMIT_S = 240
PAGE = ROOT / "docs" / "benchmarks" / "vetting.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class Cost:
    """What one command took."""

    wall_s: float
    cpu_s: float  # of the process and all its children that ended
    peak_mb: float
    asking_s: float  # from the first request to the last answer, as the endpoint saw it
    answered: int
    score: float


@dataclass
class Row:
    """A tool's medians; `net` is what all cases cost beyond one wave of them."""

    tool: Tool
    version: str
    failed: str = ""
    whole: Cost | None = None
    start: Cost | None = None
    net_wall_s: float = 0.0
    net_cpu_ms: float = 0.0  # a sample


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", default=",".join(TOOLS), help="which ones  [default: all]")
    parser.add_argument("--no-page", action="store_true", help="print the tables and leave the page as it is")
    options = parser.parse_args()
    chosen = [TOOLS[name.strip()] for name in options.tools.split(",")]
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    with tempfile.TemporaryDirectory(prefix="bench-vetting-") as folder:
        rows = measure(chosen, Path(folder))
    text = page(rows)
    print(text)
    if not options.no_page and len(chosen) == len(TOOLS):
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    return 1 if any(row.failed for row in rows[:2]) else 0


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(tools: list[Tool], folder: Path) -> list[Row]:
    """All tools in turn, round by round, so that what drifts on the machine hits all alike."""
    rows = [prepared(tool) for tool in tools]
    costs: dict[str, list[tuple[Cost, Cost]]] = {row.tool.name: [] for row in rows}
    port = free_port()
    endpoint = subprocess.Popen([str(build()), str(port), str(LATENCY_MS)], preexec_fn=bound(last=True))  # noqa: PLW1509
    try:
        for at in range(max(tool.rounds for tool in tools)):
            for row in rows:
                if not row.failed and at < row.tool.rounds:
                    say(f"round {at + 1}: {row.tool.name}")
                    attempt(row, costs[row.tool.name], folder / f"{at}", port)
    finally:
        endpoint.kill()
        endpoint.wait()
    for row in rows:
        summarise(row, costs[row.tool.name])
    return rows


def prepared(tool: Tool) -> Row:
    try:
        tool.install(say)
        return Row(tool, tool.version())
    except Missing as error:
        return Row(tool, "–", failed=f"not to be had: {error}")


def attempt(row: Row, costs: list[tuple[Cost, Cost]], folder: Path, port: int) -> None:
    try:
        start = ask(row.tool, folder / f"{row.tool.name.replace(' ', '-')}-start", CONCURRENCY, port)
        whole = ask(row.tool, folder / f"{row.tool.name.replace(' ', '-')}-whole", CASES, port)
    except (Missing, AssertionError, LookupError, ValueError) as error:
        row.failed = f"failed: {error}"
    else:
        costs.append((start, whole))


def ask(tool: Tool, folder: Path, count: int, port: int) -> Cost:
    """One command over so many cases. Raises Missing when it fails or does not ask or score all of them."""
    write_cases(folder, count)
    told(port)  # forgets what came before
    cost = run(tool.call(folder, f"http://127.0.0.1:{port}/v1", CONCURRENCY), folder, port)
    expected = SCORE if count == CASES else sum(i % 10 > 0 for i in range(count)) / count
    if cost.answered != count or abs(cost.score - expected) > 1e-9:
        raise Missing(f"{cost.answered} of {count} asked, score {cost.score} where {expected} is right")
    return cost


def run(call: Call, folder: Path, port: int) -> Cost:
    log = folder / "log.txt"
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            call.command, cwd=folder, env={**os.environ, **call.env}, stdout=out, stderr=out,
            preexec_fn=bound(last=False),  # noqa: PLW1509
        )  # fmt: skip
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - started > LIMIT_S:
            process.kill()
        time.sleep(0.005)
    wall_s = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]  # the one that says what it is
        raise Missing(f"ended with {process.returncode}: {' '.join(last)[:120]}")
    seen = told(port)
    return Cost(
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_mb=used.ru_maxrss * 1024 / 1e6,
        asking_s=seen["took_us"] / 1e6,
        answered=seen["answered"],
        score=call.score(),
    )


def told(port: int) -> dict[str, int]:
    """What the endpoint counted since it was last asked."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                found: dict[str, int] = json.load(answer)
                return found
        except OSError:
            time.sleep(0.05)
    raise SystemExit("error: the endpoint does not answer")


def summarise(row: Row, costs: list[tuple[Cost, Cost]]) -> None:
    if row.failed or not costs:
        return
    row.start, row.whole = (
        Cost(
            *(statistics.median(getattr(pair[side], name) for pair in costs) for name in Cost.__annotations__)
        )
        for side in (0, 1)
    )
    row.net_wall_s = statistics.median(whole.wall_s - start.wall_s + WAVE_S for start, whole in costs)
    net = [(whole.cpu_s - start.cpu_s) / (CASES - CONCURRENCY) * 1000 for start, whole in costs]
    row.net_cpu_ms = statistics.median(net)


def build() -> Path:
    """The endpoint's program, compiled where it is older than its source."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise SystemExit("error: there is no C compiler\n\nhint: apt-get install gcc libc6-dev")
    source, program = HERE / "endpoint.c", CACHE / "bin" / "vetting-endpoint"
    program.parent.mkdir(exist_ok=True)
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def bound(*, last: bool) -> Any:
    """A hook that keeps a process on the last core, or on all others where there are others."""
    cores = sorted(os.sched_getaffinity(0))
    mine = set(cores[-1:] if last else cores[:-1] or cores)
    return lambda: os.sched_setaffinity(0, mine)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# --- the page -------------------------------------------------------------------------------------------------------


def machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores of {model}, Linux {kernel}, Python {platform.python_version()}"


def page(rows: list[Row]) -> str:
    """The tables: what each tool took, then the bars."""
    bare = next((row for row in rows if row.tool.name == "bare loop" and row.whole), None)
    load = os.getloadavg()[1]
    lines = [
        f"{time.strftime('%Y-%m-%d')}; {machine()}; load average {load:.1f}. {CASES:,} cases, {CONCURRENCY} in flight, "
        f"{LATENCY_MS} ms an answer: ideal {IDEAL_S:.2f} s. Medians of three rounds, of one for lm-eval and Inspect.",
        "",
        "| tool | asking and keeping, s (× ideal) | CPU a sample, ms (× bare) | start, CPU s "
        "| whole command, s | its CPU, s | peak memory, MB | keeps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row, bare) for row in rows]
    lines += ["", "| bar | measured | |", "|---|---|---|"]
    ours = next((row for row in rows if row.tool.name == "Dutchdoor" and row.whole), None)
    if ours is not None:
        lines.append(_bar(f"wall: at most {MOST_WALL}× ideal", ours.net_wall_s / IDEAL_S, MOST_WALL))
        if bare is not None:
            ratio = ours.net_cpu_ms / bare.net_cpu_ms
            lines.append(_bar(f"CPU a sample: at most {MOST_CPU}× the bare loop", ratio, MOST_CPU))
            assert ours.whole is not None
            assert bare.whole is not None
            whole = ours.whole.cpu_s / bare.whole.cpu_s
            lines.append(_bar(f"the same with the start of the command: {MOST_CPU}×", whole, MOST_CPU))
    return "\n".join(lines) + "\n"


def _line(row: Row, bare: Row | None) -> str:
    name = f"{row.tool.name} {row.version}"
    if row.whole is None or row.start is None:
        return f"| {name} | {row.failed or 'not measured'} |" + " |" * 6
    times = f" ({row.net_cpu_ms / bare.net_cpu_ms:.2f}×)" if bare else ""
    return (
        f"| {name} | {row.net_wall_s:.2f} ({row.net_wall_s / IDEAL_S:.2f}×) | {row.net_cpu_ms:.3f}{times} "
        f"| {row.start.cpu_s:.2f} | {row.whole.wall_s:.2f} | {row.whole.cpu_s:.2f} | {row.whole.peak_mb:.0f} "
        f"| {row.tool.keeps} |"
    )


def _bar(what: str, measured: float, most: float) -> str:
    said = "met" if measured <= most else f"missed by {measured / most:.2f}×"
    return f"| {what} | {measured:.2f}× | {said} |"


if __name__ == "__main__":
    sys.exit(main())
