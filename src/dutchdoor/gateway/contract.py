"""What targets can do, and whether a request asks for more.

An ability is declared in a target's row, known of its provider, or found by `dutchdoor targets probe`; one of
which nothing is known is no reason to refuse. Changes no request: what cannot be done is refused by name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dutchdoor.engines.providers import PROVIDERS, Provider, provider_of
from dutchdoor.gateway.call import Call
from dutchdoor.gateway.dialects.reading import UNREADABLE, searchable
from dutchdoor.gateway.errors import ApiError, unsupported

SIZES = ("context", "max_output")  # tokens; all other abilities are true or false
OPERATIONS = ("chat", "completions", "embeddings")
FEATURES = (
    "tools",
    "parallel_tools",
    "json_schema",
    "json_object",
    "logprobs",
    "images",
    "n",
    "seed",
    "stream_usage",
)
IMAGES = frozenset({"image_url", "input_image", "image"})
_OFF = (b"null", b"false", b"[]", b"{}")  # values with which a field asks for nothing


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a target: sizes in tokens, and names of features, operations and parameters that it has
    or lacks. What is named nowhere is unknown.
    """

    context: int | None = None  # input and output together
    max_output: int | None = None
    has: frozenset[str] = frozenset()
    lacks: tuple[str, ...] = ()

    def says(self, name: str) -> bool | None:
        """Whether it can do something; null where that is unknown."""
        return True if name in self.has else False if name in self.lacks else None

    def over(self, known: "Abilities") -> "Abilities":
        """These, and for what they do not say those that were known before."""
        said = self.has | set(self.lacks)
        return Abilities(
            context=known.context if self.context is None else self.context,
            max_output=known.max_output if self.max_output is None else self.max_output,
            has=self.has | (known.has - said),
            lacks=(*self.lacks, *(name for name in known.lacks if name not in said)),
        )

    def row(self) -> dict[str, bool | int]:
        """As `can` is written in a routes file."""
        sizes = {name: size for name in SIZES if (size := getattr(self, name)) is not None}
        return {**sizes, **dict.fromkeys(sorted(self.has), True), **dict.fromkeys(self.lacks, False)}


UNKNOWN = Abilities()

# What is reserved, and at which price, is read of these: no other spelling of one may reach a server. Go's JSON
# takes names in any case, and two letters of Unicode for `k` and `s`.
READ = frozenset(
    {
        *("model", "messages", "prompt", "input", "stream", "stream_options"),
        *("max_tokens", "max_completion_tokens", "n", "best_of", "service_tier"),
    }
)
INSTEAD = {  # fields that some servers take instead of what is reserved
    "n_predict": "It would replace the cap on output tokens.",  # llama-server
    "num_predict": "It would replace the cap on output tokens.",  # Ollama
    "models": "It would replace the model.",  # OpenRouter
    "chat_template": "It would write another prompt.",  # vLLM, and it may repeat what it likes
    "fallbacks": "It would replace the model.",  # LiteLLM
}
DEARER = (
    "web_search_options",
    "plugins",
    "audio",
    "modalities",
)  # asked for, they cost more than tokens of text
NO = (b"null", b"false", b"[]", b'["text"]')  # `web_search_options: {}` is a search

# What engines of our own do. Their own reading of a body refuses every field that is not theirs; this says it
# before, so that a route can pass them over.
ENGINE = Abilities(
    has=frozenset({"chat", "json_schema", "json_object", "logprobs", "seed", "stream_usage"}),
    lacks=("completions", "embeddings", "tools", "images", "n"),
)


def stated(can: Mapping[str, bool | int]) -> Abilities:
    """The abilities of a `can` row; raises ValueError, in words, for what cannot be meant."""
    sizes: dict[str, int] = {}
    for name, value in can.items():
        if (name in SIZES) == isinstance(value, bool):
            raise ValueError(
                f"`{name}` is a number of tokens" if name in SIZES else f"`{name}` is true or false"
            )
        if name in SIZES:
            if value < 1:
                raise ValueError(f"`{name}` is a number of tokens ≥ 1")
            sizes[name] = int(value)
    flags = {name: value for name, value in can.items() if name not in SIZES}
    return Abilities(
        context=sizes.get("context"),
        max_output=sizes.get("max_output"),
        has=frozenset(name for name, value in flags.items() if value),
        lacks=tuple(name for name, value in flags.items() if not value),
    )


def known_of(row: Provider) -> Abilities:
    """What a provider's row says: its true columns, and what its documentation says that it lacks."""
    columns = ("logprobs", "seed", "json_schema", "stream_usage")
    has = {name for name in columns if getattr(row, name)} | set(row.has)
    return Abilities(has=frozenset(has - set(row.lacks)), lacks=row.lacks)


def abilities_of(
    can: Mapping[str, bool | int], *, url: str | None = None, provider: str | None = None
) -> Abilities:
    """What is declared, over what is known of the provider by its name or its URL."""
    row = PROVIDERS.get(provider) if provider else provider_of(url) if url else None
    return stated(can) if row is None else stated(can).over(known_of(row))


