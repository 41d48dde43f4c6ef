"""Parameters under the names that a client wrote, in dialects that are translated to chat completions.

What a dialect finds wrong is named where it stands in the body; what a target finds wrong is named as chat
completions name it, and is renamed here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from dutchdoor.gateway.dialects.reading import UNREADABLE, invalid, unreadable
from dutchdoor.gateway.errors import ApiError, bad_parameter

T = TypeVar("T")

_PLACE = re.compile(r" - at `(?:key in )?\$(.*?)`$")
_VALUE = re.compile(r"^Invalid (?:enum )?value (.*)$", re.DOTALL)
EMPTY = (b"null", b"false", b"[]", b"{}", b'""')

# they change what is paid, or what an answer consists of, beyond what the translated dialects can say
NO_PARAMETERS = frozenset(
    {
        "audio",
        "best_of",
        "function_call",
        "functions",
        "logprobs",
        "max_completion_tokens",
        "modalities",
        "moderation",
        "n",
        "response_format",
        "web_search_options",
    }
)


class PlacedError(ApiError):
    """Names a parameter where it stands in what the client wrote."""

    @classmethod
    def of(cls, error: ApiError) -> "PlacedError":
        """The same error, found by the dialect itself."""
        return cls(
            error.status,
            error.message,
            type=error.type,
            code=error.code,
            param=error.param,
            headers=error.headers,
        )


def decoded(decoder: "msgspec.json.Decoder[T]", raw: bytes | msgspec.Raw, who: str, where: str = "") -> T:
    """What stands at `where` in a body; raises ApiError 400 that names the place. `who` is the dialect."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _placed(str(error), who, where) from None
    except UNREADABLE:
        raise unreadable() from None


def _placed(text: str, who: str, where: str) -> ApiError:
    match = _PLACE.search(text)
    inside = match[1] if match else ""
    fact = text[: match.start()] if match else text
    place = where + inside if where else inside.removeprefix(".")
    if (value := _VALUE.match(fact)) and place:
        return bad_parameter(
            place, f"Unsupported value: '{place}' is {value[1][:80]}.", code="unsupported_value"
        )
    return invalid(msgspec.ValidationError(f"{fact} - at `$.{place}`" if place else fact), who)


def refuse(name: str, who: str, why: str = "") -> ApiError:
    """400 for a parameter that cannot be carried over; `why` is a sentence."""
    message = f"Unsupported parameter: '{name}' is not supported by {who}."
    return ApiError(400, f"{message} {why}".rstrip(), code="unsupported_parameter", param=name)


def refuse_given(fields: Mapping[str, msgspec.Raw], names: Iterable[str], who: str) -> None:
    """Raises ApiError 400 for the first of the names that is given with a value that asks for something."""
    for name in names:
        if name in fields and bytes(fields[name]) not in EMPTY:
            raise refuse(name, who)


def renamed(error: ApiError, names: Mapping[str, str]) -> tuple[str | None, str]:
    """The parameter and the message of an error, with names of chat completions as the client's."""
    param = error.param
    if param is None or isinstance(error, PlacedError):
        return param, error.message
    name = re.split(r"[.\[]", param, maxsplit=1)[0]
    theirs = names.get(name)
    if theirs is None:
        return param, error.message
    # a place inside of a translated value stands elsewhere in what the client wrote
    return theirs, error.message.replace(f"'{param}'", f"'{theirs}'")


def plain(raw: msgspec.Raw) -> Any:
    """A small JSON value; raises ApiError 400."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        raise unreadable() from None
