"""What goes wrong on the way of a request, in the caller's dialect.

A message for a client never holds a key, a prompt or the address of an upstream.
"""

import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec


# ApiError              what a client is told: a status and OpenAI's error object
# TargetError           one target could not answer, before the first byte: the next one is asked
# └── UnableError       it cannot do what is asked, which only it could tell: the next one is asked
# BrokenStreamError     a target broke after the first byte: the stream ends with an error in it
class ApiError(Exception):
    """An answer that is an error, in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = headers

    def body(self) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`"""
        return error_body(self.message, self.type, code=self.code, param=self.param)


class TargetError(Exception):
    """One target could not answer; `status` is what the client gets when no other can. The message is for
    logs. `again`: it has surely not done the work, so it may be asked once more.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        again: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.again = again

    @property
    def retry_after_s(self) -> float | None:
        """Seconds to wait, where the target says."""
        for name, value in self.headers:
            if name == b"retry-after":
                return _seconds(value)
        return None


class UnableError(TargetError):
    """One target cannot do what is asked; `refusal` is what the client gets when no other can either."""

    def __init__(self, refusal: ApiError) -> None:
        super().__init__("it cannot do what is asked", status=refusal.status)  # its words may quote a prompt
        self.refusal = refusal


def _seconds(value: bytes) -> float | None:
    try:
        seconds = float(value)
    except ValueError:  # a date
        try:
            seconds = parsedate_to_datetime(value.decode("latin-1")).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < 1e9 else None  # also false for what is no number


class BrokenStreamError(Exception):
    """A target broke after its first byte. The message is for logs."""


def error_body(message: str, type_: str, *, code: str | None = None, param: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    error: dict[str, Any] = {"message": message, "type": type_, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def bad_parameter(param: str, message: str, *, code: str | None = None) -> ApiError:
    """400 that names the parameter."""
    return ApiError(400, message, code=code, param=param)


def unsupported(param: str, who: str) -> ApiError:
    """400 for a parameter that a target cannot do: it is refused by name, never dropped."""
    message = f"Unsupported parameter: '{param}' is not supported by {who}."
    return ApiError(400, message, code="unsupported_parameter", param=param)


def wrong_key() -> ApiError:
    """401; says nothing about what was sent."""
    return ApiError(
        401,
        "Incorrect API key provided. Make one with `dutchdoor keys create`.",
        code="invalid_api_key",
        headers=((b"www-authenticate", b"Bearer"),),
    )


def unknown_model(name: str) -> ApiError:
    """404; a model that is held looks exactly like one that never was."""
    return ApiError(404, f"The model `{name[:200]}` does not exist.", code="model_not_found", param="model")


def stopping() -> ApiError:
    """503 for a request whose answer had not begun when the server stopped; another server may take it."""
    return ApiError(503, "The server is stopping.", type="server_error", code="stopping")


def rate_limited(which: str, retry_after_s: float) -> ApiError:
    """429 for a key that asks too often or for too much at once; says when to ask again."""
    return ApiError(
        429,
        f"Rate limit reached for {which} of this key. Try again in {retry_after_s:.1f} s.",
        type=which,
        code="rate_limit_exceeded",
        headers=((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))),),
    )


def over_budget(message: str) -> ApiError:
    """429 as OpenAI sends it for an exhausted quota; tells clients that asking again does not help."""
    return ApiError(
        429,
        message,
        type="insufficient_quota",
        code="insufficient_quota",
        headers=((b"x-should-retry", b"false"),),
    )
