"""What dialects share in reading a JSON body: errors in OpenAI's words, which name the parameter."""

import contextlib
import re

import msgspec

from dutchdoor.gateway.errors import ApiError, bad_parameter, unsupported

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ESCAPED = re.compile(rb"\\u00[2-7]")  # an ASCII character that is written as its number


def text_of(body: bytes) -> bytes:
    """The body, if it is UTF-8 throughout, which JSON must be; raises ApiError 400. Some decoders skip what they
    are not asked for, and an upstream that fails on it would look broken.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise unreadable() from None
    return body


def read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """A body's fields with each value's bytes as they came; raises ApiError 400."""
    try:
        return _FIELDS.decode(body)
    except UNREADABLE:
        raise unreadable() from None


def is_escaped(body: bytes) -> bool:
    """Whether ASCII characters are written in it as their numbers, which a search would not find."""
    return b"\\" in body and _ESCAPED.search(body) is not None


def searchable(body: bytes) -> bytes:
    """A readable body for searches of its bytes, in lower case: no name in it is hidden by being written in
    escapes.
    """
    if is_escaped(body):
        with contextlib.suppress(*UNREADABLE):  # who reads it later says so
            body = msgspec.json.encode(msgspec.json.decode(body))
    return body.lower()


def within(name: str, value: float | None, least: float, most: float) -> None:
    """Raises ApiError 400 for a number outside of [least, most]; null is none."""
    if value is not None and not least <= value <= most:
        raise bad_parameter(name, f"Invalid '{name}': must be from {least} to {most}.", code="invalid_value")


def unreadable() -> ApiError:
    """400: what was sent is no JSON that can be read."""
    return ApiError(400, "We could not parse the JSON body of your request.", code="invalid_json")


def invalid(error: msgspec.ValidationError, who: str = "this model") -> ApiError:
    """msgspec's words as OpenAI's: which parameter, and what was expected."""
    text = str(error)
    match = re.search(r" - at `(?:key in )?\$\.?(.*?)`$", text)
    where = match[1] if match else ""
    fact = text[: match.start()] if match else text
    if unknown := re.match(r"Object contains unknown field `(.*)`", fact):
        return unsupported(f"{where}.{unknown[1]}" if where else unknown[1], who)
    if missing := re.match(r"Object missing required field `(.*)`", fact):
        name = f"{where}.{missing[1]}" if where else missing[1]
        return bad_parameter(
            name, f"Missing required parameter: '{name}'.", code="missing_required_parameter"
        )
    if not where:
        return ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return bad_parameter(
        where, f"Invalid type for '{where}': {fact[0].lower() + fact[1:]}.", code="invalid_type"
    )
