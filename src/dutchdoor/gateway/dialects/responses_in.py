"""A request in the form of OpenAI's responses, read as a chat completion: names and types as the `openai` package
has them.

Nothing is kept between requests, and no tools are run here: what asks for that is refused by its name. Fields
that this translation does not know are passed on as they are.
"""

from typing import Any, Literal

import msgspec

from dutchdoor.gateway.call import Asked
from dutchdoor.gateway.dialects.chat import MOST_TOKENS
from dutchdoor.gateway.dialects.naming import NO_PARAMETERS, decoded, plain, refuse, refuse_given
from dutchdoor.gateway.dialects.reading import read_fields, within
from dutchdoor.gateway.dialects.responses_items import ItemReader
from dutchdoor.gateway.dialects.turns import Turns
from dutchdoor.gateway.errors import bad_parameter

WHO = "/v1/responses"
# state, and features of OpenAI's platform
ELSEWHERE = (
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "previous_response_id",
    "prompt",
    "store",
)
# of chat completions, which have another name here
RENAMED = ("max_tokens", "messages", "reasoning_effort", "verbosity")
# they mean the same to a chat completion: passed on, and told in the answer
SAME = (
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "user",
)
TOLD = (*SAME, "instructions", "max_output_tokens", "max_tool_calls", "metadata", "tool_choice", "truncation")
LOGPROBS = "message.output_text.logprobs"
# encrypted reasoning is for those who keep no state; here reasoning comes in clear, and is taken back so
INCLUDABLE = frozenset({LOGPROBS, "reasoning.encrypted_content"})


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Format | None = None
    verbosity: str | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_obfuscation: bool | None = None


class Named(msgspec.Struct, frozen=True):
    type: str


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"in_background": "async"}):
    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None
    # refused where they ask for something
    allowed_callers: list[str] | None = None
    in_background: bool | None = None
    defer_loading: bool | None = None
    output_schema: dict[str, Any] | None = None


class OneTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[OneTool] | None = None


class Body(msgspec.Struct, frozen=True):
    """What is translated; every other field is passed on."""

    model: str
    input: str | list[msgspec.Raw]
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None  # of tools that are run here: none are
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: str | Choice | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None


class Kept(msgspec.Struct, frozen=True):
    """What an answer tells of its request: JSON values by their names."""

    told: dict[str, Any]


HANDLED = frozenset((*Body.__struct_fields__, *NO_PARAMETERS, *ELSEWHERE, *RENAMED))

_BODY = msgspec.json.Decoder(Body)
_NAMED = msgspec.json.Decoder(Named)
_TOOL = msgspec.json.Decoder(Tool)


def read_responses(raw: bytes) -> Asked:
    """What is asked, as a chat completion; raises ApiError 400 that names the parameter."""
    body = decoded(_BODY, raw, WHO)
    within("max_output_tokens", body.max_output_tokens, 1, MOST_TOKENS)
    fields = read_fields(raw)
    refuse_given(fields, (*sorted(NO_PARAMETERS), *ELSEWHERE, *RENAMED), WHO)
    _refuse_what_is_on(body)
    turns = _turns(body)
    tools = [_tool(each, f"tools[{index}]") for index, each in enumerate(body.tools or ())]
    chat: dict[str, Any] = {
        **{name: value for name, value in fields.items() if name not in HANDLED},
        "model": body.model,
        "messages": turns.done(),
        **_options(body),
    }
    if tools:
        chat["tools"] = [_function(tool) for tool in tools]
    if body.top_logprobs or LOGPROBS in (body.include or ()):
        chat["logprobs"] = True
        if body.top_logprobs:
            chat["top_logprobs"] = body.top_logprobs
    return Asked(
        operation="chat",
        model=body.model,
        body=msgspec.json.encode(chat),
        stream=bool(body.stream),
        include_usage=bool(body.stream),
        cap=body.max_output_tokens,
        prompts=len(turns.messages),
        said=turns.said + sum(len(bytes(tool)) for tool in body.tools or ()),
        attachments=turns.attachments,
        kept=Kept(_told(body, fields, tools)),
    )


