"""From the rounds to medians, bars, tables and the page. Measures nothing."""

import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers

PAGE = peers.ROOT / "docs" / "benchmarks" / "gateway.md"
DATA = PAGE.with_suffix(".json")
FULL_CORE = 0.9  # of a core: below it a saturated gateway did not have it to itself
BUSY = 0.5  # a load average above which something else was running
OPEN, CLOSE = "<!-- measured: begin -->", "<!-- measured: end -->"
PLAIN = (
    *("requests_s", "cpu_us", "busy", "saturated_p50_us", "saturated_p99_us", "memory_mb"),
    *("chunks_s", "chunk_cpu_us", "stream_busy", "rush_chunks_s"),
)


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores of {model}, Linux {kernel}, Python {platform.python_version()}"


def percentile(samples: list[float], part: float) -> float:
    return sorted(samples)[round(part * (len(samples) - 1))]


def summarise(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds by peer. Added times are differences to direct access in the same round; p99 is of all
    rounds' samples together. A figure that failed in any round is None, and `failed` says why.
    """
    medians: dict[str, dict[str, Any]] = {}
    rounds = result["rounds"]
    base = [one["direct"] for one in rounds]
    direct: dict[str, Any] = {}
    for key in ("requests_s", "chunks_s"):
        direct[key] = statistics.median(one[key] for one in base) if key in base[0] else None
    for key in ("latency_us", "first_us"):
        direct[f"{key[:-3]}_p50_us"] = statistics.median(percentile(one[key], 0.5) for one in base)
        direct[f"{key[:-3]}_p99_us"] = percentile([value for one in base for value in one[key]], 0.99)
    direct["failed"] = {}
    medians["direct"] = direct
    for name in result["versions"]:
        got = [one[name] for one in rounds]
        row: dict[str, Any] = {"failed": {}}
        for one in got:
            row["failed"] |= one["failed"]
        for key in PLAIN:
            values = [one[key] for one in got if key in one]
            row[key] = statistics.median(values) if len(values) == len(rounds) else None
        for key, late in (("latency_us", "late"), ("first_us", "late_first")):
            short = key[:-3]
            good = [one.get(key) or [] for one in got]
            row[late] = sum(one.get(late, 0) for one in got)
            if not all(good) or row[late]:
                row[f"{short}_p50_us"] = row[f"{short}_p99_us"] = None
                continue
            pairs = zip(good, base, strict=True)
            row[f"{short}_p50_us"] = statistics.median(
                percentile(mine, 0.5) - percentile(plain[key], 0.5) for mine, plain in pairs
            )
            pooled = [value for one in good for value in one]
            row[f"{short}_p99_us"] = percentile(pooled, 0.99) - direct[f"{short}_p99_us"]
        row["start_s"] = statistics.median(first for first, _ in result["starts"][name])
        ready = [ready for _, ready in result["starts"][name] if ready is not None]
        row["ready_s"] = statistics.median(ready) if ready else None
        for key in ("cpu_us", "chunks_s", "chunk_cpu_us"):  # within each round, so that drift hits both
            plain = [one.get("nginx", {}).get(key) for one in rounds]
            mine = [one.get(key) for one in got]
            both = [a / b for a, b in zip(mine, plain, strict=True) if a and b]
            row[f"{key}_ratio"] = statistics.median(both) if len(both) == len(rounds) else None
        medians[name] = row
    return medians


def bars(result: dict[str, Any], medians: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each bar of the design with what was measured; `met` is None where it cannot be told."""
    ours = medians.get("dutchdoor", {})
    mine = ours.get("cpu_us")
    sync_ms = result["fdatasync_us"] / 1e3
    rows: list[dict[str, Any]] = []

    def bar(what: str, limit: float, value: float | None, form: str, *, most: bool, note: str = "") -> None:
        met = None if value is None else value <= limit if most else value >= limit
        rows.append(
            {
                "bar": what,
                "limit": limit,
                "value": value,
                "form": form,
                "met": met,
                "most": most,
                "note": note,
            }
        )

    def times(name: str) -> float | None:
        theirs = medians.get(name, {}).get("cpu_us")
        return theirs / mine if theirs and mine else None

    ratio = ours.get("cpu_us_ratio")
    bar("CPU per request, times nginx: at most 4", 4, ratio, "{:.2f}×", most=True)
    bar("the dream: at most 2", 2, ratio, "{:.2f}×", most=True)
    plain = times("litellm")
    note = f"plain {plain:.0f}×; neither keeps its own database" if plain else ""
    bar(
        "CPU per request, less than LiteLLM: at least 250×",
        250,
        times("litellm-keys"),
        "{:.0f}×",
        most=False,
        note=note,
    )
    bar("CPU per request, less than Portkey: at least 20×", 20, times("portkey"), "{:.1f}×", most=False)
    bar("CPU per request, less than TensorZero: more than 1×", 1, times("tensorzero"), "{:.2f}×", most=False)
    chunk = ours.get("chunk_cpu_us_ratio")
    note = f"CPU per chunk {chunk:.2f}× nginx" if chunk else ""
    bar(
        "stream chunks/s, times nginx: at least 0.8",
        0.8,
        ours.get("chunks_s_ratio"),
        "{:.2f}×",
        most=False,
        note=note,
    )
    first = ours.get("first_p50_us")
    bar(
        f"first token added, p50: under 1 ms + one fdatasync ({sync_ms:.2f} ms)",
        1 + sync_ms, None if first is None else first / 1e3, "{:.2f} ms", most=True,
    )  # fmt: skip
    bar("from start to the first answer: under 1 s", 1, ours.get("start_s"), "{:.2f} s", most=True)
    bar("resident after load: under 80 MB", 80, ours.get("memory_mb"), "{:.0f} MB", most=True)
    return rows


def _verdict(row: dict[str, Any]) -> str:
    if row["met"] is None:
        return "not measured"
    if row["met"]:
        return "met"
    by = row["value"] / row["limit"] if row["most"] else row["limit"] / row["value"]
    return f"missed by {by:.2f}×"


def _number(value: float | None, form: str = "{:,.0f}") -> str:
    return "–" if value is None else form.format(value)


def _small(value: float | None, form: str = "{:,.1f}") -> str:
    return "–" if value is None else form.format(value) if abs(value) < 100 else f"{value:,.0f}"


def _added(row: dict[str, Any], short: str, late: str) -> str:
    if row.get(late):
        return "does not hold 50/s"
    return _both(row, short)


def _both(row: dict[str, Any], short: str) -> str:
    half, most = row.get(f"{short}_p50_us"), row.get(f"{short}_p99_us")
    return "–" if half is None or most is None else f"{half / 1e3:.2f} / {most / 1e3:.2f}"


def _row(title: str, row: dict[str, Any]) -> str:
    broken = row["failed"]

    def cell(step: str, text: str) -> str:
        return "failed" if step in broken else text

    start_text = _number(row["start_s"], "{:.2f}")
    if row["ready_s"] is not None:
        start_text += f" (readyz {row['ready_s']:.2f})"
    cells = [
        title,
        cell("requests", _small(row["cpu_us"])),
        cell("requests", _number(row["cpu_us_ratio"], "{:.2f}")),
        cell("requests", _number(row["requests_s"])),
        cell("latency", _added(row, "latency", "late")),
        cell("first token", _added(row, "first", "late_first")),
        cell("streams", _number(row["chunks_s"])),
        cell("streams", _number(row["chunks_s_ratio"], "{:.2f}")),
        cell("streams", _small(row["chunk_cpu_us"])),
        cell("rushed streams", _number(row["rush_chunks_s"])),
        start_text,
        _number(row["memory_mb"]),
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| gateway | CPU per request, µs | × nginx | requests/s | added p50 / p99 at 50/s, ms "
    "| first token added p50 / p99, ms | stream chunks/s | × nginx | CPU per chunk, µs | chunks/s in a rush "
    "| first answer after, s | memory, MB |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def _bar_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| bar | measured | |", "|---|---|---|"]
    for row in rows:
        note = f" ({row['note']})" if row["note"] and row["value"] is not None else ""
        lines.append(f"| {row['bar']} | {_number(row['value'], row['form'])}{note} | {_verdict(row)} |")
    return "\n".join(lines)


def table(result: dict[str, Any], medians: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown: peers, bars, what failed, what was set."""
    plain = medians["direct"]
    cores = result["cores"]
    idle = "Nothing else ran on the machine"
    if result["load_before"] > BUSY:
        idle = f"Other work ran on it (load average {result['load_before']:.1f} at the start): figures for trying"
    lines = [
        f"{result['date']}; {result['machine']}; medians of {len(result['rounds'])} rounds in "
        f"{result['took_s'] / 60:.0f} minutes. {idle}. Gateways on core {_list(cores['gateway'])}, upstream on core "
        f"{_list(cores['upstream'])}, load generator on core {_list(cores['load'])}. One fdatasync takes "
        f"{result['fdatasync_us'] / 1e3:.2f} ms here.",
        "",
        HEAD,
        *(_row(_title(name, result), medians[name]) for name in result["versions"]),
        "",
        f"Without a gateway, upstream and load generator as above: {_number(plain['requests_s'])} requests/s, "
        f"{_number(plain['chunks_s'])} chunks/s, {_both(plain, 'latency')} ms at 50/s, first token "
        f"{_both(plain, 'first')} ms." + _bottleneck(medians) + _contended(medians),
        "",
        _bar_table(rows),
        "",
    ]
    if result["ledger"]:
        lines += [_ledger(result["ledger"]), ""]
    lines += [f"- {text}" for text in _wrong(result, medians)]
    if lines[-1]:
        lines.append("")
    if result["wide"]:
        lines += [_wide(result), ""]
    lines += ["| gateway | version | does for a request | settings |", "|---|---|---|---|"]
    for name, version in result["versions"].items():
        peer = peers.PEERS[name]
        lines.append(f"| {peer.title} | {version} | {peer.duties} | {peer.settings} |")
    return "\n".join(lines)


def _title(name: str, result: dict[str, Any]) -> str:
    return f"{peers.PEERS[name].title} {result['versions'][name]}"


def _list(cores: list[int]) -> str:
    return ", ".join(str(core) for core in cores)


def _bottleneck(medians: dict[str, dict[str, Any]]) -> str:
    """Says so where the load generator may have been the limit."""
    texts = []
    for key, what in (("requests_s", "requests/s"), ("chunks_s", "chunks/s")):
        limit = medians["direct"][key]
        close = [
            name
            for name, row in medians.items()
            if name != "direct" and limit and (row[key] or 0) > 0.8 * limit
        ]
        if close:
            who = ", ".join(peers.PEERS[name].title for name in close)
            texts.append(
                f" The {what} of {who} came within 80 % of it and may be the load generator's limit."
            )
    return "".join(texts)


def _contended(medians: dict[str, dict[str, Any]]) -> str:
    """Says so where a saturated nginx did not get its core: something else had it."""
    share = medians.get("nginx", {}).get("busy")
    if share is None or share > FULL_CORE:
        return ""
    return (
        f" nginx had only {share:.0%} of its core while saturated: something else ran there, so CPU times count and "
        "rates a second and latencies do not."
    )


def _ledger(found: dict[str, int | None]) -> str:
    booked, received = found["booked"], found["received"]
    if booked is None:
        return "The bill could not be read."
    same = "the same" if booked == received else "NOT the same"
    return f"Our ledger booked {booked:,} requests and the load generator received {received:,} whole answers: {same}."


def _wrong(result: dict[str, Any], medians: dict[str, dict[str, Any]]) -> list[str]:
    found = [f"{peers.PEERS[name].title} is missing: {why}" for name, why in result["missing"].items()]
    for name in result["versions"]:
        found += [
            f"{peers.PEERS[name].title}, {step}: {why}" for step, why in medians[name]["failed"].items()
        ]
    return [text.replace("|", "/").replace("<", "&lt;") for text in found]


def _wide(result: dict[str, Any]) -> str:
    lines = [
        "A second look, once: all cores for gateway, upstream and load together, a worker a core where it has workers.",
        "",
        "| gateway | requests/s | CPU per request, µs | stream chunks/s | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["wide"].items():
        cells = (row["requests_s"], row["cpu_us"], row["chunks_s"], row["memory_mb"])
        lines.append(f"| {peers.PEERS[name].title} | " + " | ".join(_number(cell) for cell in cells) + " |")
    return "\n".join(lines)


def short(
    result: dict[str, Any],
    medians: dict[str, dict[str, Any]],
    rows: list[dict[str, Any]],
    before: dict[str, Any],
) -> str:
    """A few lines for a terminal, with what the last quick run said."""
    pick: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("CPU/request µs", lambda row: _small(row.get("cpu_us"))),
        ("× nginx", lambda row: _number(row.get("cpu_us_ratio"), "{:.2f}")),
        ("requests/s", lambda row: _number(row.get("requests_s"))),
        ("p50/p99 at 64, ms", lambda row: _both(row, "saturated")),
        ("added p50/p99 at 50/s, ms", lambda row: _added(row, "latency", "late")),
        ("first token added, ms", lambda row: _added(row, "first", "late_first")),
        ("chunks/s", lambda row: _number(row.get("chunks_s"))),
        ("× nginx", lambda row: _number(row.get("chunks_s_ratio"), "{:.2f}")),
        ("CPU/chunk µs", lambda row: _small(row.get("chunk_cpu_us"))),
        ("first answer s", lambda row: _number(row.get("start_s"), "{:.2f}")),
        ("MB", lambda row: _number(row.get("memory_mb"))),
    ]
    lines = ["| | " + " | ".join(name for name, _ in pick) + " |", "|---" * (len(pick) + 1) + "|"]
    shown = [(name, medians[name]) for name in result["versions"]]
    if "dutchdoor" in before and "dutchdoor" in medians:
        shown.insert(1, ("before", before["dutchdoor"]))
    for name, row in shown:
        lines.append(f"| {name} | " + " | ".join(show(row) for _, show in pick) + " |")
    lines += [
        "",
        f"fdatasync {result['fdatasync_us'] / 1e3:.2f} ms, load average {result['load_before']:.1f}, one short round."
        + _contended(medians),
    ]
    lines += [
        f"{'met   ' if row['met'] else 'missed'} {row['bar']}: {_number(row['value'], row['form'])}"
        for row in rows
        if row["met"] is not None
    ]
    lines += ["FAILED " + text for text in _wrong(result, medians)]
    if result["ledger"]:
        lines.append(_ledger(result["ledger"]))
    return "\n".join(lines)


def write(
    result: dict[str, Any], medians: dict[str, dict[str, Any]], rows: list[dict[str, Any]], *, keep: bool
) -> None:
    """Put the tables between the page's markers and the figures beside it; into bench/.peers where `keep`."""
    rounds = [  # without the single samples
        {
            name: {key: value for key, value in one.items() if key not in ("latency_us", "first_us")}
            for name, one in each.items()
        }
        for each in result["rounds"]
    ]
    figures = json.dumps({**result, "rounds": rounds, "medians": medians, "bars": rows}, indent=1) + "\n"
    if keep:
        (peers.CACHE / "last.json").write_text(figures)
        return
    text = PAGE.read_text() if PAGE.exists() else ""
    if OPEN not in text or CLOSE not in text:
        raise SystemExit(
            f"error: {PAGE} lacks the markers\n\nhint: put {OPEN} and {CLOSE} where the tables belong"
        )
    head, _, rest = text.partition(OPEN)
    tail = rest.partition(CLOSE)[2]
    new = f"{head}{OPEN}\n\n{table(result, medians, rows)}\n\n{CLOSE}{tail}"
    for path, content in ((PAGE, new), (DATA, figures)):
        beside = path.with_name(path.name + ".new")
        beside.write_text(content)
        beside.replace(path)


def profile(raw: str, what: str, most: int = 30) -> str:
    """py-spy's folded stacks as two lists: own time, and time with what is called."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.strip() for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    total = sum(own.values()) or 1
    lines = [f"{what}, {total} samples", "  own  whole"]
    for frame, times in own.most_common(most):
        lines.append(f"{times / total:5.1%} {whole[frame] / total:6.1%}  {frame}")
    return "\n".join(lines) + "\n"
