"""What an engine is: something that answers a chat, token by token.

The seam between rooms that need answers (vetting, drill, gateway, run) and whatever gives them: the embedded
engine, transformers, or an HTTP target in the OpenAI dialect.
"""

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec

from dutchdoor.core import EngineError

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


# EngineError
# ├── Unreachable             nothing answers there, it broke off, or it failed on its side: another try may
# work └── Overloaded              it answers, and says "not now": wait `retry_after_s` first
class Unreachable(EngineError):  # noqa: N818 — says what the target is, not what we did
    """A target that cannot be reached, or that failed on its own side. Never a wrong answer: retried, then
    missing.
    """

    retryable = True


class Overloaded(Unreachable):
    """A target that refuses work for now (HTTP 429, 503); `retry_after_s` (seconds) where it says."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class NotTakenError(Exception):
    """Why the fast engine cannot take a model, in words. Never shown as an error: it becomes
    `EngineInfo.because`.
    """


class Message(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `temperature` 0 is greedy; `logprobs` null asks for none, k for the k likeliest beside
    the chosen.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: dict[str, Any] | None = None


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """Natural-log probability (nats) of a token given all before it."""

    token: str
    token_id: int | None = None  # null where a target does not tell
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens. Of the input, `cached_tokens` are those that the target had read before, which may cost less,
    and `written_tokens` those that it keeps to read again, which may cost more.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    written_tokens: int = 0


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer; the last one carries the finish reason and the usage."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer with its timings (seconds, monotonic)."""

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    logprobs: tuple[TokenLogprob, ...] = ()
    first_token_s: float
    total_s: float


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers: named in evidence, and shown when it is not the fast engine."""

    name: str  # llama.cpp | transformers | http
    version: str
    model: str
    context_length: int | None
    because: str | None = None  # why this engine, where the fast one could not take the model
    plain_format: bool = False  # the model has no chat template: chats are put to it as "User: … Assistant:"


class Engine(Protocol):
    """Closing the iterator early stops the generation."""

    @property
    def info(self) -> EngineInfo: ...

    def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]: ...

    async def close(self) -> None: ...
