"""A request in Anthropic's form, read as a chat completion: names and types as the `anthropic` package has them.

Fields that neither API's translation knows are passed on as they are; what has no place in a chat completion is
refused by its name, also inside of messages and tools.
"""

from typing import Any, Literal

import msgspec

from dutchdoor.gateway.call import Asked
from dutchdoor.gateway.dialects.chat import MOST_TOKENS
from dutchdoor.gateway.dialects.messages_blocks import Reader, TextBlock, Turn
from dutchdoor.gateway.dialects.naming import NO_PARAMETERS, decoded, refuse, refuse_given
from dutchdoor.gateway.dialects.reading import read_fields, within
from dutchdoor.gateway.dialects.turns import Turns
from dutchdoor.gateway.errors import bad_parameter

WHO = "/v1/messages"
# of Anthropic's own, without a counterpart: features of its platform
ELSEWHERE = (
    "billing_policy",
    "compaction",
    "container",
    "context_management",
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "thread",
    "user_profile_id",
    "workspace_id",
)
# of chat completions, which have another name here
RENAMED = (
    "parallel_tool_calls",
    "reasoning_effort",
    "stop",
    "stream_options",
    "top_logprobs",
    "user",
)
TIERS = {"auto": "auto", "standard_only": "default"}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: str | None = None


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None
    format: Format | None = None


class Thinking(msgspec.Struct, frozen=True):
    type: str
    display: Literal["summarized", "omitted"] | None = None


class ToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Named(msgspec.Struct, frozen=True):
    type: str | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    input_schema: dict[str, Any]
    type: str | None = None
    description: str | None = None
    strict: bool | None = None
    # when to send which bytes, and what may be kept: they change no answer
    cache_control: Any = None
    eager_input_streaming: bool | None = None
    # refused where they ask for something
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None


class Body(msgspec.Struct, frozen=True):
    """What is translated; every other field is passed on."""

    model: str
    max_tokens: int
    messages: list[Turn]
    system: str | list[TextBlock] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: ToolChoice | None = None
    metadata: Metadata | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None  # the name before `output_config`
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Literal["standard", "fast"] | None = None
    cache_control: Any = None


class Kept(msgspec.Struct, frozen=True):
    """What the answer needs of its request."""

    stop_sequences: tuple[str, ...] = ()
    thinking: bool = True  # whether thoughts are shown


HANDLED = frozenset((*Body.__struct_fields__, *NO_PARAMETERS, *ELSEWHERE, *RENAMED))

_BODY = msgspec.json.Decoder(Body)
_NAMED = msgspec.json.Decoder(Named)
_TOOL = msgspec.json.Decoder(Tool)


def read_messages(raw: bytes) -> Asked:
    """What is asked, as a chat completion; raises ApiError 400 that names the parameter."""
    body = decoded(_BODY, raw, WHO)
    within("max_tokens", body.max_tokens, 1, MOST_TOKENS)
    if not body.messages:
        raise bad_parameter("messages", "Invalid 'messages': an empty list.", code="empty_array")
    fields = read_fields(raw)
    refuse_given(fields, (*sorted(NO_PARAMETERS), *ELSEWHERE, *RENAMED), WHO)
    if body.speed == "fast":
        raise refuse("speed", WHO)
    _refuse_prefill(body, fields)
    turns = _turns(body)
    chat: dict[str, Any] = {
        **{name: value for name, value in fields.items() if name not in HANDLED},
        "model": body.model,
        "messages": turns.done(),
        "max_tokens": body.max_tokens,
        **_options(body, fields),
        **_tools(body),
    }
    return Asked(
        operation="chat",
        model=body.model,
        body=msgspec.json.encode(chat),
        stream=bool(body.stream),
        include_usage=bool(body.stream),
        cap=body.max_tokens,
        prompts=len(turns.messages),
        said=turns.said + sum(len(bytes(tool)) for tool in body.tools or ()),
        attachments=turns.attachments,
        kept=Kept(
            stop_sequences=tuple(body.stop_sequences or ()),
            thinking=body.thinking is None or body.thinking.display != "omitted",
        ),
    )


def _refuse_prefill(body: Body, fields: dict[str, msgspec.Raw]) -> None:
    """An answer that goes on from the last message is not what an OpenAI-style target gives unasked."""
    if body.messages[-1].role != "assistant":
        return
    if bytes(fields.get("continue_final_message", b"")) == b"true":  # vLLM's way of asking for it
        return
    where = f"messages[{len(body.messages) - 1}].role"
    raise refuse(
        where,
        WHO,
        "The last message must be the user's; a target that goes on from an answer is asked with "
        "'continue_final_message': true.",
    )


def _turns(body: Body) -> Turns:
    turns = Turns()
    if body.system:
        texts = [body.system] if isinstance(body.system, str) else [each.text for each in body.system]
        turns.system(texts)
    reader = Reader(turns, WHO)
    for index, turn in enumerate(body.messages):
        reader.turn(turn, f"messages[{index}]")
    return turns


def _options(body: Body, fields: dict[str, msgspec.Raw]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if body.stream:
        chat["stream"] = True
    if body.stop_sequences:
        chat["stop"] = body.stop_sequences
    if body.metadata is not None and body.metadata.user_id is not None:
        chat["user"] = body.metadata.user_id
    if body.service_tier is not None:
        chat["service_tier"] = TIERS[body.service_tier]
    if body.thinking is not None and body.thinking.type != "adaptive":
        # adaptive: as the model likes; whatever else is wished goes to the target in these words
        chat["thinking"] = fields["thinking"]
    config = body.output_config or OutputConfig()
    if config.effort is not None:
        chat["reasoning_effort"] = config.effort
    if config.format is not None and body.output_format is not None:
        raise bad_parameter(
            "output_format", "Invalid 'output_format': 'output_config.format' is given as well."
        )
    wanted = config.format or body.output_format
    if wanted is not None:
        schema = {"name": "output", "schema": wanted.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _tools(body: Body) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if body.tools:
        chat["tools"] = [_tool(raw, f"tools[{index}]") for index, raw in enumerate(body.tools)]
    choice = body.tool_choice
    if choice is None:
        return chat
    if choice.type == "tool":
        if choice.name is None:
            name = "tool_choice.name"
            raise bad_parameter(
                name, f"Missing required parameter: '{name}'.", code="missing_required_parameter"
            )
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        chat["tool_choice"] = CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        chat["parallel_tool_calls"] = False
    return chat


def _tool(raw: msgspec.Raw, where: str) -> dict[str, Any]:
    kind = decoded(_NAMED, raw, WHO, where).type
    if kind not in (None, "custom"):
        raise refuse(f"{where}.type", WHO, f"'{kind[:60]}' is one of Anthropic's own tools.")
    tool = decoded(_TOOL, raw, WHO, where)
    for name, asked in (
        ("allowed_callers", tool.allowed_callers not in (None, [], ["direct"])),
        ("defer_loading", bool(tool.defer_loading)),
        ("input_examples", bool(tool.input_examples)),
    ):
        if asked:
            raise refuse(f"{where}.{name}", WHO)
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
