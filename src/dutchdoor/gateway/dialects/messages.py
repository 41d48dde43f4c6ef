"""Anthropic's messages in front of chat completions, so that its own client works with any OpenAI-style target."""

from dutchdoor.gateway.call import Asked, Call
from dutchdoor.gateway.dialects.interface import Translator
from dutchdoor.gateway.dialects.messages_in import read_messages
from dutchdoor.gateway.dialects.messages_out import MessagesTranslator, broken_event, error_body, message
from dutchdoor.gateway.dialects.naming import PlacedError
from dutchdoor.gateway.errors import ApiError


class MessagesDialect:
    """`/v1/messages`; its errors are those of every path below it."""

    path = "/v1/messages"

    def read(self, body: bytes) -> Asked:
        """What is asked, as a chat completion; raises ApiError 400 that names the parameter."""
        try:
            return read_messages(body)
        except ApiError as error:
            raise PlacedError.of(error) from None

    def error(self, error: ApiError) -> bytes:
        """`{"type": "error", "error": {"type", "message", "details"}}`"""
        return error_body(error)

    def answer(self, call: Call, body: bytes) -> bytes:
        """A `message`; raises ApiError 502 for what is no chat completion."""
        return message(call, body)

    def translator(self, call: Call) -> Translator:
        """A new one for each stream."""
        return MessagesTranslator(call)

    def broken(self, message: str) -> bytes:
        """An `error` event."""
        return broken_event(message)
