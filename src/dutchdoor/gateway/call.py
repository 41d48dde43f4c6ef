"""One request on its way: what the gateway itself knows of it, whatever dialect it came in.

Everything behind a dialect sees the request in OpenAI's form of an operation; only the dialect knows what the
client wrote.
"""

import time
from functools import cached_property
from typing import Any, Literal

import msgspec

from dutchdoor.gateway.dialects.reading import read_fields, searchable

Operation = Literal["chat", "completions", "embeddings"]

TOKENS_PER_PROMPT = 32  # what a chat template puts around a message, at most
TOKENS_PER_REQUEST = 512  # and around the whole: begin and end marks, a template's own default system prompt
DEFAULT_CAP = 1024  # output tokens, where the request says nothing
BYTES_PER_TOKEN = 4  # of English text; for input whose count nobody told, never for a bound
# No published rule makes more of one image than this (gpt-4o-mini at high detail: 2,833 + 8 tiles of 5,667).
TOKENS_PER_ATTACHMENT = 48_169


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request as its dialect read it; `body` is in OpenAI's form of the operation, byte for byte where the
    client wrote that.
    """

    operation: Operation
    model: str
    body: bytes
    stream: bool = False
    include_usage: bool = False  # whether the events of usage are wanted on this side of the dialect
    cap: int | None = None  # output tokens of one choice, where the client bounds them
    choices: int = 1  # answers that are paid for: `n`, or `best_of`
    prompts: int = 1  # messages or texts, each of which a template may put marks around
    said: int = 0  # bytes of the prompts, from which a count is guessed where nobody tells it
    attachments: int = 0  # parts whose size in tokens the body does not show: images by URL, files by id
    kept: Any = None  # what a dialect that translates needs for its own answer; nobody else looks at it


class Call:
    """An admitted request. `deadline` is on the monotonic clock, in seconds."""

    def __init__(self, request: str, asked: Asked, *, created: int, deadline: float = float("inf")) -> None:
        self.request = request
        self.asked = asked
        self.created = created
        self.deadline = deadline
        self._fields: dict[str, msgspec.Raw] | None = None

    @property
    def cap(self) -> int:
        """The most output tokens of one choice: what the client said, else the default."""
        if self.asked.operation == "embeddings":
            return 0
        return DEFAULT_CAP if self.asked.cap is None else self.asked.cap

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def fields(self) -> dict[str, msgspec.Raw]:
        """The body's fields with each value's bytes as they came; not to be changed. Raises ApiError 400."""
        if self._fields is None:
            self._fields = read_fields(self.asked.body)
        return self._fields

    @cached_property
    def shown(self) -> bytes:
        """The body as searches of its bytes need it."""
        return searchable(self.asked.body)

    @property
    def input_bound(self) -> int:
        """No request has more input tokens: a token of text is at least one byte, and JSON only makes text
        longer; what lies outside of the body is bounded by a number a piece.
        """
        asked = self.asked
        around = TOKENS_PER_PROMPT * asked.prompts + TOKENS_PER_REQUEST
        return len(asked.body) + around + TOKENS_PER_ATTACHMENT * asked.attachments

    @property
    def input_guess(self) -> int:
        """Input tokens, where the target never told; never above the bound."""
        return min(-(-self.asked.said // BYTES_PER_TOKEN), self.input_bound)
