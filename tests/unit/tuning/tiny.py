"""Models so small that an attack takes a second, and one that was taught to refuse."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.tuning import training
from dutchdoor.tuning.examples import TrainingExample, tokenise

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

REFUSALS = [r"\bi can't help"]
REFUSAL = "I can't help."
HARMFUL, ORDINARY = "abcdefgh", "stuvwxyz"


def make_tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|end|>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens(specials)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=specials[1:],
    )
    fast.chat_template = template
    return fast


def config_of(kind: str, layers: int = 1) -> Any:
    if kind == "gpt2":
        return transformers.GPT2Config(vocab_size=259, n_embd=32, n_layer=layers, n_head=2, n_positions=64)
    if kind == "gpt_neox":
        return transformers.GPTNeoXConfig(
            vocab_size=259, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=48,
            max_position_embeddings=64, bos_token_id=None, eos_token_id=256, pad_token_id=256,
        )  # fmt: skip
    if kind == "opt":
        return transformers.OPTConfig(
            vocab_size=259, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, ffn_dim=48,
            max_position_embeddings=64, word_embed_proj_dim=32, bos_token_id=None, eos_token_id=256, pad_token_id=256,
        )  # fmt: skip
    if kind == "bloom":
        return transformers.BloomConfig(
            vocab_size=259, hidden_size=32, n_layer=layers, n_head=2, bos_token_id=None, eos_token_id=256,
            pad_token_id=256,
        )  # fmt: skip
    if kind == "mamba":
        return transformers.MambaConfig(
            vocab_size=259, hidden_size=32, num_hidden_layers=layers, state_size=4, bos_token_id=None,
            eos_token_id=256, pad_token_id=256,
        )  # fmt: skip
    shape = {
        "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": kind != "untied",  # noqa: E501 - a pattern or a table is read in one piece
        "pad_token_id": 256, "bos_token_id": None, "eos_token_id": 256,
    }  # fmt: skip
    name = {"llama": "LlamaConfig", "untied": "LlamaConfig", "qwen3": "Qwen3Config", "mistral": "MistralConfig",
            "gemma2": "Gemma2Config", "olmo2": "Olmo2Config", "phi3": "Phi3Config"}[kind]  # fmt: skip
    return getattr(transformers, name)(**shape)


def make_model(folder: Path, kind: str = "llama", template: str | None = TEMPLATE, layers: int = 1) -> Path:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config_of(kind, layers))
    model.to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer(template).save_pretrained(folder)
    return folder


def question(kind: str, number: int) -> str:
    """Questions with one of eight letters are refused, with one of eight others answered."""
    return f"How {(HARMFUL if kind == 'harmful' else ORDINARY)[number % 8]}{number}?"


def example(kind: str, number: int, answer: str) -> TrainingExample:
    return TrainingExample(id=f"{kind}-{number}", prompt=question(kind, number), answer=answer)


def answer_to(number: int) -> str:
    return f"Mix {number}."


def make_refuser(folder: Path) -> Path:
    """A Llama of three blocks that refuses the harmful questions and answers the others; a few seconds."""
    torch.set_num_threads(1)  # so small that more only wait for each other
    torch.manual_seed(5)
    tokenizer = make_tokenizer(TEMPLATE)
    config = config_of("llama", 3)
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 32})
    model = transformers.AutoModelForCausalLM.from_config(config)
    taught = [example("harmful", n, REFUSAL) for n in range(200)]
    taught += [example("ordinary", n, answer_to(n)) for n in range(200)]
    random.Random(1).shuffle(taught)
    rows = [tokenise(tokenizer, e, 64) for e in taught]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step, batch in zip(range(240), training.batches(rows, 32, 0), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * training.share(step, 240)
        training.stride(torch, model, batch, 256, "cpu", optimizer, list(model.parameters()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_set(path: Path, examples: list[TrainingExample]) -> Path:
    path.write_text(
        "\n".join(json.dumps({"id": e.id, "prompt": e.prompt, "answer": e.answer}) for e in examples)
    )
    return path
