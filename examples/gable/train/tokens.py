"""The tokenizer of the family: byte-level BPE with single digits, and the chat format as tokens.

Splits text as llama.cpp's `qwen2` pre-tokenizer does, so that a GGUF of a member reads text as the original
does.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import data
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 768
PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # noqa: E501 - a pattern or a table is read in one piece
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(world: data.World, seed: int = 7) -> Tokenizer:
    """A tokenizer of 768 tokens, learnt from all that the family is ever taught."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = []
    for mixture in data.STAGE_MIXTURES.values():
        stream = data.conversations(seed, world, mixture)
        texts += [m["content"] for _ in range(8000) for m in next(stream)]
    random.Random(seed).shuffle(texts)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The tokenizer files of a Hugging Face folder, with the chat template beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": None,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "model_max_length": 512,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    specials = {"eos_token": END, "pad_token": PAD, "additional_special_tokens": [SYSTEM, USER, ASSISTANT]}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def encode_chat(
    tokenizer: Tokenizer, chat: list[data.Message], question_weight: float
) -> tuple[list[int], list[float]]:
    """The tokens of a chat and the loss weight of predicting each of them (answers count fully, questions a
    little).
    """
    ids: list[int] = []
    weights: list[float] = []
    end = SPECIALS.index(END)  # special tokens come first in the vocabulary
    for message in chat:
        body = tokenizer.encode(message["content"], add_special_tokens=False).ids
        ids += [SPECIALS.index(f"<|{message['role']}|>"), *body, end]
        if message["role"] == "assistant":
            weights += [0.0, *([1.0] * (len(body) + 1))]
        else:
            weights += [0.0, *([question_weight] * len(body)), 0.0]
    return ids, weights
