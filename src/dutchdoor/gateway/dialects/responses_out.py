"""Answers, streams and errors in the form of OpenAI's responses: names and types as the `openai` package has
them.
"""

from typing import Any

import msgspec

from dutchdoor.gateway.call import Call
from dutchdoor.gateway.dialects.chunks import Counts, Kind, Part, joined, read_whole
from dutchdoor.gateway.dialects.naming import renamed
from dutchdoor.gateway.dialects.responses_in import Kept
from dutchdoor.gateway.dialects.sequence import Sequence
from dutchdoor.gateway.errors import ApiError, error_body
from dutchdoor.ledger.requests import Used

NAMES = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "include",
    "messages": "input",
    "tools": "tools",
    "tool_choice": "tool_choice",
}
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
ITEM_IDS: dict[Kind, str] = {"thinking": "rs", "text": "msg", "refusal": "msg", "call": "fc"}
PART_TYPES: dict[Kind, str] = {"thinking": "reasoning_text", "text": "output_text", "refusal": "refusal"}
PART_FIELDS: dict[Kind, str] = {"thinking": "text", "text": "text", "refusal": "refusal", "call": "arguments"}
EVENTS: dict[Kind, str] = {
    "thinking": "response.reasoning_text",
    "text": "response.output_text",
    "refusal": "response.refusal",
    "call": "response.function_call_arguments",
}
NO_TOKENS = msgspec.Raw(b"[]")

_encode = msgspec.json.encode


