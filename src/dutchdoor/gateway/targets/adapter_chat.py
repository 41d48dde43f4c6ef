"""OpenAI's chat completions for providers with an API of their own: what is passed on, and what is refused by
name.

The library that translates leaves out what it does not know, some of it without a word, and it takes some
names as options of its own client (headers, addresses, caches that cost money). So it is handed only what is
named here, in the one form that it keeps whole. Decides nothing about models: what only some of them take
goes on, and the provider refuses it.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from dutchdoor.gateway.call import Call
from dutchdoor.gateway.dialects.reading import UNREADABLE, invalid, unreadable
from dutchdoor.gateway.errors import bad_parameter, unsupported

Provider = Literal["anthropic", "gemini"]

# Read here or by the gateway itself, and written anew for the library.
_WRITTEN = frozenset({"model", "messages", "stream", "max_tokens", "max_completion_tokens", "n"})
_COMMON = frozenset(
    {
        *("messages", "stream_options", "temperature", "top_p", "stop", "tools", "tool_choice"),
        *("response_format", "reasoning_effort", "service_tier", "top_k"),
    }
)
TAKEN: Mapping[Provider, frozenset[str]] = {
    "anthropic": _COMMON | {"parallel_tool_calls", "thinking"},
    "gemini": _COMMON | {"seed", "presence_penalty", "frequency_penalty"},
}
# Values with which a field asks for nothing that would not happen without it.
_OFF = (b"null", b"[]", b"{}")
_DEFAULTS: Mapping[str, tuple[bytes, ...]] = {
    "frequency_penalty": (b"0", b"0.0"),
    "logprobs": (b"false",),
    "modalities": (b'["text"]',),
    "parallel_tool_calls": (b"true",),
    "presence_penalty": (b"0", b"0.0"),
    "service_tier": (b'"auto"',),
    "store": (b"false",),
    "top_logprobs": (b"0",),
}


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    detail: str | None = None


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: str


class ImagePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a provider signs of its own thoughts, and wants back as it was."""

    signature: str | None = None
    thought_signature: str | None = None


class Extra(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    anthropic: Signed | None = None
    google: Signed | None = None


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None  # of a client that put it together from a stream
    extra_content: Extra | None = None


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    extra_content: Extra | None = None
    # refused where they hold anything
    name: str | None = None
    refusal: str | None = None
    audio: Any = None
    annotations: Any = None
    function_call: Any = None


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Named


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Body(msgspec.Struct, frozen=True):
    """The fields that need a look; the others go on with their values as they are."""

    messages: list[Message]
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: Format | None = None


_BODY = msgspec.json.Decoder(Body)


def read(call: Call, provider: Provider, who: str) -> dict[str, Any]:
    """The arguments for the library; raises ApiError 400 that names what `who` cannot do."""
    given = {name: raw for name, raw in call.fields.items() if name not in _WRITTEN and _asks(name, raw)}
    for name in given:
        if name not in TAKEN[provider]:
            raise unsupported(name, who)
    if call.asked.choices != 1:
        raise unsupported("n", who)
    try:
        body = _BODY.decode(call.asked.body)
        arguments = {name: msgspec.json.decode(raw) for name, raw in given.items()}
    except msgspec.ValidationError as error:
        raise invalid(error, who) from None
    except UNREADABLE:
        raise unreadable() from None
    arguments["messages"] = _messages(body.messages, provider, who)
    arguments["max_tokens"] = call.cap
    _stream_options(arguments, body.stream_options, who)
    _tools(arguments, body, provider, who)
    _format(arguments, body.response_format, provider, who)
    return arguments


def _asks(name: str, raw: msgspec.Raw) -> bool:
    value = bytes(raw)
    return value not in _OFF and value not in _DEFAULTS.get(name, ())


def _stream_options(arguments: dict[str, Any], options: StreamOptions | None, who: str) -> None:
    arguments.pop("stream_options", None)  # usage is always told, and taken out where nobody asked for it
    if options is not None and options.include_obfuscation:
        raise unsupported("stream_options.include_obfuscation", who)


def _tools(arguments: dict[str, Any], body: Body, provider: Provider, who: str) -> None:
    if not body.tools:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):  # without tools they ask for nothing
            arguments.pop(name, None)
        return
    for index, tool in enumerate(body.tools):
        if tool.function.strict:
            raise unsupported(f"tools[{index}].function.strict", who)
    arguments["tools"] = [_tool(tool.function, provider) for tool in body.tools]


