"""The reference engine: joins requests that run, and takes what the fast engine cannot."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dutchdoor.core import EngineError, UsageError, WeightsError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.llama_cpp import ContextExceeded
from tests.fakes.models import make_stranger
from tests.unit.engines.conftest import QUESTIONS, Opener, question

Models = Callable[[str], Path]


async def test_a_crowd_says_the_same_as_one_after_another(models: Models, opened: Opener) -> None:
    engine = await opened(models("llama"), prefer="transformers")
    alone = [(await ask(engine, question(text))).text for text in QUESTIONS]

    async def late(text: str, after_s: float) -> str:
        await asyncio.sleep(after_s)
        return (await ask(engine, question(text))).text

    crowd = await asyncio.gather(*(late(text, 0.02 * i) for i, text in enumerate(QUESTIONS * 2)))
    assert list(crowd) == alone * 2


async def test_it_says_the_same_as_the_fast_engine(models: Models, opened: Opener) -> None:
    slow, fast = await opened(models("gemma2"), prefer="transformers"), await opened(models("gemma2"))
    for text in QUESTIONS:
        one, other = await ask(slow, question(text)), await ask(fast, question(text))
        assert (one.text, one.usage, one.finish_reason) == (other.text, other.usage, other.finish_reason)


async def test_seeds_repeat_whatever_runs_beside(models: Models, opened: Opener) -> None:
    engine = await opened(models("llama"), prefer="transformers")
    drawn = question(temperature=1.5, top_p=0.9, seed=11)
    alone = (await ask(engine, drawn)).text
    beside = await asyncio.gather(
        ask(engine, question(QUESTIONS[1])), ask(engine, drawn), ask(engine, question())
    )
    assert beside[1].text == alone
    assert (await ask(engine, question(temperature=1.5, top_p=0.9, seed=12))).text != alone


async def test_stops_ends_and_leaving_early(models: Models, opened: Opener) -> None:
    engine = await opened(models("llama"), prefer="transformers", parallel=1)
    text = (await ask(engine, question())).text
    answer = await ask(engine, question(stop=(text[4:6],)))
    assert (answer.text, answer.finish_reason) == (text[: text.index(text[4:6])], "stop")
    stream = engine.stream(question(max_tokens=400))
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(20):
        await ask(engine, question(max_tokens=1))


async def test_what_it_cannot_do_is_said(models: Models, opened: Opener) -> None:
    engine = await opened(models("llama"), prefer="transformers")
    with pytest.raises(UsageError, match="json_schema"):
        await ask(engine, question(json_schema={"type": "object"}))
    with pytest.raises(ContextExceeded):
        await ask(engine, question("bread " * 2000))


async def test_closing_ends_the_thread_and_those_who_wait(models: Models, opened: Opener) -> None:
    engine = await opened(models("llama"), prefer="transformers", parallel=1)
    waiting = [asyncio.ensure_future(ask(engine, question(max_tokens=450))) for _ in range(3)]
    await asyncio.sleep(0.1)
    await engine.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(result, EngineError) for result in results)
    assert not [thread for thread in threading.enumerate() if thread.name == "dutchdoor-transformers"]
    with pytest.raises(EngineError, match="closed"):
        await ask(engine, question())


async def test_an_unknown_architecture_is_served_and_the_reason_told(
    tmp_path: Path, models: Models, opened: Opener
) -> None:
    folder = make_stranger(tmp_path / "neox", like=models("qwen2"))
    engine = await opened(folder)
    assert engine.info.name == "transformers"
    assert "gpt_neox" in engine.info.because
    assert (await ask(engine, question(logprobs=2))).usage.output_tokens == 16
    with pytest.raises(EngineError, match="fast engine cannot take"):
        await opened(folder, prefer="fast")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ],
)
async def test_a_setting_that_llama_cpp_computes_otherwise_is_not_taken(
    models: Models, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    from dutchdoor.engines.gguf_convert import convert
    from dutchdoor.engines.interface import NotTakenError

    folder = shutil.copytree(models("llama"), tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(NotTakenError, match=said):
        convert(folder, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out*"))


async def test_pickles_truncated_and_missing_weights_are_refused(
    models: Models, tmp_path: Path, opened: Opener
) -> None:
    folder = shutil.copytree(models("llama"), tmp_path / "broken")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    for prefer in (None, "transformers"):
        with pytest.raises(WeightsError):
            await opened(folder, prefer=prefer)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError):
        await opened(folder)
    with pytest.raises(WeightsError, match="no model"):
        await opened(tmp_path / "nowhere")
