"""Both engines against transformers itself: same tokens in, same tokens out, log-probabilities within 1e-3."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.engines.answer import ask
from tests.fakes.models import SHAPES, make_model
from tests.unit.engines.conftest import QUESTIONS, Opener, question

CLOSE = 1e-3  # nats; the bar of the release chain


def reference(folder: Path, text: str, answer: list[int]) -> tuple[list[int], Any]:
    """(what transformers reads for a question, its log-probabilities over what it read and the answer)."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer.encode(f"User: {text}\nAssistant: ", add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *answer]])).logits[0]
    return list(ids), logits.log_softmax(-1)


async def check(engine: Any, folder: Path) -> None:
    for text in QUESTIONS:
        answer = await ask(engine, question(text, logprobs=3))
        tokens = [row.token_id for row in answer.logprobs]
        ids, logprobs = reference(folder, text, tokens)
        assert answer.usage is not None
        assert answer.usage.input_tokens == len(ids)
        assert engine._prompts.prompt(question(text).messages) == ids
        after = logprobs[len(ids) - 1 :]
        for position, row in enumerate(answer.logprobs):
            assert int(after[position].argmax()) == row.token_id
            assert abs(float(after[position, row.token_id]) - row.logprob) < CLOSE
            best = after[position].topk(3).values.tolist()
            assert max(abs(a - b) for a, (_, b) in zip(best, row.top, strict=True)) < CLOSE


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_fast_engine_agrees_with_transformers(
    models: Callable[[str], Path], opened: Opener, shape: str
) -> None:
    engine = await opened(models(shape))
    assert engine.info.name == "llama.cpp"
    assert engine.info.because is None
    await check(engine, models(shape))


@pytest.mark.parametrize("shape", ["qwen3", "gemma3"])
async def test_the_transformers_engine_agrees_with_transformers(
    models: Callable[[str], Path], opened: Opener, shape: str
) -> None:
    engine = await opened(models(shape), prefer="transformers")
    assert engine.info.name == "transformers"
    assert engine.info.because == "it was asked for"
    await check(engine, models(shape))


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("kind", ROPES)
async def test_scaled_rotary_positions_agree_with_transformers(
    models: Callable[[str], Path], tmp_path: Path, opened: Opener, kind: str
) -> None:
    folder = shutil.copytree(models("llama"), tmp_path / "scaled")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 10000.0, **ROPES[kind]}
    (folder / "config.json").write_text(json.dumps(config))
    engine = await opened(folder)
    assert engine.info.name == "llama.cpp"
    await check(engine, folder)


async def test_a_folder_in_the_older_form_of_config_agrees_with_transformers(
    models: Callable[[str], Path], tmp_path: Path, opened: Opener
) -> None:
    folder = shutil.copytree(models("llama"), tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["head_dim"]
    config |= {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(config))
    await check(await opened(folder), folder)


async def test_bf16_weights_agree_with_transformers_in_f32(tmp_path: Path, opened: Opener) -> None:
    import torch
    import transformers

    folder = make_model(tmp_path / "model", "qwen2", seed=3)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    await check(await opened(folder), folder)


async def test_a_wrong_layout_would_be_noticed(
    models: Callable[[str], Path], tmp_path: Path, opened: Opener
) -> None:
    """The check bites: weights that differ by one permuted pair of rows are told apart."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(models("llama"), tmp_path / "swapped")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].roll(1, 0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssertionError):
        await check(await opened(folder), models("llama"))
