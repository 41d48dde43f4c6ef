"""The one real instruct model, SmolLM2-135M (Q4_1), all the way through the engine and `run`."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import ChatRequest, Engine, Message
from dutchdoor.engines.load import open_engine
from tests.fakes.models import smollm2


@pytest.fixture(scope="module")
def weights() -> Path:
    return smollm2()


@pytest.fixture
async def engine(weights: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    engine = await open_engine(weights, threads=1, parallel=2, cache=tmp_path)
    yield engine
    await engine.close()


def chat(text: str, **options: object) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **{"max_tokens": 24, **options})  # type: ignore[arg-type]


async def test_it_answers_in_words_twice_the_same_also_side_by_side(engine: Engine) -> None:
    wanted = chat("Name three colours.")
    first = await ask(engine, wanted)
    assert sum(word.isalpha() for word in first.text.replace(",", " ").split()) >= 5
    beside = await asyncio.gather(ask(engine, wanted), ask(engine, chat("Say hello.")))
    assert beside[0].text == first.text
    assert first.usage is not None and first.usage.output_tokens <= 24
    assert engine.info.context_length is not None and engine.info.context_length >= 2048


async def test_it_holds_to_a_schema(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = await ask(engine, chat("Describe Ann, who is 30, as JSON.", json_schema=schema, max_tokens=80))
    assert answer.finish_reason == "stop", answer.text
    assert set(json.loads(answer.text)) == {"name", "age"}


async def test_log_probabilities_add_up_to_the_answer(engine: Engine) -> None:
    answer = await ask(engine, chat("Say hello.", logprobs=4, max_tokens=8))
    assert "".join(row.token for row in answer.logprobs).startswith(answer.text)
    for row in answer.logprobs:
        assert row.top[0][1] >= row.logprob - 1e-6  # greedy: nothing is likelier than what was chosen
        assert len(row.top) == 4


def test_run_answers_from_the_command_line(weights: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dutchdoor.cli.main",
            "run",
            "--threads",
            "1",
            "--max-tokens",
            "12",
            str(weights),
            "Hi",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DUTCHDOOR_STORE": str(tmp_path / "store")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "SmolLM2-135M-Instruct.Q4_1 on llama.cpp" in done.stderr
