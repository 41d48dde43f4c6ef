"""OpenAI's embeddings: read for what the gateway itself needs, and passed on as they are."""

import msgspec

from dutchdoor.gateway.call import Asked, Call
from dutchdoor.gateway.dialects.chat import outside
from dutchdoor.gateway.dialects.completions import Texts, count_texts
from dutchdoor.gateway.dialects.interface import Translator
from dutchdoor.gateway.dialects.naming import decoded, refuse
from dutchdoor.gateway.errors import ApiError, bad_parameter, error_body

WHO = "/v1/embeddings"


class Envelope(msgspec.Struct, frozen=True):
    """What the gateway itself reads of a request."""

    model: str
    input: Texts
    stream: bool | None = None


_ENVELOPE = msgspec.json.Decoder(Envelope)


class EmbeddingsDialect:
    """`/v1/embeddings`. Nothing is generated: input tokens are all that is paid."""

    path = "/v1/embeddings"

    def read(self, body: bytes) -> Asked:
        """What is asked; raises ApiError 400 that names the parameter."""
        envelope = decoded(_ENVELOPE, body, WHO)
        if envelope.input is None:
            raise bad_parameter(
                "input", "Invalid type for 'input': expected a text or a list.", code="invalid_type"
            )
        if envelope.stream:
            raise refuse("stream", WHO)
        prompts, said = count_texts("input", envelope.input)
        return Asked(
            operation="embeddings",
            model=envelope.model,
            body=body,
            cap=0,
            prompts=prompts,
            said=said,
            attachments=outside(body),  # some servers embed pictures of chat messages too
        )

    def error(self, error: ApiError) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`"""
        return error.body()

    def answer(self, call: Call, body: bytes) -> bytes:
        """As it is."""
        return body

    def translator(self, call: Call) -> Translator | None:
        """None: there are no streams."""
        return None

    def broken(self, message: str) -> bytes:
        """An error event, which no client of this path expects."""
        return b"data: " + error_body(message, "server_error", code="stream_broken") + b"\n\n"
