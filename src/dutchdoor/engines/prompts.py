"""From a chat to what an engine is handed: token numbers where the tokenizer is at hand, else text with
marks.

Splitting text here, with the model's own tokenizer.json, is what makes the embedded engine and transformers
read the same tokens whatever the tokenizer.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dutchdoor.core import MissingExtraError, WeightsError
from dutchdoor.engines.chat_format import ChatFormat, Piece, read_special_tokens, read_template
from dutchdoor.engines.interface import Message
from dutchdoor.engines.words import Words, decoder_kind
from dutchdoor.family.gguf_header import GgufHeader

# characters; over a longer text `encode` keeps the interpreter to itself for seconds, while a batch of one lets go
LONG_TEXT = 4096
Prompt = list[int] | list[int | str] | str


class Prompts(Protocol):
    """What turns a chat into a prompt for one model, and its tokens back into text."""

    @property
    def stop(self) -> tuple[str, ...]: ...

    @property
    def strips_first_space(self) -> bool: ...

    @property
    def words(self) -> Words | None: ...  # null: the engine's own text is taken

    @property
    def is_plain(self) -> bool: ...  # the model has no chat template

    def prompt(self, messages: Sequence[Message]) -> Prompt: ...


class FolderPrompts:
    """Token numbers through the tokenizer.json of a Hugging Face folder."""

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError("running a model", extra="local") from error
        try:
            self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise WeightsError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        added = self.tokenizer.get_added_tokens_decoder().values()
        control = [token.content for token in added if token.special]
        self._format = ChatFormat(read_template(folder), read_special_tokens(folder), control)
        self.strips_first_space = _strips_first_space(self.tokenizer)
        self.knows_its_words = _kind(self.tokenizer) is not None
        self.words: Words | None = Words(
            self.tokenizer,
            byte_level=_is_byte_level(self.tokenizer),
            strips_first_space=self.strips_first_space,
        )

    @property
    def stop(self) -> tuple[str, ...]:
        return self._format.stop

    @property
    def is_plain(self) -> bool:
        return self._format.is_plain

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        numbers: list[int] = []
        for piece in self._format.render(messages):
            numbers += self._encode(piece)
        return numbers

    def _encode(self, piece: Piece) -> list[int]:
        if piece.literal and len(piece.text) > 1:
            # in two halves, so that no added token is found in either; `encode_special_tokens` does the same
            # for the whole tokenizer, but is shared by all threads that use it
            middle = len(piece.text) // 2
            halves = (piece.text[:middle], piece.text[middle:])
            return [number for half in halves for number in self._numbers(half)]
        return self._numbers(piece.text)

    def _numbers(self, text: str) -> list[int]:
        if len(text) <= LONG_TEXT:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)


def _is_byte_level(tokenizer: Any) -> bool:
    return _kind(tokenizer) == "gpt2"


def _kind(tokenizer: Any) -> str | None:
    """How texts of tokens are to be read; null where this tokenizer puts text together in some other way."""
    decoder = json.loads(tokenizer.to_str()).get("decoder")
    return decoder_kind(decoder)


def _strips_first_space(tokenizer: Any) -> bool:
    """Whether text put together by this tokenizer loses the space that SentencePiece puts before it."""
    vocabulary = tokenizer.get_vocab()
    for text, number in vocabulary.items():
        if text.startswith("▁") and len(text) > 1 and text[1:].isalpha():
            return not str(tokenizer.decode([number])).startswith(" ")
    return False


class GgufPrompts:
    """Text with marks for llama.cpp to split, from what a GGUF says about itself."""

    words: Words | None = None

    def __init__(self, header: GgufHeader, control: Sequence[str], bos: str, eos: str) -> None:
        special = {name: text for name, text in (("bos_token", bos), ("eos_token", eos)) if text}
        self._format = ChatFormat(header.text("tokenizer.chat_template"), special, control)
        self._bos, self._bos_id = bos, header.number("tokenizer.ggml.bos_token_id")
        self._wants_bos = header.metadata.get("tokenizer.ggml.add_bos_token") is True
        spaced = header.metadata.get("tokenizer.ggml.add_space_prefix") is not False
        self.strips_first_space = header.text("tokenizer.ggml.model") == "llama" and spaced

    @property
    def stop(self) -> tuple[str, ...]:
        return self._format.stop

    @property
    def is_plain(self) -> bool:
        return self._format.is_plain

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        pieces = list(self._format.render(messages))
        if pieces and self._bos and self._bos_id is not None and not pieces[0].literal:
            if pieces[0].text.startswith(self._bos):
                pieces[0] = Piece(pieces[0].text.removeprefix(self._bos))
                return self._mixed(self._bos_id, pieces)
            if self._wants_bos and any(piece.literal for piece in pieces):
                return self._mixed(self._bos_id, pieces)
        if not any(piece.literal for piece in pieces):
            return "".join(piece.text for piece in pieces)
        # llama.cpp takes a list of texts only behind a number; a mark that nothing reads is then put inside
        # the text
        return "".join(_broken(piece.text) if piece.literal else piece.text for piece in pieces)

    def _mixed(self, first: int, pieces: Sequence[Piece]) -> list[int | str]:
        """Control texts from a message are split in two strings, which llama.cpp splits into tokens one by
        one.
        """
        parts: list[int | str] = [first]
        held = ""
        for piece in pieces:
            if piece.literal and len(piece.text) > 1:
                middle = len(piece.text) // 2
                parts.append(held + piece.text[:middle])
                held = piece.text[middle:]
            else:
                held += piece.text
        return [*parts, held]


def _broken(text: str) -> str:
    """A control token's text with a zero-width space after its first sign, so that it is no control token."""
    return re.sub(r"^(.)", "\\1\u200b", text, count=1)