def _refuse_what_is_on(body: Body) -> None:
    reasoning = body.reasoning or Reasoning()
    on = {
        "truncation": body.truncation == "auto",
        "stream_options.include_obfuscation": bool(
            body.stream_options and body.stream_options.include_obfuscation
        ),
        # "auto": as there is; the reasoning itself is told where a target tells it
        "reasoning.summary": reasoning.summary not in (None, "auto"),
        "reasoning.generate_summary": reasoning.generate_summary not in (None, "auto"),
        "reasoning.context": reasoning.context not in (None, "auto"),
        "reasoning.mode": reasoning.mode not in (None, "standard"),
    }
    for name, asked in on.items():
        if asked:
            raise refuse(name, WHO)
    for index, name in enumerate(body.include or ()):
        if name not in INCLUDABLE:
            raise refuse(f"include[{index}]", WHO, f"It is '{name[:60]}'.")


def _turns(body: Body) -> Turns:
    turns = Turns()
    if body.instructions:
        turns.system([body.instructions])
    if isinstance(body.input, str):
        turns.user([turns.text(body.input)])
        return turns
    if not body.input:
        raise bad_parameter("input", "Invalid 'input': an empty list.", code="empty_array")
    reader = ItemReader(turns, WHO)
    for index, item in enumerate(body.input):
        reader.item(item, f"input[{index}]")
    if not turns.messages:
        raise bad_parameter("input", "Invalid 'input': nothing is said in it.", code="empty_array")
    return turns


def _options(body: Body) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if body.stream:
        chat["stream"] = True
    if body.max_output_tokens is not None:
        chat["max_completion_tokens"] = body.max_output_tokens
    if body.reasoning is not None and body.reasoning.effort is not None:
        chat["reasoning_effort"] = body.reasoning.effort
    if body.text is not None and body.text.verbosity is not None:
        chat["verbosity"] = body.text.verbosity
    wanted = body.text.format if body.text is not None else None
    if wanted is not None and wanted.type != "text":
        chat["response_format"] = _format(wanted)
    if body.tool_choice is not None:
        chat["tool_choice"] = _choice(body.tool_choice)
    return chat


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.type == "json_object":
        return {"type": "json_object"}
    for name in ("name", "schema"):
        if getattr(wanted, name) is None:
            raise _missing(f"text.format.{name}")
    schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    optional = {"strict": wanted.strict, "description": wanted.description}
    schema |= {name: value for name, value in optional.items() if value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _choice(choice: str | Choice) -> Any:
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise refuse("tool_choice", WHO)
        return choice
    if choice.type == "function":
        if choice.name is None:
            raise _missing("tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}
    if choice.mode is None or choice.tools is None:
        raise _missing("tool_choice.mode" if choice.mode is None else "tool_choice.tools")
    tools = [{"type": "function", "function": {"name": tool.name}} for tool in choice.tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}


def _tool(raw: msgspec.Raw, where: str) -> Tool:
    kind = decoded(_NAMED, raw, WHO, where).type
    if kind != "function":
        raise refuse(f"{where}.type", WHO, f"No tools are run here: '{kind[:60]}' is one of OpenAI's own.")
    tool = decoded(_TOOL, raw, WHO, where)
    for name, asked in (
        ("allowed_callers", tool.allowed_callers not in (None, [], ["direct"])),
        ("async", bool(tool.in_background)),
        ("defer_loading", bool(tool.defer_loading)),
        ("output_schema", bool(tool.output_schema)),
    ):
        if asked:
            raise refuse(f"{where}.{name}", WHO)
    return tool


def _function(tool: Tool) -> dict[str, Any]:
    given = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {
        "type": "function",
        "function": {name: value for name, value in given.items() if value is not None},
    }


def _told(body: Body, fields: dict[str, msgspec.Raw], tools: list[Tool]) -> dict[str, Any]:
    given = {name: plain(fields[name]) for name in TOLD if name in fields}
    text = body.text or Text()
    wanted = text.format or Format(type="text")
    format_ = {name: value for name, value in msgspec.to_builtins(wanted).items() if value is not None}
    reasoning = body.reasoning or Reasoning()
    return {
        "parallel_tool_calls": True,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "truncation": "disabled",
        **{name: value for name, value in given.items() if value is not None},
        "metadata": body.metadata or {},
        "background": False,
        "previous_response_id": None,
        "store": False,
        "reasoning": {"effort": reasoning.effort, "summary": None},
        "text": {"format": format_} | ({"verbosity": text.verbosity} if text.verbosity else {}),
        "tools": [{"type": "function", **_function(tool)["function"]} for tool in tools],
        "top_logprobs": body.top_logprobs or 0,
    }


def _missing(name: str) -> Exception:
    return bad_parameter(name, f"Missing required parameter: '{name}'.", code="missing_required_parameter")
