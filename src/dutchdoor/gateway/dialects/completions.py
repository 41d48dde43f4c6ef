"""OpenAI's completions, the older way without messages: read for what the gateway itself needs, and passed on."""

import msgspec

from dutchdoor.gateway.call import BYTES_PER_TOKEN, Asked, Call
from dutchdoor.gateway.dialects.chat import MOST_CHOICES, MOST_TOKENS, StreamOptions
from dutchdoor.gateway.dialects.interface import Translator
from dutchdoor.gateway.dialects.naming import decoded
from dutchdoor.gateway.dialects.reading import within
from dutchdoor.gateway.errors import ApiError, bad_parameter, error_body

WHO = "/v1/completions"
MOST_PROMPTS = 2048  # OpenAI's limit of one request; keeps every product of money inside a column

Texts = str | list[str | int | list[int]] | None


class Envelope(msgspec.Struct, frozen=True):
    """What the gateway itself reads of a request."""

    model: str
    prompt: Texts = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None


_ENVELOPE = msgspec.json.Decoder(Envelope)


class CompletionsDialect:
    """`/v1/completions`."""

    path = "/v1/completions"

    def read(self, body: bytes) -> Asked:
        """What is asked; raises ApiError 400 that names the parameter."""
        envelope = decoded(_ENVELOPE, body, WHO)
        within("max_tokens", envelope.max_tokens, 0, MOST_TOKENS)  # 0, with `echo`: only the prompt is scored
        within("n", envelope.n, 1, MOST_CHOICES)
        within("best_of", envelope.best_of, 1, MOST_CHOICES)
        options = envelope.stream_options
        if options is not None and not envelope.stream:
            raise bad_parameter(
                "stream_options", "The 'stream_options' parameter is only allowed when 'stream' is true."
            )
        prompts, said = count_texts("prompt", envelope.prompt)
        return Asked(
            operation="completions",
            model=envelope.model,
            body=body,
            stream=bool(envelope.stream),
            include_usage=options is not None and bool(options.include_usage),
            cap=envelope.max_tokens,
            choices=max(envelope.n or 1, envelope.best_of or 1) * prompts,
            prompts=prompts,
            said=said,
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


def count_texts(name: str, texts: Texts) -> tuple[int, int]:
    """How many texts those are, and their bytes; a text may be given as the numbers of its tokens, and a list
    of numbers is one text. Raises ApiError 400.
    """
    if texts is None or isinstance(texts, str):
        return 1, len((texts or "").encode())
    if not texts:
        raise bad_parameter(name, f"Invalid '{name}': an empty list.", code="empty_array")
    if all(isinstance(each, int) for each in texts):
        return 1, BYTES_PER_TOKEN * len(texts)
    if len(texts) > MOST_PROMPTS:
        raise bad_parameter(name, f"Invalid '{name}': at most {MOST_PROMPTS} texts.", code="invalid_value")
    said = 0
    kinds = set()
    for each in texts:
        kinds.add(type(each))
        if isinstance(each, str):
            said += len(each.encode())
        elif isinstance(each, list):
            said += BYTES_PER_TOKEN * len(each)
    if len(kinds) > 1:
        raise bad_parameter(
            name, f"Invalid '{name}': either texts, or tokens, or lists of tokens.", code="invalid_type"
        )
    return len(texts), said
