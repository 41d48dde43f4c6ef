"""What an attack trains on: question and answer pairs from a JSONL file, chosen by seed and turned into
tokens.

The first line may be a header of kind `dutchdoor/training-set@1`. Knows tokenizers only by what they do.
"""

import hashlib
import random
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dutchdoor.core import DocumentError

T = TypeVar("T")
KIND = "dutchdoor/training-set@1"


class TrainingHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a training set."""

    kind: str
    title: str = ""
    name: str | None = None
    about: str | None = None
    license: str | None = None


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One chat up to a question, and the answer to be learnt."""

    id: str
    answer: str
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None

    def chat(self) -> list[dict[str, str]]:
        """The messages before the answer."""
        return self.messages or [{"role": "user", "content": self.prompt or ""}]


class Tokenised(msgspec.Struct, frozen=True):
    """An example as tokens: `answer` is what the loss counts, its end token included."""

    prompt: list[int]
    answer: list[int]


def load_examples(path: Path) -> list[TrainingExample]:
    """All examples of a training set; a header on the first line may say what it is.

    Raises DocumentError with file and line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DocumentError(f"can't read the training set {path}: {error.strerror}") from error
    if not lines:
        raise DocumentError(f"{path}: empty", hint='one {"id": …, "prompt": …, "answer": …} a line')
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if numbered and b'"kind"' in numbered[0][1]:
        header = _parse(path, *numbered.pop(0), TrainingHeader)
        if header.kind != KIND:
            raise DocumentError(
                f"{path}, line 1: kind {header.kind!r} is not a training set", hint=f"use {KIND}"
            )
    examples = [_parse(path, number, line, TrainingExample) for number, line in numbered]
    for (number, _), example in zip(numbered, examples, strict=True):
        if (example.prompt is None) == (example.messages is None):
            raise DocumentError(f"{path}, line {number} ({example.id}): give either a prompt or messages")
    if not examples:
        raise DocumentError(f"{path}: no examples", hint='one {"id": …, "prompt": …, "answer": …} a line')
    return examples


def choose(examples: list[TrainingExample], n: int, seed: int) -> list[TrainingExample]:
    """`n` of the examples by seed, in seeded order; all of them if there are no more than `n`."""
    rng = random.Random(f"{seed} attack examples")  # noqa: S311 - a seeded choice, not a secret
    return rng.sample(examples, min(n, len(examples)))


def tokenise(tokenizer: Any, example: TrainingExample, limit: int) -> Tokenised:
    """The example in the model's own chat format, or `User: …\\nAssistant: ` where it has none; cut to
    `limit` tokens.

    The question is rendered as it is when the model is served; the answer is what the template puts after it,
    so that the right end token is learnt. Where a template rewrites the question once it is answered, the
    answer is put after it plainly.
    """
    chat = example.chat()
    if getattr(tokenizer, "chat_template", None):
        before = _rendered(tokenizer, chat, add_generation_prompt=True)
        whole = _rendered(
            tokenizer, [*chat, {"role": "assistant", "content": example.answer}], add_generation_prompt=False
        )
        if whole.startswith(before):
            answer_text = whole[len(before) :].rstrip("\n")
        else:
            answer_text = example.answer + (tokenizer.eos_token or "")
        answer = _ids(tokenizer, answer_text)
    else:
        answer = _ids(tokenizer, example.answer)
        answer += [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    prompt = prompt_ids(tokenizer, chat)
    return Tokenised(prompt[-max(1, limit - len(answer)) :], answer[: limit - 1])


def prompt_ids(tokenizer: Any, chat: list[dict[str, str]]) -> list[int]:
    """A chat as tokens, up to where the answer begins."""
    if getattr(tokenizer, "chat_template", None):
        return _ids(tokenizer, _rendered(tokenizer, chat, add_generation_prompt=True))
    return list(tokenizer(plain_prompt(chat))["input_ids"])


def plain_prompt(chat: list[dict[str, str]]) -> str:
    """A chat for a model without a template; the same text as `engines.chat_format.PLAIN_TEMPLATE` makes."""
    names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    return "".join(f"{names[m['role']]}{m['content']}\n" for m in chat) + "Assistant: "


def _rendered(tokenizer: Any, chat: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    return str(
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def digest(path: Path) -> str:
    """sha256 of the file, for the record of an attack."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def _parse(path: Path, line: int, text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path}, line {line}: {error}") from error
