"""OpenAI's chat completions: read for what the gateway itself needs, and passed on as they are."""

import re
from typing import Any

import msgspec

from dutchdoor.gateway.call import Asked, Call
from dutchdoor.gateway.dialects.interface import Translator
from dutchdoor.gateway.dialects.reading import (
    UNREADABLE,
    invalid,
    is_escaped,
    searchable,
    unreadable,
    within,
)
from dutchdoor.gateway.errors import ApiError, bad_parameter, error_body

MOST_TOKENS = 1 << 24  # more than any context; keeps every product of money inside a column
MOST_CHOICES = 128
# what shows a part of a message whose size the body does not tell; found by a byte search, counted at most
OUTSIDE = (
    *(b'"image_url"', b'"video_url"', b'"audio_url"', b'"document_url"'),
    *(
        b'"file_id"',
        b'"file_data"',
        b'"file_url"',
    ),  # of a file as it lies in the body: its pages are pictures
)
HINT = re.compile(rb"_(?:url|id|data)", re.IGNORECASE)  # what all of them hold, searched for first


def outside(body: bytes) -> int:
    """Parts of a chat's body whose size it does not tell."""
    if not HINT.search(body) and not is_escaped(body):
        return 0
    shown = searchable(body)
    return sum(map(shown.count, OUTSIDE))


NOTHING = msgspec.Raw(b"")


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Envelope(msgspec.Struct, frozen=True):
    """What the gateway itself reads of a chat request."""

    model: str
    messages: list[msgspec.Raw]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None  # as of completions: some servers have it here too
    tools: msgspec.Raw = NOTHING
    functions: msgspec.Raw = NOTHING

    @property
    def cap(self) -> int | None:
        """The client's own cap on output tokens."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


_ENVELOPE = msgspec.json.Decoder(Envelope)


class ChatDialect:
    """`/v1/chat/completions`."""

    path = "/v1/chat/completions"

    def read(self, body: bytes) -> Asked:
        """What is asked; raises ApiError 400 that names the parameter."""
        try:
            envelope = _ENVELOPE.decode(body)
        except msgspec.ValidationError as error:
            raise invalid(error) from None
        except UNREADABLE:
            raise unreadable() from None
        _check(envelope)
        options = envelope.stream_options
        return Asked(
            operation="chat",
            model=envelope.model,
            body=body,
            stream=bool(envelope.stream),
            include_usage=options is not None and bool(options.include_usage),
            cap=envelope.cap,
            choices=max(envelope.n or 1, envelope.best_of or 1),
            prompts=len(envelope.messages),
            said=sum(map(_length, envelope.messages)) + _length(envelope.tools) + _length(envelope.functions),
            attachments=outside(body),
        )

    def error(self, error: ApiError) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`"""
        return error.body()

    def answer(self, call: Call, body: bytes) -> bytes:
        """As it is."""
        return body

    def translator(self, call: Call) -> Translator | None:
        """None: events are passed on untouched."""
        return None

    def broken(self, message: str) -> bytes:
        """An error event; no `[DONE]` follows it."""
        return b"data: " + error_body(message, "server_error", code="stream_broken") + b"\n\n"


def _length(raw: Any) -> int:
    return memoryview(raw).nbytes


def _check(envelope: Envelope) -> None:
    if not envelope.messages:
        raise bad_parameter("messages", "Invalid 'messages': an empty list.", code="empty_array")
    if envelope.max_tokens is not None:
        within("max_tokens", envelope.max_tokens, 1, MOST_TOKENS)
    if envelope.max_completion_tokens is not None:
        within("max_completion_tokens", envelope.max_completion_tokens, 1, MOST_TOKENS)
    if envelope.max_tokens is not None and envelope.max_tokens != envelope.cap:
        # an upstream may honour either one, and only one of them is what was reserved
        raise bad_parameter(
            "max_tokens",
            "Invalid 'max_tokens': it differs from 'max_completion_tokens'.",
            code="invalid_value",
        )
    if envelope.n is not None:
        within("n", envelope.n, 1, MOST_CHOICES)
    within("best_of", envelope.best_of, 1, MOST_CHOICES)
    if envelope.stream_options is not None and not envelope.stream:
        raise bad_parameter(
            "stream_options", "The 'stream_options' parameter is only allowed when 'stream' is true."
        )
