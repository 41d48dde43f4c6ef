"""Measures the engines at 1, 4 and 16 streams and writes docs/benchmarks/engines.md. Under ten minutes on two cores.

    python bench/engines/run.py [--openvino PYTHON] [--quick]

Tokens a second are those of all streams together; each cell is one run after a warm-up. openvino-genai is measured
where a Python that has it is named.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import formats  # noqa: E402 — beside this file
from tests.fakes.models import smollm2  # noqa: E402

from dutchdoor.engines.answer import ask  # noqa: E402
from dutchdoor.engines.interface import ChatRequest, Message  # noqa: E402
from dutchdoor.engines.load import cores, open_engine  # noqa: E402

STREAMS = (1, 4, 16)
PAGE = ROOT / "docs" / "benchmarks" / "engines.md"


@dataclass
class Row:
    model: str
    form: str
    engine: str
    threads: int
    load_s: float
    rates: list[float | None]


async def measure(
    path: Path, model: str, form: str, prefer: str | None, threads: int, tokens: int, cache: Path
) -> Row:
    """One engine on one model. A stream is a chat of its own; answers are cut at `tokens`."""
    started = time.monotonic()
    engine = await open_engine(path, threads=threads, parallel=16, cache=cache, prefer=prefer)
    load_s = time.monotonic() - started
    try:
        rates: list[float | None] = []
        for streams in STREAMS:
            asked = [
                ChatRequest(
                    messages=(Message(role="user", content=f"Tell me a story about the number {number}."),),
                    max_tokens=tokens,
                    temperature=1.0,
                    seed=number,
                )
                for number in range(streams)
            ]
            await ask(engine, asked[0])
            began = time.monotonic()
            answers = await asyncio.gather(*(ask(engine, one) for one in asked))
            total = sum(answer.usage.output_tokens for answer in answers if answer.usage)
            rates.append(total / (time.monotonic() - began))
        return Row(model, form, engine.info.name, threads, load_s, rates)
    finally:
        await engine.close()


def openvino(python: str, path: Path, model: str, form: str, tokens: int) -> Row:
    rates: list[float | None] = []
    load_s = 0.0
    for streams in STREAMS:
        command = [python, str(HERE / "openvino_row.py"), str(path), str(streams), str(tokens)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
            rates.append(None)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        load_s = found["load_s"]
        rates.append(found["tokens_per_s"])
    return Row(model, form, "openvino-genai", cores(), load_s, rates)


def hugging_face(gguf_path: Path, folder: Path) -> Path:
    """SmolLM2 as a Hugging Face folder in f32, through transformers' own reader of GGUF."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options = {"gguf_file": gguf_path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf_path.parent, **options)
    model.hf_quantizer = None  # it reads GGUF into plain f32 and still calls the model quantised
    del model.config.quantization_config
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf_path.parent, **options).save_pretrained(folder)
    return folder


def flagship() -> tuple[str, Path]:
    """The largest gable member that is there."""
    for name in ("gable-l", "gable-m", "gable-s"):
        folder = ROOT / "examples" / "gable" / name
        if (folder / "model.safetensors").is_file():
            return name, folder
    raise SystemExit("examples/gable has no trained member yet: make family")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--openvino", metavar="PYTHON", help="a Python that has openvino-genai")
    parser.add_argument("--quick", action="store_true", help="fewer formats and shorter answers")
    options = parser.parse_args()
    tokens = 24 if options.quick else 48
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="dutchdoor-bench-") as name:
        rows = measure_all(Path(name), options, tokens)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(rows, tokens, load))
    print(PAGE.read_text())


def measure_all(work: Path, options: argparse.Namespace, tokens: int) -> list[Row]:
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        print(row, file=sys.stderr, flush=True)

    def fast(path: Path, model: str, form: str, threads: int, prefer: str | None = None) -> None:
        add(asyncio.run(measure(path, model, form, prefer, threads, tokens, work / "cache")))

    name, folder = flagship()
    for threads in sorted({1, cores()}):
        fast(folder, name, "bf16 → f32", threads)
    fast(folder, name, "bf16 → f32", cores(), "transformers")
    original = smollm2(work / "smollm2")
    fast(original, "SmolLM2-135M", "Q4_1", cores())
    for form in ("Q8_0",) if options.quick else formats.FORMATS:
        out = work / f"{form}.gguf"
        formats.write(original, form, out)
        fast(out, "SmolLM2-135M", form, cores())
        if options.openvino and form in ("Q8_0", "Q4_0"):
            add(openvino(options.openvino, out, "SmolLM2-135M", form, tokens))
    if options.openvino:
        add(openvino(options.openvino, original, "SmolLM2-135M", "Q4_1", tokens))
    fast(hugging_face(original, work / "hf"), "SmolLM2-135M", "f32", cores(), "transformers")
    return rows


def page(rows: list[Row], tokens: int, load: float) -> str:
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("xllamacpp", "transformers", "torch"))
    busy = (
        f"Other work ran on the machine (load average {load:.1f} at the start): compare rows, not absolute values."
        if load > 0.5
        else "Nothing else ran on the machine."
    )
    lines = [
        "# Engines, measured",
        "",
        f"Written by `bench/engines/run.py` on {time.strftime('%Y-%m-%d')}: {_machine()}; Python "
        f"{platform.python_version()}, {packages}. {busy}",
        "",
        f"Tokens a second of all streams together; chats of one short question, answers of at most {tokens} tokens. "
        "What follows from it is in [ADR 030](../adr/030-embedded-engine.md).",
        "",
        "| model | weights | engine | threads | load, s | 1 stream | 4 streams | 16 streams |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates = " | ".join("–" if rate is None else f"{rate:,.0f}" for rate in row.rates)
        lines.append(
            f"| {row.model} | {row.form} | {row.engine} | {row.threads} | {row.load_s:.1f} | {rates} |"
        )
    return "\n".join(lines) + "\n"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        names = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0].partition(":")[2].strip()
    except (OSError, IndexError):
        pass
    return f"{cores()} cores of {model}"


if __name__ == "__main__":
    main()
