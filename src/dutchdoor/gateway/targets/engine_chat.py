"""OpenAI's chat completions for engines of our own: all that they accept, and how their answers are written.

Any field that is not named here is refused by its name: an engine would ignore it, and nothing is dropped
silently.
"""

from typing import Any, Literal

import msgspec

from dutchdoor.engines.interface import ChatRequest, Chunk, FinishReason, Message, TokenLogprob, Usage
from dutchdoor.gateway.dialects.reading import UNREADABLE, invalid, unreadable, within
from dutchdoor.gateway.errors import bad_parameter, unsupported

MOST_TOP_LOGPROBS = 20
MOST_STOPS = 4


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that an engine of our own accepts; any other field is refused by its name."""

    model: str
    messages: list[ChatMessage]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    n: int | None = None
    # they name the request and do not change the answer
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    # accepted in the value that means "off"; see `_refuse_what_is_on`
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None


_BODY = msgspec.json.Decoder(ChatBody)


def read_chat(body: bytes, who: str) -> ChatBody:
    """Read a body for an engine of our own; raises ApiError 400 that names what it cannot do. `who` is the
    model.
    """
    try:
        chat = _BODY.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error, who) from None
    except UNREADABLE:  # text that is not UTF-8, or nested too deep: the envelope does not look that far
        raise unreadable() from None
    within("temperature", chat.temperature, 0, 2)
    within("top_p", chat.top_p, 0, 1)
    within("top_logprobs", chat.top_logprobs, 0, MOST_TOP_LOGPROBS)
    within("seed", chat.seed, -(1 << 63), (1 << 63) - 1)
    if chat.top_p == 0:
        raise bad_parameter("top_p", "Invalid 'top_p': must be above 0.")
    if chat.top_logprobs is not None and not chat.logprobs:
        raise bad_parameter(
            "top_logprobs", "The 'top_logprobs' parameter is only allowed when 'logprobs' is true."
        )
    if isinstance(chat.stop, list) and len(chat.stop) > MOST_STOPS:
        raise bad_parameter("stop", f"Invalid 'stop': at most {MOST_STOPS} sequences.")
    _refuse_what_is_on(chat, who)
    return chat


def _refuse_what_is_on(chat: ChatBody, who: str) -> None:
    on = {
        "n": chat.n not in (None, 1),
        "presence_penalty": bool(chat.presence_penalty),
        "frequency_penalty": bool(chat.frequency_penalty),
        "logit_bias": bool(chat.logit_bias),
        "tools": bool(chat.tools),
        "tool_choice": chat.tool_choice not in (None, "none", "auto"),
        "modalities": chat.modalities not in (None, ["text"]),
        "store": bool(chat.store),
        "service_tier": chat.service_tier not in (None, "auto", "default"),
    }
    for name, asked in on.items():
        if asked:
            raise unsupported(name, who)
    for index, message in enumerate(chat.messages):
        if message.name is not None:  # no chat template of ours shows it to the model
            raise unsupported(f"messages[{index}].name", who)
        if message.refusal is not None:
            raise unsupported(f"messages[{index}].refusal", who)
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.refusal is not None:
                raise unsupported(f"messages[{index}].content[{number}].refusal", who)


def chat_request(chat: ChatBody, cap: int) -> ChatRequest:
    """What an engine is asked. `cap` is the bound on output tokens; temperature is 1 where none is given,
    as OpenAI's.
    """
    return ChatRequest(
        messages=tuple(_message(index, each) for index, each in enumerate(chat.messages)),
        max_tokens=cap,
        temperature=1.0 if chat.temperature is None else chat.temperature,
        top_p=1.0 if chat.top_p is None else chat.top_p,
        seed=chat.seed,
        stop=() if chat.stop is None else (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop),
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        json_schema=_schema(chat.response_format),
    )


def _message(index: int, message: ChatMessage) -> Message:
    where = f"messages[{index}]"
    role = "system" if message.role == "developer" else message.role
    if role not in ("system", "user", "assistant"):
        raise bad_parameter(f"{where}.role", f"Unsupported value: '{where}.role' is '{message.role[:40]}'.")
    if message.content is None:
        raise bad_parameter(
            f"{where}.content", f"Invalid '{where}.content': a string or a list of text parts."
        )
    if isinstance(message.content, str):
        return Message(role=role, content=message.content)  # type: ignore[arg-type]  # narrowed by the check above
    for number, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            name = f"{where}.content[{number}].type"
            raise bad_parameter(name, f"Unsupported value: '{name}' must be 'text' with a text.")
    text = "".join(part.text or "" for part in message.content)
    return Message(role=role, content=text)  # type: ignore[arg-type]  # narrowed by the check above


def _schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        name = "response_format.json_schema"
        raise bad_parameter(name, f"Missing required parameter: '{name}'.", code="missing_required_parameter")
    return wanted.json_schema.schema or {}


# -- answers of engines of our own


def head(kind: str, request: str, model: str, created: int) -> dict[str, Any]:
    """What every object of an answer begins with; `created` in Unix seconds."""
    return {"id": request, "object": kind, "created": created, "model": model}


def logprobs_object(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """OpenAI's `logprobs` of a choice."""

    def one(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "surrogatepass"))}

    content = [
        {**one(each.token, each.logprob), "top_logprobs": [one(*top) for top in each.top]} for each in tokens
    ]
    return {"content": content, "refusal": None}


def usage_object(usage: Usage) -> dict[str, int]:
    """OpenAI's `usage`, in tokens."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def whole(
    start: dict[str, Any],
    text: str,
    finish_reason: FinishReason,
    usage: Usage | None,
    logprobs: tuple[TokenLogprob, ...] | None,
) -> bytes:
    """A `chat.completion`; `logprobs` null where none were asked for."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None if logprobs is None else logprobs_object(logprobs),
        "finish_reason": finish_reason,
    }
    body = {**start, "choices": [choice]}
    if usage is not None:
        body["usage"] = usage_object(usage)
    return msgspec.json.encode(body)


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def chunk_event(start: dict[str, Any], chunk: Chunk, *, first: bool, logprobs: bool) -> bytes:
    """A `chat.completion.chunk`; the first one carries the role."""
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if chunk.text or first:
        delta["content"] = chunk.text
    choice: dict[str, Any] = {
        "index": 0,
        "delta": delta,
        "logprobs": logprobs_object(chunk.logprobs) if logprobs and chunk.logprobs else None,
        "finish_reason": chunk.finish_reason,
    }
    return event({**start, "choices": [choice]})


def usage_event(start: dict[str, Any], usage: Usage) -> bytes:
    """The last chunk of a stream whose client asked for `include_usage`."""
    return event({**start, "choices": [], "usage": usage_object(usage)})