def check(can: Abilities, call: Call, who: str) -> None:
    """Raises ApiError 400, naming the parameter, where a request asks for more than `who` can do.

    Costs a few comparisons where nothing restricts; the body is read only for features that are lacking. A
    prompt that is too long is only known to whoever counts its tokens: here a context is only held against
    the output that is asked for, to which at least one token of input is added.
    """
    asked = call.asked
    if asked.cap is not None and asked.operation != "embeddings":
        if can.context is not None and asked.cap >= can.context:
            raise _too_long(call, f"context of {can.context} tokens", who)
        if can.max_output is not None and asked.cap > can.max_output:
            raise _too_long(call, f"most output of {can.max_output} tokens", who)
    for name in can.lacks:
        if name in OPERATIONS:
            if name == asked.operation:
                raise ApiError(
                    400, f"{who} does not serve {name}.", code="unsupported_operation", param="model"
                )
        elif (param := asks_for(name, call)) is not None:
            raise unsupported(param, who)


def check_money(can: Abilities, call: Call, who: str, *, stated: bool) -> None:
    """Raises ApiError 400 for a field with which a request would cost more than is reserved for it; one that a
    target is declared to have is taken. `stated`: its price is the two or three rates that somebody wrote.
    """
    fields = call.fields
    for name in fields:
        if name in INSTEAD:
            if can.says(name) is not True and _given(call, name):
                raise _costly(name, who, INSTEAD[name])
        elif name not in READ and name.casefold() in READ:
            raise _costly(name, who, f"Write '{name.casefold()}'.")
    if not stated:
        return
    for name in DEARER:
        if name in fields and can.says(name) is not True and bytes(fields[name]) not in NO:
            raise _costly(name, who, "Its price does not cover it.")
    if "service_tier" in fields:
        tier = searchable(bytes(fields["service_tier"]))
        if tier == b'"priority"' and can.says("service_tier") is not True:
            raise _costly("service_tier", who, "Its price does not cover 'priority'.")


def _costly(name: str, who: str, why: str) -> ApiError:
    message = f"Unsupported parameter: '{name}' is not supported by {who}. {why}"
    return ApiError(400, message, code="unsupported_parameter", param=name)


def asks_for(ability: str, call: Call) -> str | None:
    """The parameter with which a request asks for a feature or a parameter; null if it does not."""
    asked = call.asked
    if ability == "n":
        return None if asked.choices == 1 else "n" if _given(call, "n") else "best_of"
    if ability == "stream_usage":
        # a dialect that translates asks for usage itself, and does without where it does not come
        asks = asked.include_usage and _given(call, "stream_options")
        return "stream_options.include_usage" if asks else None
    if ability == "images":
        return next(_images(call), None) if asked.operation == "chat" else None
    if ability == "tools":
        names = ("tools", "functions")
        return next((name for name in names if _given(call, name)), None) or next(_tool_turns(call), None)
    if ability == "parallel_tools":
        return "parallel_tool_calls" if _given(call, "parallel_tool_calls") else None
    if ability == "logprobs":
        return next((name for name in ("logprobs", "top_logprobs") if _given(call, name)), None)
    if ability in ("json_schema", "json_object"):
        return "response_format" if _format(call) == ability else None
    return ability if _given(call, ability) else None


def _given(call: Call, name: str) -> bool:
    return name in call.fields and bytes(call.fields[name]) not in _OFF


class _Format(msgspec.Struct):
    type: str = ""


class _Part(msgspec.Struct):
    type: str = ""


class _Turn(msgspec.Struct):
    role: str = ""
    content: list[_Part] | str | None = None
    tool_calls: list[Any] | None = None


_FORMAT = msgspec.json.Decoder(_Format)
_TURNS = msgspec.json.Decoder(list[_Turn])


def _format(call: Call) -> str | None:
    raw = call.fields.get("response_format")
    try:
        return None if raw is None or bytes(raw) == b"null" else _FORMAT.decode(raw).type
    except UNREADABLE:
        return None  # it has no form in which it could ask: whoever reads it says so


def _turns(call: Call) -> list[_Turn]:
    raw = call.fields.get("messages")
    try:
        return [] if raw is None else _TURNS.decode(raw)
    except UNREADABLE:
        return []


def _images(call: Call) -> Iterator[str]:
    for index, turn in enumerate(_turns(call)):
        for number, part in enumerate(turn.content if isinstance(turn.content, list) else ()):
            if part.type in IMAGES:
                yield f"messages[{index}].content[{number}]"


def _tool_turns(call: Call) -> Iterator[str]:
    """Turns of a talk that went on with tools: a template that has no tools would leave them out."""
    if call.asked.operation != "chat":
        return
    for index, turn in enumerate(_turns(call)):
        if turn.role in ("tool", "function"):
            yield f"messages[{index}].role"
        elif turn.tool_calls:
            yield f"messages[{index}].tool_calls"


def _too_long(call: Call, limit: str, who: str) -> ApiError:
    names = ("max_completion_tokens", "max_tokens")
    param = next((name for name in names if name in call.fields), "max_tokens")
    message = f"Invalid '{param}': {call.asked.cap} tokens do not fit into {who}, with a {limit}."
    code = "context_length_exceeded" if limit.startswith("context") else "invalid_value"
    return ApiError(400, message, code=code, param=param)
