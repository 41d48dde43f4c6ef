"""A small server that speaks Anthropic's Messages API as it is documented (platform.claude.com/docs/en/api):
whole answers, streams, tools, usage with caches, errors; a field that it does not know is refused, as there.
"""

import json
from typing import Any

from aiohttp import web

from tests.fakes.provider_api import ProviderApi, Received, Scripted, sse

FIELDS = frozenset(
    {
        *("model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences"),
        *("stream", "tools", "tool_choice", "thinking", "metadata", "service_tier", "output_config"),
    }
)
BLOCKS = {
    "user": frozenset({"text", "image", "tool_result"}),
    "assistant": frozenset({"text", "thinking", "tool_use"}),
}


def text(words: str = "open below, closed above") -> dict[str, Any]:
    return {"type": "text", "text": words}


def tool_use(id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def thinking(words: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": signature}


def says(*parts: dict[str, Any], stop: str = "end_turn", **more: Any) -> Scripted:
    """An answer; usage is 7 and 4 tokens where `usage` says nothing else."""
    usage = {"input_tokens": 7, "output_tokens": 4, **more.pop("usage", {})}
    return Scripted(parts=parts or (text(),), stop=stop, usage=usage, **more)


def fails(status: int, kind: str, message: str = "scripted error", **more: Any) -> Scripted:
    return Scripted(status=status, kind=kind, message=message, **more)


class AnthropicApi(ProviderApi):
    def usual(self) -> Scripted:
        return says()

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/messages", self.handle)

    def streams(self, request: Received) -> bool:
        return bool(request.body.get("stream"))

    def refusal(self, request: Received) -> Scripted | None:
        if request.headers.get("x-api-key") != self.key or "authorization" in request.headers:
            return fails(401, "authentication_error", "invalid x-api-key")
        wrong = _wrong(request.body)
        return None if wrong is None else fails(400, "invalid_request_error", wrong)

    def error(self, reply: Scripted) -> dict[str, Any]:
        return {
            "type": "error",
            "error": {"type": reply.kind, "message": reply.message},
            "request_id": "req_1",
        }

    def failure(self, reply: Scripted) -> bytes:
        return sse(self.error(reply), "error")

    def whole(self, request: Received, reply: Scripted) -> dict[str, Any]:
        return {
            **_head(request),
            "content": list(reply.parts),
            "stop_reason": reply.stop,
            "usage": reply.usage,
        }

    def events(self, request: Received, reply: Scripted) -> list[bytes]:
        usage = reply.usage or {}
        start = {**_head(request), "content": [], "usage": {**usage, "output_tokens": 1}}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
        for index, part in enumerate(reply.parts):
            bare, deltas = _deltas(part)
            events.append({"type": "content_block_start", "index": index, "content_block": bare})
            events.append({"type": "ping"})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": reply.stop, "stop_sequence": None}
        told = {"output_tokens": usage.get("output_tokens", 0)}
        events.append({"type": "message_delta", "delta": delta, "usage": told})
        events.append({"type": "message_stop"})
        return [sse(event, event["type"]) for event in events]


def _head(request: Received) -> dict[str, Any]:
    model = request.body["model"]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _deltas(part: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it is opened, and what then comes of it, a word at a time."""
    if part["type"] == "text":
        words = part["text"].split(" ")
        pieces = [word if number == 0 else " " + word for number, word in enumerate(words)]
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
    if part["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": part["thinking"]},
            {"type": "signature_delta", "signature": part["signature"]},
        ]
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    written = json.dumps(part["input"])
    halves = ("", written[: len(written) // 2], written[len(written) // 2 :])
    return {**part, "input": {}}, [{"type": "input_json_delta", "partial_json": half} for half in halves]


def _wrong(body: dict[str, Any]) -> str | None:
    """In Anthropic's words, what is not allowed; none where all is."""
    for name in body:
        if name not in FIELDS:
            return f"{name}: Extra inputs are not permitted"
    for name in ("model", "messages", "max_tokens"):
        if name not in body:
            return f"{name}: Field required"
    if body.get("temperature", 0) > 1:
        return "temperature: range: 0..1"
    for index, message in enumerate(body["messages"]):
        where = f"messages.{index}"
        if message["role"] not in BLOCKS or set(message) != {"role", "content"}:
            return f"{where}.role: Input should be 'user' or 'assistant'"
        for number, block in enumerate(message["content"] if isinstance(message["content"], list) else ()):
            if block["type"] not in BLOCKS[message["role"]]:
                return f"{where}.content.{number}.type: Input tag '{block['type']}' is not expected"
    return None
