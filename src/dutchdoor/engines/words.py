"""Tokens back to text while they arrive: bytes to characters, and stop strings that must not slip out.

A token may end in the middle of a character, and a stop string may be spread over many tokens: both are held
back until it is clear what they are.
"""

import codecs
from collections.abc import Sequence
from typing import Any, Literal

# The byte each sign of a byte-level token stands for (the table of GPT-2's encoder.py, read backwards)
_PLAIN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PLAIN)]
BYTE_OF_SIGN = {chr(byte): byte for byte in _PLAIN} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
SIGN_OF_BYTE = {byte: sign for sign, byte in BYTE_OF_SIGN.items()}


def token_bytes(text: str, *, byte_level: bool) -> bytes:
    """The bytes a vocabulary entry stands for: byte-level signs, or ▁ for a space and <0x0A> for a byte."""
    if byte_level:
        found = [BYTE_OF_SIGN.get(sign) for sign in text]
        return bytes(byte for byte in found if byte is not None) if None not in found else text.encode()
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return text.replace("▁", " ").encode()


def decoder_kind(decoder: dict[str, Any] | None) -> Literal["gpt2", "llama"] | None:
    """What a tokenizer.json's decoder takes its texts for: byte-level signs, or ▁ and <0x0A>; null for
    anything else.
    """
    kinds = _kinds(decoder)
    if kinds == ["ByteLevel"]:
        return "gpt2"
    sentencepiece = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if kinds and set(kinds) <= sentencepiece and ({"Replace", "Metaspace"} & set(kinds)):
        return "llama"
    return None


def _kinds(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    if part.get("type") == "Sequence":
        return [kind for row in part.get("decoders") or [] for kind in _kinds(row)]
    return [str(part.get("type"))]


class Words:
    """The bytes of each token of one tokenizer; control tokens have none."""

    def __init__(self, tokenizer: Any, *, byte_level: bool, strips_first_space: bool) -> None:
        self._tokenizer = tokenizer
        self._byte_level = byte_level
        self.strips_first_space = strips_first_space
        added = tokenizer.get_added_tokens_decoder()
        self._known: dict[int, bytes] = {
            number: b"" if token.special else token.content.encode() for number, token in added.items()
        }

    def bytes_of(self, number: int) -> bytes:
        """The bytes of a token; empty for numbers beyond the vocabulary."""
        known = self._known.get(number)
        if known is None:
            text = self._tokenizer.id_to_token(number)
            known = b"" if text is None else token_bytes(text, byte_level=self._byte_level)
            self._known[number] = known
        return known

    def shown(self, number: int) -> str:
        """A token as text for people: bytes that are no character are shown as �."""
        return self.bytes_of(number).decode("utf-8", errors="replace")


class TextStream:
    """Bytes in, whole characters out, up to the first stop string."""

    def __init__(self, stop: Sequence[str], *, strip_first_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(text for text in stop if text)
        self._strip = strip_first_space
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The text that is certain by now; with `last`, all that is left. Nothing once `stopped`."""
        return self.feed_text(self._decoder.decode(data, final=last), last=last)

    def feed_text(self, text: str, *, last: bool = False) -> str:
        """As `feed`, for text that arrives in whole characters."""
        if self.stopped:
            return ""
        if self._strip and text:
            text, self._strip = text.removeprefix(" "), False
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            out, self._held, self.stopped = self._held[: min(found)], "", True
            return out
        keep = 0 if last else self._maybe_stop()
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def _maybe_stop(self) -> int:
        """How many signs at the end may be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
