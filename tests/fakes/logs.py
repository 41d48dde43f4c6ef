"""Logs in the forms of inspect_ai 0.3.285 and lm-eval 0.4.13, as those write them; the texts are ours.

The forms were taken from runs of both with models that only pretend (`mockllm/model`, `dummy`).
"""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

RESULTS = {
    "lm_eval_version": "0.4.13",
    "model_name": "dummy",
    "config": {"model": "dummy", "gen_kwargs": None},
}
STAMP = "2026-11-20T19-55-07.065120"


def inspect_sample(
    id: str | int, input: Any, scores: dict[str, Any], *, answer: str = "", epoch: int = 1, **more: Any
) -> dict[str, Any]:
    return {
        "id": id,
        "epoch": epoch,
        "input": input,
        "target": "x",
        "messages": [{"id": "m1", "content": "words", "source": "input", "role": "user"}],
        "output": {"model": "mockllm", "choices": [], "completion": answer, "time": 0.1},
        "scores": {name: {"value": value, "answer": answer, "history": []} for name, value in scores.items()},
        "metadata": {},
        "store": {},
        "events": [{"event": "span_begin", "id": "b", "timestamp": "2026-11-20T19:52:19.055144+00:00"}],
        "model_usage": {"mockllm/model": {"input_tokens": 1, "output_tokens": 33, "total_tokens": 34}},
        "attachments": {},
        "turn_count": 1,
        **more,
    }


def inspect_header(status: str = "success", **more: Any) -> dict[str, Any]:
    settings = {"max_tokens": 64, "temperature": 0.5, "seed": 3}
    return {
        "version": 2,
        "status": status,
        "eval": {
            "eval_id": "LChFuBg2jux5GSqHfpEbWS",
            "created": "2026-11-20T19:52:18+00:00",
            "task": "t",
            "dataset": {"samples": 3, "sample_ids": ["a-1", 2], "shuffled": False},
            "model": "mockllm/model",
            "model_generate_config": settings,
            "config": {"epochs": 1, "fail_on_error": True},
            "packages": {"inspect_ai": "0.3.285"},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": settings},
        "results": {"total_samples": 3, "completed_samples": 3, "scores": []},
        "stats": {"started_at": "2026-11-20T19:52:18+00:00", "completed_at": "2026-11-20T19:52:19+00:00"},
        **more,
    }


def write_inspect_json(path: Path, samples: list[dict[str, Any]], **header: Any) -> Path:
    path.write_text(json.dumps({**inspect_header(**header), "samples": samples}))
    return path


def write_inspect_eval(path: Path, samples: list[dict[str, Any]], **header: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": inspect_header()["eval"]}))
        for each in samples:
            archive.writestr(f"samples/{each['id']}_epoch_{each['epoch']}.json", json.dumps(each))
        archive.writestr("summaries.json", "[]")
        archive.writestr("header.json", json.dumps(inspect_header(**header)))
    return path


def as_zstd(path: Path) -> Path:
    """The same zip with each entry as a zstd frame of raw blocks (RFC 8878), method 93 as Inspect has it."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    body, directory = b"", b""
    for info, data in entries:
        packed, name, offset = zstd_frame(data), info.filename.encode(), len(body)
        sizes = (info.CRC, len(packed), len(data), len(name), 0)
        body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 63, 0, 93, 0, 0, *sizes) + name + packed
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 63, 63, 0, 93, 0, 0, *sizes, 0, 0, 0, 0, offset
        )
        directory += name
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path


def zstd_frame(data: bytes) -> bytes:
    """One frame, the content's size in eight bytes, in raw blocks of at most 128 KiB."""
    blocks = [data[at : at + (1 << 17)] for at in range(0, len(data), 1 << 17)] or [b""]
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, len(data))
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return frame


def lm_eval_sample(
    number: int,
    doc: dict[str, Any],
    prompt: str,
    scores: dict[str, Any],
    *,
    answer: str = "",
    filter: str = "none",
) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc": doc,
        "target": "x",
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"], "do_sample": False}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": filter,
        "metrics": list(scores),
        "doc_hash": "aecc74dc",
        "prompt_hash": "79afd630",
        "target_hash": "4b227777",
        **scores,
    }


def write_lm_eval(folder: Path, task: str, samples: list[dict[str, Any]], *, results: bool = True) -> Path:
    path = folder / f"samples_{task}_{STAMP}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in samples))
    if results:
        (folder / f"results_{STAMP}.json").write_text(json.dumps(RESULTS))
    return path
