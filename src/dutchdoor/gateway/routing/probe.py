"""What an HTTP target can do, found out by asking it: small requests, one ability at a time.

A finding rests on the answer, not on the status alone: a parameter that is taken and has no effect was dropped,
which is worse than refused. What fails for another reason than the ability, or can be read both ways, is
unknown. Costs a few tokens a request, at the target's price.
"""

import base64
import re
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import aiohttp
import msgspec

from dutchdoor.engines.providers import provider_of

MOST_TOKENS = 8
TIMEOUT_S = 60.0  # a target may load its model at the first request
LARGEST = 4 << 20  # bytes of an answer
PADDING = 900  # bytes that make an image no larger, and its text by some hundred tokens
# the request was read and refused; 401, 403, 404, 429 and 5xx say nothing of an ability
REFUSED = frozenset({400, 405, 415, 422, 501})

Verdict = Literal["can", "cannot", "unknown"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer to one question shows."""

    ability: str
    verdict: Verdict
    because: str


class Reply(msgspec.Struct, frozen=True):
    """An answer: status 0 where there was none, `why` then says what was wrong."""

    status: int
    body: dict[str, Any]
    why: str = ""

    @property
    def choices(self) -> list[dict[str, Any]]:
        found = self.body.get("choices")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    @property
    def message(self) -> dict[str, Any]:
        said = self.choices[0].get("message") if self.choices else None
        return said if isinstance(said, dict) else {}

    @property
    def text(self) -> str:
        said = self.message.get("content")
        return said if isinstance(said, str) else ""

    @property
    def finish(self) -> str:
        return str(self.choices[0].get("finish_reason")) if self.choices else ""

    @property
    def input_tokens(self) -> int | None:
        usage = self.body.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return count if type(count) is int else None


class Probe:
    """One target at a URL (up to and including `/v1`) and the questions to it."""

    def __init__(self, url: str, model: str, key: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._cap = provider_of(url).cap_field
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession | None = None
        self._plain = Reply(0, {})

    async def run(self, *, on_finding: Callable[[Finding], None] = lambda _: None) -> list[Finding]:
        """Every finding, each told as it comes; where even a plain chat fails, all are unknown."""
        async with aiohttp.ClientSession(timeout=self._timeout, headers=self._headers) as http:
            self._http = http
            self._plain = await self._ask()
            found = []
            for ability, ask in QUESTIONS.items():
                if self._plain.status != 200 or not self._plain.choices:
                    finding = Finding(
                        ability=ability, verdict="unknown", because=f"a plain chat fails: {_why(self._plain)}"
                    )
                else:
                    verdict, because = await ask(self)
                    finding = Finding(ability=ability, verdict=verdict, because=because)
                on_finding(finding)
                found.append(finding)
        return found

    async def _ask(self, prompt: Any = "Say hello in plain words.", **fields: Any) -> Reply:
        status, data, why = await self._post(prompt, fields)
        try:
            body = msgspec.json.decode(data, type=dict[str, Any]) if data else {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Reply(status if status in REFUSED else 0, {}, why or "it answers no JSON")
        return Reply(status, body, why)

    async def _post(self, prompt: Any, fields: dict[str, Any]) -> tuple[int, bytes, str]:
        assert self._http is not None
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._model, "messages": messages, self._cap: MOST_TOKENS, **fields}
        try:
            async with self._http.post(self._url, json=body, allow_redirects=False) as response:
                data = bytearray()
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > LARGEST:
                        return 0, b"", "an answer without an end"
                return response.status, bytes(data), ""
        except TimeoutError:
            return 0, b"", "no answer in time"
        except (aiohttp.ClientError, OSError) as error:
            return 0, b"", type(error).__name__

    # -- one question each

    async def tools(self) -> tuple[Verdict, str]:
        choice = {"type": "function", "function": {"name": "get_time"}}
        reply = await self._ask("What time is it in Rome?", tools=[TOOL], tool_choice=choice)
        if reply.message.get("tool_calls"):
            return "can", "it calls the tool"
        plain = await self._ask("What time is it in Rome?")
        return _not_read(reply, plain, "the tool") or ("unknown", "it reads the tool, and does not call it")

    async def parallel_tools(self) -> tuple[Verdict, str]:
        reply = await self._ask("What time is it in Rome?", tools=[TOOL], parallel_tool_calls=True)
        without = reply if reply.status == 200 else await self._ask("What time is it in Rome?", tools=[TOOL])
        if reply.status in REFUSED and without.status == 200:
            return "cannot", f"it refuses the parameter with {reply.status}"
        return "unknown", "so few tokens show no second call" if reply.status == 200 else _why(reply)

    async def json_schema(self) -> tuple[Verdict, str]:
        schema = {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
        reply = await self._ask(response_format=wanted)
        if reply.status != 200:
            return _failed(reply)
        if re.match(r'\s*\{\s*("ok?"?|"?$)', reply.text):
            return "can", "the answer has the form"
        if reply.text.strip():
            return "cannot", "the answer is free text: the schema was dropped"
        return "unknown", "it says nothing in so few tokens"

    async def logprobs(self) -> tuple[Verdict, str]:
        reply = await self._ask(logprobs=True, top_logprobs=1)
        if reply.status != 200:
            return _failed(reply)
        told = reply.choices[0].get("logprobs") if reply.choices else None
        if isinstance(told, dict) and told.get("content"):
            return "can", "they are in the answer"
        return "cannot", "the answer has none: the parameter was dropped"

    async def n(self) -> tuple[Verdict, str]:
        reply = await self._ask(n=2)
        if reply.status != 200:
            return _failed(reply)
        count = len(reply.choices)
        return ("can", "two answers came") if count == 2 else ("cannot", f"n=2 gives {count}")

    async def seed(self) -> tuple[Verdict, str]:
        ask: dict[str, Any] = {"prompt": "Say a few random words.", "temperature": 1.0}
        first, again, other = [await self._ask(**ask, seed=seed) for seed in (7, 7, 8)]
        if first.status != 200:
            return _failed(first)
        if again.status != 200 or other.status != 200:
            return "unknown", _why(again if again.status != 200 else other)
        if not first.text:
            return "unknown", "it says nothing in so few tokens"
        if first.text != again.text:
            return "cannot", "the same seed gives another answer"
        if first.text != other.text:
            return "can", "the same seed gives the same answer, another seed another one"
        return "unknown", "every seed gives the same answer"

    async def images(self) -> tuple[Verdict, str]:
        text = {"type": "text", "text": "What colour is this?"}
        shown, padded = [await self._ask([text, _image(padding)]) for padding in (0, PADDING)]
        plain = await self._ask([text])
        if shown.status in REFUSED and plain.status in REFUSED:
            return "unknown", "it refuses lists of parts, with an image and without"
        if finding := _not_read(shown, plain, "the image"):
            return finding
        if (padded.input_tokens or 0) > (shown.input_tokens or 0):
            return "cannot", "the image was read as text"
        return "can", "the image counts as input, whatever its bytes"

    async def stream_usage(self) -> tuple[Verdict, str]:
        fields = {"stream": True, "stream_options": {"include_usage": True}}
        status, data, why = await self._post("Say hello in plain words.", fields)
        if status != 200:
            return _failed(Reply(status, {}, why))
        if b"data:" not in data:
            return "unknown", "it does not stream"
        told = re.search(rb'"usage"\s*:\s*\{[^}]*"prompt_tokens"\s*:\s*\d', data)
        return ("can", "the stream tells it") if told else ("cannot", "the stream does not tell it")


TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTIONS: dict[str, Callable[[Probe], Awaitable[tuple[Verdict, str]]]] = {
    "tools": Probe.tools,
    "parallel_tools": Probe.parallel_tools,
    "json_schema": Probe.json_schema,
    "logprobs": Probe.logprobs,
    "n": Probe.n,
    "seed": Probe.seed,
    "images": Probe.images,
    "stream_usage": Probe.stream_usage,
}
REQUESTS = 15  # a target is asked at most: one plain chat, and one to three for each ability


def _why(reply: Reply) -> str:
    return reply.why or f"it answers {reply.status}" + ("" if reply.status != 200 else " and no choice")


def _failed(reply: Reply) -> tuple[Verdict, str]:
    """What an answer that is none shows: only a refusal of the request itself is one of the ability."""
    if reply.status in REFUSED:
        return "cannot", f"it refuses the parameter with {reply.status}"
    return "unknown", _why(reply)


def _not_read(reply: Reply, plain: Reply, what: str) -> tuple[Verdict, str] | None:
    """Why something did not come before the model, by the input tokens with it and without; null if it did."""
    if reply.status != 200:
        return _failed(reply) if plain.status == 200 else ("unknown", _why(plain))
    if reply.input_tokens is None or plain.input_tokens is None:
        return "unknown", f"the usage does not tell whether {what} was read"
    if reply.input_tokens <= plain.input_tokens:
        return "cannot", f"as many input tokens as without {what}: it was dropped"
    return None


def _image(padding: int) -> dict[str, Any]:
    """A message part with a PNG of one pixel, and a comment of some bytes in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))  # 8-bit RGB
    comment = chunk(b"tEXt", b"Comment\0" + bytes(97 + index % 26 for index in range(padding)))
    pixel = chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    png = b"\x89PNG\r\n\x1a\n" + header + (comment if padding else b"") + pixel + chunk(b"IEND", b"")
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def merged(declared: dict[str, bool | int], findings: list[Finding]) -> dict[str, bool | int]:
    """`can` with what was found. A declared `false` is a choice and stays; what is unknown changes nothing."""
    found: dict[str, bool | int] = {
        each.ability: each.verdict == "can"
        for each in findings
        if each.verdict != "unknown" and declared.get(each.ability) is not False
    }
    return {**declared, **found}
