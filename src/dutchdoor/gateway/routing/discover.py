"""Servers on this machine: who answers at the known ports, what it serves, and how long its context is.

Each kind is told by a path that only it answers, never by its port; a gateway of our own is no target. Asks
for lists only: no model is loaded by it, and nothing leaves the machine unless an address elsewhere is given.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from dutchdoor.engines.providers import PROVIDERS
from dutchdoor.gateway.routing.file import LoadedRoutes, RoutePlan, TargetRow

TIMEOUT_S = 1.0  # for each question; a server on this machine that takes longer is busy with something else
LARGEST = 4 << 20  # bytes of an answer
OURS = "dutchdoor keys create"  # what our own gateway says to whoever comes without a key
UNKNOWN = "openai-compatible"
MARKERS = {row.name: row.marker for row in PROVIDERS.values() if row.marker is not None}
# a field that the answer to the marker has
PROOFS = {
    "ollama": "version",
    "llama-server": "default_generation_settings",
    "sglang": "model_path",
    "lmstudio": "data",
    "vllm": "version",
}
ORDER = ("llama-server", "sglang", "lmstudio", "ollama", "vllm")  # the rarest marker first


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served; `context` in tokens, null where the server does not tell."""

    name: str
    context: int | None = None
    embeds: bool = False


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers at an address. `needs_key`: it lists its models only to whoever has a key."""

    url: str  # up to and including /v1
    kind: str  # the provider's row, or openai-compatible
    models: tuple[Model, ...] = ()
    needs_key: bool = False


def known_urls() -> list[str]:
    """Where servers of known kinds listen on this machine unless told otherwise."""
    rows = [row for row in PROVIDERS.values() if row.marker is not None]
    return [row.base_url for row in rows if row.base_url is not None]


async def discover(urls: Iterable[str], *, timeout_s: float = TIMEOUT_S) -> list[Server]:
    """The servers that answer at these addresses, in their order; one that does not is left out."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        found = await asyncio.gather(*(_ask(http, url) for url in dict.fromkeys(urls)))
    await asyncio.sleep(0)  # lets the transports go
    return [server for server in found if server is not None]


def as_routes(servers: Sequence[Server]) -> LoadedRoutes:
    """Targets and a route for each model that was found; what they cost is unknown, and so allowed."""
    targets: dict[str, TargetRow] = {}
    plans: dict[str, RoutePlan] = {}
    for server in servers:
        for model in server.models:
            name = _free(_slug(model.name), targets, server.kind)
            can: dict[str, bool | int] = {} if model.context is None else {"context": model.context}
            if model.embeds:
                can |= {"chat": False, "embeddings": True}
            targets[name] = TargetRow(url=server.url, model=model.name, can=can)
            plans[name] = RoutePlan(model=name, to=(name,), unpriced=True)
    return LoadedRoutes(path=Path("routes.yaml"), targets=targets, routes=tuple(plans.values()))


async def _ask(http: aiohttp.ClientSession, url: str) -> Server | None:
    url = url.rstrip("/").removesuffix("/v1")
    status, listed = await _get(http, f"{url}/v1/models")
    if status is None or _is_ours(listed):
        return None
    kind, said = await _kind(http, url)
    if status in (401, 403):
        return Server(url=f"{url}/v1", kind=kind, needs_key=True)
    rows = listed.get("data") if isinstance(listed, dict) else None
    if status != 200 or not isinstance(rows, list):
        return None
    kind = _owner(rows) or kind
    contexts = await _contexts(http, url, kind, said)
    embeds = _embedders(kind, said)
    models = []
    for row in rows:
        name = row.get("id") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            continue
        context = _tokens(row.get("max_model_len")) or contexts.get(name) or contexts.get("")
        models.append(Model(name=name, context=context, embeds=name in embeds))
    return Server(url=f"{url}/v1", kind=kind, models=tuple(models))


async def _get(http: aiohttp.ClientSession, url: str) -> tuple[int | None, Any]:
    """Status and JSON of an address; null where nobody answers, or not in JSON."""
    try:
        async with http.get(url, allow_redirects=False) as response:
            data = await response.content.read(LARGEST)
            while response.status == 200 and not response.content.at_eof() and len(data) < LARGEST:
                data += await response.content.read(LARGEST - len(data))
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None, None
    try:
        return status, msgspec.json.decode(data)
    except msgspec.DecodeError:
        return status, None


async def _kind(http: aiohttp.ClientSession, url: str) -> tuple[str, Any]:
    """What kind of server it is, and what it said at the path that only its kind answers."""
    answers = await asyncio.gather(*(_get(http, url + str(MARKERS[kind])) for kind in ORDER))
    for kind, (status, said) in zip(ORDER, answers, strict=True):
        if status == 200 and isinstance(said, dict) and PROOFS[kind] in said:
            return kind, said
    return UNKNOWN, None


def _is_ours(listed: Any) -> bool:
    """Whether a gateway of our own answers: it has targets, and is none."""
    if not isinstance(listed, dict):
        return False
    error = listed.get("error")
    if isinstance(error, dict) and OURS in str(error.get("message")):
        return True
    rows = listed.get("data")
    return isinstance(rows, list) and any(isinstance(row, dict) and "dutchdoor" in row for row in rows)


def _owner(rows: Sequence[Any]) -> str | None:
    """The kind that a list of models names as their owner."""
    owners = {str(row.get("owned_by")) for row in rows if isinstance(row, dict)}
    return next((kind for kind in ("vllm", "sglang") if owners == {kind}), None)


async def _contexts(http: aiohttp.ClientSession, url: str, kind: str, said: Any) -> dict[str, int]:
    """Tokens by model, as each kind tells them; under `` those of every model."""
    if kind == "llama-server" and isinstance(said, dict):
        settings = said.get("default_generation_settings")
        tokens = _tokens(settings.get("n_ctx")) if isinstance(settings, dict) else None
        return {} if tokens is None else {"": tokens}
    if kind == "lmstudio":
        return _by_name(said, "id", "loaded_context_length")
    if kind == "ollama":  # only of models that are loaded: what another one gets is decided when it is
        _, running = await _get(http, f"{url}/api/ps")
        rows = {"data": running.get("models")} if isinstance(running, dict) else None
        return _by_name(rows, "name", "context_length")
    return {}


def _by_name(said: Any, name: str, tokens: str) -> dict[str, int]:
    rows = said.get("data") if isinstance(said, Mapping) else None
    return {
        str(row[name]): count
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and name in row and (count := _tokens(row.get(tokens))) is not None
    }


def _embedders(kind: str, said: Any) -> frozenset[str]:
    rows = said.get("data") if kind == "lmstudio" and isinstance(said, dict) else None
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return frozenset(str(row.get("id")) for row in found if row.get("type") == "embeddings")


def _tokens(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _slug(model: str) -> str:
    """A short public name: without the organisation, the folder and the ending of a file."""
    last = re.split(r"[/\\]", model)[-1].removesuffix(".gguf").removesuffix(":latest")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._").lower() or "model"


def _free(name: str, taken: Mapping[str, object], kind: str) -> str:
    if name not in taken:
        return name
    name, number = f"{name}-{kind}", 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found
