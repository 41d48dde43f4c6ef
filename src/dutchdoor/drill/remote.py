"""A model behind a URL: its key, and what its server says of it.

Reads `GET /models` as far as a server tells anything: our own gateway (licence, price, context), vLLM,
llama-server and OpenRouter each say a part. What nobody says stays unknown. Sends a key only to the host it
was named for.
"""

import os
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from dutchdoor.core import LedgerError, UsageError
from dutchdoor.drill.cost import price
from dutchdoor.drill.report import Price
from dutchdoor.drill.routes import Target
from dutchdoor.engines.http import HttpEngine
from dutchdoor.engines.interface import Engine
from dutchdoor.engines.providers import PROVIDERS, provider_of
from dutchdoor.vetting.runner import BelowGuard

LIST_S = 5.0  # for the list of models, which is only good to have
LARGEST_LIST = 4 << 20  # bytes


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind a URL, with what its server says of it."""

    url: str
    model: str
    key_env: str | None  # the variable the key comes from; null: no key is sent
    key_hint: str  # for when the server refuses us
    open: Callable[[], Awaitable[Engine]]
    license: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    price: Price | None = None

    @property
    def target(self) -> Target:
        """How a routes file names it."""
        named = {"url": self.url, "model": self.model}
        return named if self.key_env is None else {**named, "key_env": self.key_env}


async def remote(url: str, model: str, key_env: str | None, letter: Literal["a", "b"]) -> Remote:
    """Find the key, and ask the server what it says of the model. Raises UsageError without the key."""
    looked_for = key_env or _usual_variable(url)
    key = os.environ.get(looked_for) if looked_for else None
    if looked_for and not key and (key_env or not _is_here(url)):
        raise UsageError(
            f"{url} needs a key, and the environment variable {looked_for} is not set",
            hint=f"export {looked_for}=…, or name another variable with --key-env-{letter}",
        )

    async def opened() -> Engine:
        return BelowGuard(HttpEngine(url, model, key))

    said = await _said(url, model, key)
    return Remote(
        url=url,
        model=model,
        key_env=looked_for if key else None,
        key_hint=_key_hint(looked_for, bool(key), letter),
        open=opened,
        license=_text(said, "license"),
        parameters=_count(said, "parameters", "n_params"),
        context_length=_count(said, "context_length", "max_model_len", "n_ctx", "n_ctx_train"),
        price=_price(said),
    )


def _key_hint(looked_for: str | None, found: bool, letter: str) -> str:
    """What a person can do about a refused key."""
    another = f"--key-env-{letter} names another"
    if found:
        return f"the key came from the environment variable {looked_for}; {another}"
    if looked_for:
        return f"no key was sent: the environment variable {looked_for} is not set; {another}"
    return f"no key was sent: name the environment variable that holds it with --key-env-{letter}"


def _usual_variable(url: str) -> str | None:
    """The provider's own; on this machine our gateway's, which no other host is ever sent."""
    return provider_of(url).key_env or (PROVIDERS["dutchdoor"].key_env if _is_here(url) else None)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # a name, and names that begin with 127. are anyone's


async def _said(url: str, model: str, key: str | None) -> dict[str, Any]:
    """What the list of models says of this one, flattened; empty where it says nothing."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=LIST_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/models", headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                return {}
            listed = msgspec.json.decode(await response.content.read(LARGEST_LIST))
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError, ValueError):
        return {}  # whether it answers at all, the first question will show
    models = listed.get("data") if isinstance(listed, dict) else None
    for entry in models if isinstance(models, list) else []:
        if isinstance(entry, dict) and entry.get("id") == model:
            parts = [entry.get(name) for name in ("meta", "dutchdoor")]
            return {**entry, **{k: v for part in parts if isinstance(part, dict) for k, v in part.items()}}
    return {}


def _text(said: dict[str, Any], name: str) -> str | None:
    value = said.get(name)
    return value[:120] if isinstance(value, str) and value.isprintable() and value else None


def _count(said: dict[str, Any], *names: str) -> int | None:
    values = [said.get(name) for name in names]
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)


def _price(said: dict[str, Any]) -> Price | None:
    """Our own form (`price`, USD per million tokens), or OpenRouter's (`pricing`, USD a token)."""
    for field, first, second, scale in (
        ("price", "input", "output", 0),
        ("pricing", "prompt", "completion", 6),
    ):
        told = said.get(field)
        if not isinstance(told, dict):
            continue
        try:
            amounts = [Decimal(str(told[name])).scaleb(scale) for name in (first, second)]
            return price(f"{amounts[0]:f}", f"{amounts[1]:f}", "server")
        except (KeyError, InvalidOperation, ValueError, LedgerError):
            continue  # a price we can't read exactly is unknown
    return None
