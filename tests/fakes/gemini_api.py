"""A small server that speaks Gemini's `generateContent` as it is documented (ai.google.dev/api): whole answers,
streams, function calls, usage with caches and thoughts, errors; a field that it does not know is refused, as
there. It also takes notice of caches, which nobody should make.
"""

from typing import Any

from aiohttp import web

from tests.fakes.provider_api import ProviderApi, Received, Scripted, sse

FIELDS = frozenset(
    {
        "contents",
        "systemInstruction",
        "generationConfig",
        "tools",
        "toolConfig",
        "serviceTier",
        "cachedContent",
    }
)
CONFIG = frozenset(
    {
        *("temperature", "topP", "topK", "seed", "maxOutputTokens", "stopSequences", "presencePenalty"),
        *("frequencyPenalty", "responseMimeType", "responseJsonSchema", "responseSchema", "thinkingConfig"),
    }
)


def text(words: str = "open below, closed above", **more: Any) -> dict[str, Any]:
    return {"text": words, **more}


def function_call(name: str, *, id: str | None = None, **arguments: Any) -> dict[str, Any]:
    named = {"id": id} if id else {}
    return {"functionCall": {**named, "name": name, "args": arguments}}


def says(*parts: dict[str, Any], stop: str = "STOP", **more: Any) -> Scripted:
    """An answer; usage is 7 and 4 tokens where `usage` says nothing else."""
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 4, "totalTokenCount": 11}
    return Scripted(parts=parts or (text(),), stop=stop, usage=more.pop("usage", usage), **more)


def fails(status: int, kind: str, message: str = "scripted error", **more: Any) -> Scripted:
    return Scripted(status=status, kind=kind, message=message, **more)


class GeminiApi(ProviderApi):
    def __init__(self, *replies: Scripted, key: str = "provider-key") -> None:
        super().__init__(*replies, key=key)
        self.caches = 0

    def usual(self) -> Scripted:
        return says()

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1beta/models/{call}", self.handle)
        app.router.add_post("/v1beta/cachedContents", self._cache)

    async def _cache(self, _: web.Request) -> web.Response:
        self.caches += 1
        return web.json_response({"name": "cachedContents/1"})

    def streams(self, request: Received) -> bool:
        return request.path.endswith(":streamGenerateContent")

    def refusal(self, request: Received) -> Scripted | None:
        if request.headers.get("x-goog-api-key") != self.key or "authorization" in request.headers:
            details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
            words = "API key not valid. Please pass a valid API key."
            return fails(400, "INVALID_ARGUMENT", words, details=details)
        unknown = (set(request.body) - FIELDS) | (set(request.body.get("generationConfig", {})) - CONFIG)
        if unknown:
            return fails(400, "INVALID_ARGUMENT", f'Unknown name "{min(unknown)}": Cannot find field.')
        return None

    def error(self, reply: Scripted) -> dict[str, Any]:
        error = {"code": reply.status, "message": reply.message, "status": reply.kind}
        return {"error": error | ({"details": list(reply.details)} if reply.details else {})}

    def failure(self, reply: Scripted) -> bytes:
        error = {"code": 503, "message": reply.message, "status": reply.kind}
        return sse({"error": error})

    def whole(self, request: Received, reply: Scripted) -> dict[str, Any]:
        return _response(list(reply.parts), reply.stop, reply.usage)

    def events(self, request: Received, reply: Scripted) -> list[bytes]:
        pieces: list[dict[str, Any]] = []
        for part in reply.parts:
            words = part["text"].split(" ") if "text" in part else []
            pieces += [{**part, "text": word if n == 0 else " " + word} for n, word in enumerate(words)]
            pieces += [] if words else [part]
        partial = None
        if reply.usage:
            partial = {**reply.usage, "candidatesTokenCount": 1}
        events = [_response([piece], None, partial) for piece in pieces[:-1]]
        return [sse(event) for event in (*events, _response(pieces[-1:], reply.stop, reply.usage))]


def _response(parts: list[dict[str, Any]], stop: str | None, usage: dict[str, Any] | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if stop:
        candidate["finishReason"] = stop
    body: dict[str, Any] = {"candidates": [candidate], "modelVersion": "g-1", "responseId": "r1"}
    return body if usage is None else {**body, "usageMetadata": usage}
