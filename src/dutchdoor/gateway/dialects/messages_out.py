"""Answers, streams and errors in Anthropic's form: names and types as the `anthropic` package has them."""

from typing import Any

import msgspec

from dutchdoor.gateway.call import Call
from dutchdoor.gateway.dialects.chunks import Counts, Part, read_whole
from dutchdoor.gateway.dialects.messages_in import Kept
from dutchdoor.gateway.dialects.naming import renamed
from dutchdoor.gateway.dialects.sequence import Sequence
from dutchdoor.gateway.errors import ApiError
from dutchdoor.ledger.requests import Used

STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
# https://docs.claude.com/en/api/errors; 402, 408, 409, 504: `anthropic.types.shared.ErrorType`
TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "user": "metadata.user_id",
    "messages": "messages",
    "tools": "tools",
    "tool_choice": "tool_choice",
}
UNREAD = "unreadable_arguments"  # the one field of an input whose arguments are no JSON object

_OBJECT = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.encode


def error_body(error: ApiError) -> bytes:
    """`{"type": "error", "error": {"type", "message", "details": {"error_code", "param"}}}`"""
    kind = TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    param, message = renamed(error, NAMES)
    told: dict[str, Any] = {"type": kind, "message": message}
    details = {"error_code": error.code, "param": param}
    told["details"] = {name: value for name, value in details.items() if value is not None} or None
    return _encode({"type": "error", "error": told})


def broken_event(message: str) -> bytes:
    """The event that ends a stream which broke."""
    return _event("error", {"error": {"type": "api_error", "message": message}})


def message_id(call: Call) -> str:
    """The request's own number, so that it is found in log and ledger."""
    return "msg_" + call.request.removeprefix("req_")


def message(call: Call, body: bytes) -> bytes:
    """A whole answer as a `message`; raises ApiError 502 for one that is no chat completion."""
    whole = read_whole(body)
    kept = _kept(call)
    parts = [part for part in whole.parts if kept.thinking or part.kind != "thinking"]
    counts = whole.counts or Counts()
    return _encode(
        {
            **_head(call),
            "content": [_block(call, part) for part in parts],
            **_stop(kept, parts, whole.finish_reason, whole.stop_reason),
            "usage": _usage(counts, counts.prompt_tokens, counts.completion_tokens),
        }
    )


def _head(call: Call) -> dict[str, Any]:
    return {"id": message_id(call), "type": "message", "role": "assistant", "model": call.asked.model}


def _kept(call: Call) -> Kept:
    kept = call.asked.kept
    return kept if isinstance(kept, Kept) else Kept()


def _block(call: Call, part: Part) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"type": "thinking", "thinking": part.text, "signature": ""}
    if part.kind != "call":
        return {"type": "text", "text": part.text, "citations": None}
    return {**_use(call, part), "input": _input(part.text)}


def _use(call: Call, part: Part) -> dict[str, Any]:
    own = f"toolu_{call.request.removeprefix('req_')}_{part.number}"
    return {"type": "tool_use", "id": part.id or own, "name": part.name or ""}


def _input(arguments: str) -> dict[str, Any]:
    if not arguments.strip():
        return {}
    try:
        return _OBJECT.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return {UNREAD: arguments}  # what a model says is not thrown away


def _stop(kept: Kept, parts: list[Part], finish: str | None, met: Any) -> dict[str, Any]:
    reason = STOPS.get(finish or "stop", "end_turn")
    sequence = None
    if any(part.kind == "refusal" for part in parts):
        reason = "refusal"
    elif reason == "end_turn" and any(part.kind == "call" for part in parts):
        reason = "tool_use"  # OpenAI says "stop" where a call was demanded by its name
    elif reason == "end_turn" and isinstance(met, str) and met in kept.stop_sequences:
        reason, sequence = "stop_sequence", met
    return {"stop_reason": reason, "stop_sequence": sequence}


def _usage(counts: Counts, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Anthropic's `input_tokens` are those that no cache held; OpenAI's are all."""
    cached = min(counts.cached, input_tokens)
    written = min(counts.cache_written, input_tokens - cached)
    usage: dict[str, Any] = {
        "input_tokens": input_tokens - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": output_tokens,
    }
    if counts.thought:
        usage["output_tokens_details"] = {"thinking_tokens": counts.thought}
    return usage


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))


class MessagesTranslator:
    """Anthropic's events: `message_start`, then blocks one after the other; `message_delta` and `message_stop`
    when all is settled.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._kept = _kept(call)
        self._sequence = Sequence(self)
        self._out: list[bytes] = []
        self._hidden = 0  # parts that have no block of their own
        self._index = 0
        self._before = self._after = b""

    def feed(self, events: bytes) -> bytes:
        """Whole events in, whole events out; raises NoChunkError for what is no chunk."""
        self._sequence.feed(events)
        return self._taken()

    def end(self, used: Used) -> bytes:
        """What is open is closed; `used` is told as the usage."""
        sequence = self._sequence
        sequence.end()
        counts = sequence.counts or Counts.of_cached(used.cached_tokens)
        parts = [part for part in sequence.parts if self._kept.thinking or part.kind != "thinking"]
        delta = _stop(self._kept, parts, sequence.finish_reason, sequence.stop_reason)
        usage = _usage(counts, used.input_tokens, used.output_tokens)
        self._out.append(_event("message_delta", {"delta": delta, "usage": usage}))
        self._out.append(_event("message_stop", {}))
        return self._taken()

    def broken(self, message: str) -> bytes:
        """An `error` event."""
        return broken_event(message)

    def begin(self) -> None:
        usage = _usage(Counts(), 0, 0)  # no target tells the input before the end; `message_delta` does
        start = {
            **_head(self._call),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        self._out.append(_event("message_start", {"message": start}))

    def idle(self) -> None:
        self._out.append(_event("ping", {}))

    def open(self, part: Part) -> None:
        if self._hides(part):
            self._hidden += 1
            return
        self._index = part.number - self._hidden
        block: dict[str, Any]
        if part.kind == "thinking":
            block, delta, field = (
                {"type": "thinking", "thinking": "", "signature": ""},
                "thinking_delta",
                "thinking",
            )
        elif part.kind == "call":
            block, delta, field = {**_use(self._call, part), "input": {}}, "input_json_delta", "partial_json"
        else:
            block, delta, field = {"type": "text", "text": ""}, "text_delta", "text"
        self._out.append(_event("content_block_start", {"index": self._index, "content_block": block}))
        # put together by hand: a stream consists of hardly anything else
        self._before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":' % (self._index, delta.encode(), field.encode())
        )

    def add(self, part: Part, piece: str, logprobs: msgspec.Raw | None) -> None:
        if not self._hides(part):
            self._out.append(self._before + _encode(piece) + b"}}\n\n")

    def close(self, part: Part, cut: bool) -> None:
        if not self._hides(part):
            self._out.append(_event("content_block_stop", {"index": self._index}))

    def _hides(self, part: Part) -> bool:
        return part.kind == "thinking" and not self._kept.thinking

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out