def _tool(function: Function, provider: Provider) -> dict[str, Any]:
    parameters = function.parameters
    if provider == "gemini" and parameters:
        # For a schema without definitions the library writes its own, which has lost all that is nested.
        parameters = {"$defs": {}, **parameters}
    described = {"description": function.description} if function.description else {}
    return {"type": "function", "function": {"name": function.name, "parameters": parameters, **described}}


def _format(arguments: dict[str, Any], wanted: Format | None, provider: Provider, who: str) -> None:
    if wanted is None or wanted.type == "text":
        arguments.pop("response_format", None)
    elif wanted.type == "json_object":
        if provider == "anthropic":
            raise unsupported("response_format", who)
    elif wanted.json_schema is None:
        name = "response_format.json_schema"
        raise bad_parameter(name, f"Missing required parameter: '{name}'.", code="missing_required_parameter")
    elif wanted.json_schema.description:
        raise unsupported("response_format.json_schema.description", who)


def _messages(messages: list[Message], provider: Provider, who: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    begun = False  # whether the talk has: what comes before it is the system's
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        system = message.role in ("system", "developer")
        if system and begun:  # the providers know one system prompt, at the beginning
            raise unsupported(f"{where}.role", who)
        begun = begun or not system
        _refuse(message, where, provider, who)
        written.append(_message(message, where, who))
    return written


def _refuse(message: Message, where: str, provider: Provider, who: str) -> None:
    for name in ("name", "refusal", "audio", "annotations", "function_call"):
        if getattr(message, name):
            raise unsupported(f"{where}.{name}", who)
    if message.role != "assistant":
        for name in ("tool_calls", "reasoning", "extra_content"):
            if getattr(message, name):
                raise unsupported(f"{where}.{name}", who)
    if message.role != "tool" and message.tool_call_id is not None:
        raise unsupported(f"{where}.tool_call_id", who)
    extra = message.extra_content
    signed = extra is not None and extra.anthropic is not None and extra.anthropic.signature
    if message.reasoning and provider == "anthropic" and not signed:  # it takes back only what it signed
        raise unsupported(f"{where}.reasoning", who)


def _message(message: Message, where: str, who: str) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    written: dict[str, Any] = {"role": role, "content": _content(message, where, who)}
    if message.tool_calls:
        written["tool_calls"] = [
            _called(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        written["reasoning"] = message.reasoning
    if message.extra_content is not None:
        written["extra_content"] = msgspec.to_builtins(message.extra_content)
    return written


def _content(message: Message, where: str, who: str) -> Any:
    """Text as one string: of a list, the library keeps only what a user says."""
    content, where = message.content, f"{where}.content"
    if content is None:
        if message.role == "assistant":
            return None
        raise bad_parameter(
            where, f"Missing required parameter: '{where}'.", code="missing_required_parameter"
        )
    if isinstance(content, str):
        return content
    if message.role == "user":
        return [_part(part, f"{where}[{number}]", who) for number, part in enumerate(content)]
    for number, part in enumerate(content):
        if not isinstance(part, TextPart):
            raise unsupported(f"{where}[{number}]", who)
    return "".join(part.text for part in content if isinstance(part, TextPart))


def _part(part: TextPart | ImagePart, where: str, who: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    image = part.image_url
    if image.detail not in (None, "auto"):
        raise unsupported(f"{where}.image_url.detail", who)
    if image.url.startswith("data:") and ";base64," not in image.url:
        name = f"{where}.image_url.url"
        raise bad_parameter(name, f"Invalid '{name}': a data URL must be base64.", code="invalid_value")
    return {"type": "image_url", "image_url": {"url": image.url}}


def _called(call: ToolCall, where: str) -> dict[str, Any]:
    name = f"{where}.function.arguments"
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except UNREADABLE:
        raise bad_parameter(name, f"Invalid '{name}': must be a JSON object.", code="invalid_value") from None
    written = msgspec.to_builtins(call)
    written["type"] = "function"
    written.pop("index", None)
    written["function"] = {"name": call.function.name, "arguments": msgspec.json.encode(arguments).decode()}
    return dict(written)