def error_in_form(error: ApiError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`"""
    param, message = renamed(error, NAMES)
    return error_body(message, error.type, code=error.code, param=param)


def response(call: Call, body: bytes) -> bytes:
    """A whole answer as a `response`; raises ApiError 502 for one that is no chat completion."""
    whole = read_whole(body)
    counts = whole.counts
    usage = None if counts is None else _usage(counts, counts.prompt_tokens, counts.completion_tokens)
    cut = whole.finish_reason == "length"
    items = [_item(call, part, cut and part is whole.parts[-1]) for part in whole.parts]
    return _encode(_ended(call, items, whole.finish_reason, usage, whole.service_tier))


def _number(call: Call) -> str:
    """The request's own number, so that it is found in log and ledger."""
    return call.request.removeprefix("req_")


def _head(call: Call, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    kept = call.asked.kept
    return {
        "instructions": None,
        "max_output_tokens": None,
        **(kept.told if isinstance(kept, Kept) else {}),
        "id": f"resp_{_number(call)}",
        "object": "response",
        "created_at": call.created,
        "status": status,
        "model": call.asked.model,
        "output": output,
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }


def _ended(
    call: Call,
    output: list[dict[str, Any]],
    finish: str | None,
    usage: dict[str, Any] | None,
    service_tier: str | None,
) -> dict[str, Any]:
    why = INCOMPLETE.get(finish or "")
    ended = {**_head(call, "incomplete" if why else "completed", output), "usage": usage}
    if why is not None:
        ended["incomplete_details"] = {"reason": why}
    if service_tier is not None:
        ended["service_tier"] = service_tier
    return ended


def _usage(counts: Counts, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": min(counts.cached, input_tokens),
            "cache_write_tokens": min(counts.cache_written, input_tokens),
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": min(counts.thought, output_tokens)},
        "total_tokens": input_tokens + output_tokens,
    }


def _item_id(call: Call, part: Part) -> str:
    return f"{ITEM_IDS[part.kind]}_{_number(call)}_{part.number}"


def _begun(call: Call, part: Part) -> dict[str, Any]:
    """The item as it is before anything is in it."""
    item: dict[str, Any]
    if part.kind == "call":
        call_id = part.id or f"call_{_number(call)}_{part.number}"
        item = {"type": "function_call", "call_id": call_id, "name": part.name or "", "arguments": ""}
    elif part.kind == "thinking":
        item = {"type": "reasoning", "summary": [], "content": []}
    else:
        item = {"type": "message", "role": "assistant", "content": []}
    return {"id": _item_id(call, part), "status": "in_progress", **item}


def _item(call: Call, part: Part, cut: bool) -> dict[str, Any]:
    item = _begun(call, part) | {"status": "incomplete" if cut else "completed"}
    if part.kind == "call":
        return item | {"arguments": part.text}
    return item | {"content": [_content(part.kind, part.text, joined(part.logprobs))]}


def _content(kind: Kind, text: str, logprobs: msgspec.Raw | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {"type": PART_TYPES[kind], PART_FIELDS[kind]: text}
    if kind == "text":
        content |= {"annotations": [], "logprobs": NO_TOKENS if logprobs is None else logprobs}
    return content


class ResponsesTranslator:
    """The events of a response: created, in progress, then items one after the other; completed or incomplete
    when all is settled.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._sequence = Sequence(self)
        self._out: list[bytes] = []
        self._number = 0
        self._items: list[dict[str, Any]] = []  # that are done
        self._place: dict[str, Any] = {}  # of the part that is open
        self._before = b""

    def feed(self, events: bytes) -> bytes:
        """Whole events in, whole events out; raises NoChunkError for what is no chunk."""
        self._sequence.feed(events)
        return self._taken()

    def end(self, used: Used) -> bytes:
        """What is open is closed; `used` is told as the usage."""
        sequence = self._sequence
        sequence.end()
        counts = sequence.counts or Counts.of_cached(used.cached_tokens)
        usage = _usage(counts, used.input_tokens, used.output_tokens)
        ended = _ended(self._call, self._items, sequence.finish_reason, usage, sequence.service_tier)
        self._tell(f"response.{ended['status']}", {"response": ended})
        return self._taken()

    def broken(self, message: str) -> bytes:
        """`response.failed`, with the items that were done."""
        if not self._number:
            self.begin()
        error = {"code": "server_error", "message": message}
        self._tell(
            "response.failed", {"response": {**_head(self._call, "failed", self._items), "error": error}}
        )
        return self._taken()

    def begin(self) -> None:
        begun = {"response": _head(self._call, "in_progress", [])}
        self._tell("response.created", begun)
        self._tell("response.in_progress", begun)

    def idle(self) -> None:
        self._out.append(b": ping\n\n")

    def open(self, part: Part) -> None:
        self._tell(
            "response.output_item.added", {"output_index": part.number, "item": _begun(self._call, part)}
        )
        self._place = {"item_id": _item_id(self._call, part), "output_index": part.number}
        if part.kind != "call":
            self._place["content_index"] = 0
            self._tell("response.content_part.added", {**self._place, "part": _content(part.kind, "")})
        kind = EVENTS[part.kind] + ".delta"
        place = _encode(self._place)[1:-1]
        # put together by hand: a stream consists of hardly anything else
        self._before = b'event: %b\ndata: {"type":"%b",%b,"sequence_number":' % (
            kind.encode(),
            kind.encode(),
            place,
        )

    def add(self, part: Part, piece: str, logprobs: msgspec.Raw | None) -> None:
        after = b"}\n\n"
        if part.kind == "text":
            after = b',"logprobs":%b}\n\n' % bytes(logprobs or NO_TOKENS)
        self._out.append(b'%b%d,"delta":%b%b' % (self._before, self._number, _encode(piece), after))
        self._number += 1

    def close(self, part: Part, cut: bool) -> None:
        text = part.text
        done: dict[str, Any] = {**self._place, PART_FIELDS[part.kind]: text}
        if part.kind == "text":
            done["logprobs"] = joined(part.logprobs) or NO_TOKENS
        elif part.kind == "call":
            done["name"] = part.name or ""
        self._tell(EVENTS[part.kind] + ".done", done)
        item = _item(self._call, part, cut)
        if part.kind != "call":
            self._tell("response.content_part.done", {**self._place, "part": item["content"][0]})
        self._items.append(item)
        self._tell("response.output_item.done", {"output_index": part.number, "item": item})

    def _tell(self, name: str, fields: dict[str, Any]) -> None:
        body = _encode({"type": name, **fields, "sequence_number": self._number})
        self._out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), body))
        self._number += 1

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out
