"""The tokens of a Hugging Face tokenizer as llama.cpp holds them.

The embedded engine splits text with the model's own tokenizer.json, hands llama.cpp token numbers and puts
answers together from token numbers itself. The texts here serve grammars (JSON schema) only, with one twist:
llama.cpp keeps back tokens that end in the middle of a character and forgets their log-probabilities, so each
such token is given a private sign of its own instead, and comes through like any other.
"""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from dutchdoor.engines.interface import NotTakenError
from dutchdoor.engines.words import SIGN_OF_BYTE, decoder_kind, token_bytes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType

# Texts at which llama.cpp ends an answer whatever the file says (llama-vocab.cpp, "maintain a list of tokens
# that cause EOG")
ENDS_BY_NAME = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<|eot|>",
        "<|eom|>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
    ]
)
FIRST_PRIVATE_SIGN = 0xF0000  # Supplementary Private Use Area-A
NOT_AN_END = "\u200b"  # put behind such a text where the model itself does not end there


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in order of their numbers."""

    model: str  # gpt2 (byte-level) or llama (▁ for spaces, bytes as <0x0A>)
    pre: str
    texts: list[str]
    scores: list[float]
    types: list[int]
    merges: list[str]
    space_before: bool  # a leading space is put before all text


def vocabulary(tokenizer_json: str, size: int, ends: Iterable[int]) -> Vocabulary:
    """The `size` tokens of a tokenizer.json; `ends` are the tokens that end an answer.

    Raises NotTakenError where texts of tokens mean something else than llama.cpp takes them for.
    """
    state = json.loads(tokenizer_json)
    kind = decoder_kind(state.get("decoder"))
    if kind is None:
        raise NotTakenError("its tokenizer puts text together in a way that the fast engine does not know")
    byte_level = kind == "gpt2"
    model = state.get("model") or {}
    known = _tokens(model)
    texts: list[str | None] = [None] * size
    types = [NORMAL] * size
    for text, number in known.items():
        if number >= size:
            raise NotTakenError("its tokenizer has more tokens than the model has embeddings")
        texts[number] = text
        if not byte_level and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[number] = BYTE
    for token in state.get("added_tokens") or []:
        number = int(token["id"])
        if number >= size:
            continue  # can neither be read nor said by the model
        texts[number] = token["content"]
        types[number] = CONTROL if token["special"] else USER_DEFINED
    if model.get("unk_token") in known and not byte_level:
        types[known[model["unk_token"]]] = UNKNOWN
    _make_whole(texts, types, byte_level)
    _mark_ends(texts, types, set(ends))
    for number, held in enumerate(texts):
        if held is None:
            texts[number], types[number] = f"[PAD{number}]", UNUSED
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges") or []]
    return Vocabulary(
        model="gpt2" if byte_level else "llama",
        pre=_pre_tokenizer(state) if byte_level else "default",
        texts=[text or "" for text in texts],
        scores=_scores(model, size),
        types=types,
        merges=merges if byte_level else [],
        space_before=not byte_level and "Prepend" in json.dumps(state.get("normalizer") or {}),
    )


def _make_whole(texts: list[str | None], types: list[int], byte_level: bool) -> None:
    """A private sign for each token that is no whole character on its own."""
    sign = FIRST_PRIVATE_SIGN
    for number, text in enumerate(texts):
        if text is None or types[number] not in (NORMAL, BYTE):
            continue
        try:
            token_bytes(text, byte_level=byte_level).decode()
        except UnicodeDecodeError:
            whole = chr(sign)
            texts[number] = "".join(SIGN_OF_BYTE[byte] for byte in whole.encode()) if byte_level else whole
            types[number] = NORMAL
            sign += 1


def _tokens(model: dict[str, Any]) -> dict[str, int]:
    kind = model.get("type", "BPE")
    if kind == "BPE":
        return dict(model["vocab"])
    if kind == "Unigram":
        return {text: number for number, (text, _) in enumerate(model["vocab"])}
    raise NotTakenError(f"its tokenizer is of the kind {kind}")


def _scores(model: dict[str, Any], size: int) -> list[float]:
    if model.get("type") == "Unigram":
        scores = [float(score) for _, score in model["vocab"]]
        return scores + [0.0] * (size - len(scores))
    return [-float(number) for number in range(size)]


def _mark_ends(texts: list[str | None], types: list[int], ends: set[int]) -> None:
    for number, text in enumerate(texts):
        if number in ends:
            types[number] = CONTROL
        elif text in ENDS_BY_NAME:
            texts[number] = text + NOT_AN_END


# llama.cpp's name for a split: the start of the pattern in tokenizer.json that tells it apart. For other
# readers of the file only; see the module's docstring.
_SPLITS = (
    (r"\p{N}{1,3}", "llama-bpe"),
    (r"\p{N}|", "qwen2"),
)


def _pre_tokenizer(state: dict[str, Any]) -> str:
    text = json.dumps(state.get("pre_tokenizer") or {}).replace("\\\\", "\\")
    if '"Split"' not in text:
        return "smollm" if '"Digits"' in text else "gpt-2"
    for pattern, name in _SPLITS:
        if pattern in text:
            return name
    return "default"
