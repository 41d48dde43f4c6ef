"""any-llm, which translates for providers with an API of their own: opened with its own habits off, its errors
put into ours.

It is handed one key and one address, and reads neither keys nor addresses nor proxies from the environment;
it never asks twice, for the retries are the gateway's. Imported when a target needs it, not before.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from dutchdoor.core import MissingExtraError
from dutchdoor.gateway.errors import ApiError, TargetError, UnableError, unsupported
from dutchdoor.gateway.targets.adapter_chat import Provider
from dutchdoor.gateway.targets.http import BAD_REQUEST, NOT_DONE

URLS: dict[Provider, str] = {
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
GEMINI_VERSION = "v1beta"  # stated, or the library would read it from the environment
NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout"})  # of httpx and of httpx2: nothing was sent
SILENT = frozenset({"ReadTimeout", "WriteTimeout", "PoolTimeout", "TimeoutError"})
# Anthropic's `error.type` in a stream, whose status was 200: platform.claude.com/docs/en/api/errors
IN_STREAM = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# Answered with 400 although it is the operator's: a wrong key and a country of Gemini's, an empty account of
# Anthropic's.
OPERATORS = ("API_KEY_INVALID", "FAILED_PRECONDITION", "credit balance is too low")
TOO_LONG = ("prompt is too long", "exceeds the maximum number of tokens")


class Opened(msgspec.Struct, frozen=True):
    """any-llm's provider and the client that it asks through."""

    provider: Any
    http: Any

    async def close(self) -> None:
        """Close its connections."""
        await self.http.aclose()
        await asyncio.sleep(0)  # lets the transports go, else they are reported as left open


def open_provider(provider: Provider, key: str, url: str) -> Opened:
    """Raises MissingExtraError where the library is not installed."""
    try:
        from any_llm import AnyLLM

        http, options = _anthropic(key) if provider == "anthropic" else _gemini(url)
        opened = AnyLLM.create(
            provider, api_key=key, api_base=url, max_retries=0, unified_exceptions=True, **options
        )
    except ImportError as error:
        raise MissingExtraError(f"a target of {provider}", extra="adapters") from error
    return Opened(opened, http)


def _anthropic(key: str) -> tuple[Any, dict[str, Any]]:
    import httpx

    async def only_our_key(request: httpx.Request) -> None:
        # ANTHROPIC_CUSTOM_HEADERS of the environment may name others
        request.headers.pop("authorization", None)
        request.headers["x-api-key"] = key

    http = httpx.AsyncClient(
        trust_env=False,
        verify=ssl.create_default_context(),
        limits=httpx.Limits(max_connections=None),
        event_hooks={"request": [only_our_key]},
    )
    return http, {"http_client": http}


def _gemini(url: str) -> tuple[Any, dict[str, Any]]:
    import httpx2

    http = httpx2.AsyncClient(
        trust_env=False, verify=ssl.create_default_context(), limits=httpx2.Limits(max_connections=None)
    )
    options = {"base_url": url, "api_version": GEMINI_VERSION, "httpx_async_client": http}
    return http, {"vertexai": False, "http_options": options}  # else the environment decides whose API it is


def library_errors() -> tuple[type[Exception], ...]:
    """All that the library raises."""
    from any_llm.exceptions import AnyLLMError
    from pydantic import ValidationError

    return (AnyLLMError, ValidationError)


def translated(error: Exception, who: str, hide: Callable[[str], str]) -> ApiError | TargetError:
    """An error before the first byte as the gateway's: the client's own faults in the provider's words, with
    neither key nor address in them; all else for logs, without its words.
    """
    name = getattr(error, "parameter_name", None)
    if isinstance(name, str):
        return unsupported(name, who)
    cause = getattr(error, "original_exception", None) or error
    status = _status(cause)
    if status is None:
        return _unsent(error, cause, who)
    words = _words(cause)
    if status in BAD_REQUEST and not any(mark in str(cause) for mark in OPERATORS):
        return _bad_request(status, hide(words))
    headers = ((b"retry-after", wait.encode("latin-1", "ignore")),) if (wait := _retry_after(cause)) else ()
    told = 429 if status == 429 else 502
    return TargetError(f"status {status}", status=told, headers=headers, again=status in NOT_DONE)


def _bad_request(status: int, words: str) -> ApiError | TargetError:
    if any(mark in words for mark in TOO_LONG):
        code, param = "context_length_exceeded", "messages"
        return UnableError(ApiError(status, words, code=code, param=param))
    return ApiError(status, words or "The target refused this request.")


def _unsent(error: Exception, cause: BaseException, who: str) -> ApiError | TargetError:
    """No answer came, or nothing was asked."""
    names = {type(each).__name__ for each in _chain(cause)}
    if names & NOT_CONNECTED:
        return TargetError("no connection", status=503, again=True)
    if names & SILENT:
        return TargetError("no answer in time", status=504)
    if (
        "ValidationError" in names
    ):  # pydantic's, of an argument: its words hold the value, only the place is told
        places: Any = getattr(error, "errors", list)()
        param = str(places[0]["loc"][0]) if places and places[0]["loc"] else None
        return ApiError(400, f"Invalid value for '{param}'.", code="invalid_value", param=param)
    if isinstance(cause, (ValueError, TypeError, KeyError)):  # the library cannot translate it
        return ApiError(400, f"The request cannot be translated for {who}.", code="unsupported_parameter")
    return TargetError(f"no answer: {type(cause).__name__}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(cause: BaseException) -> int | None:
    """The HTTP status; null where there was no answer. Anthropic's SDK says `status_code`, Google's `code`."""
    status = getattr(cause, "status_code", None) or getattr(cause, "code", None)
    if not isinstance(status, int):
        return None
    return IN_STREAM.get(str(_error_of(cause).get("type")), 500) if status == 200 else status


def _error_of(cause: BaseException) -> dict[str, Any]:
    """The error object of the body: `body` in Anthropic's SDK, `details` in Google's."""
    body: Any = getattr(cause, "body", None) or getattr(cause, "details", None)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _words(cause: BaseException) -> str:
    message = _error_of(cause).get("message")
    return message if isinstance(message, str) else ""


def _retry_after(cause: BaseException) -> str | None:
    """The header, or what Google writes into the body: {"@type": "…RetryInfo", "retryDelay": "37s"}."""
    headers = getattr(getattr(cause, "response", None), "headers", None)
    if headers is not None and (told := headers.get("retry-after")):
        return str(told)
    details = _error_of(cause).get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return delay[:-1]
    return None
