"""OpenAI's responses in front of chat completions, so that its own client works with any OpenAI-style target."""

import msgspec

from dutchdoor.gateway.call import Asked, Call
from dutchdoor.gateway.dialects.interface import Translator
from dutchdoor.gateway.dialects.naming import PlacedError
from dutchdoor.gateway.dialects.responses_in import read_responses
from dutchdoor.gateway.dialects.responses_out import ResponsesTranslator, error_in_form, response
from dutchdoor.gateway.errors import ApiError


class ResponsesDialect:
    """`/v1/responses`. Nothing is kept: a response cannot be fetched again."""

    path = "/v1/responses"

    def read(self, body: bytes) -> Asked:
        """What is asked, as a chat completion; raises ApiError 400 that names the parameter."""
        try:
            return read_responses(body)
        except ApiError as error:
            raise PlacedError.of(error) from None

    def error(self, error: ApiError) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`"""
        return error_in_form(error)

    def answer(self, call: Call, body: bytes) -> bytes:
        """A `response`; raises ApiError 502 for what is no chat completion."""
        return response(call, body)

    def translator(self, call: Call) -> Translator:
        """A new one for each stream."""
        return ResponsesTranslator(call)

    def broken(self, message: str) -> bytes:
        """An `error` event, where no translator knows how far the stream had come."""
        fields = {
            "type": "error",
            "code": "server_error",
            "message": message,
            "param": None,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + msgspec.json.encode(fields) + b"\n\n"
