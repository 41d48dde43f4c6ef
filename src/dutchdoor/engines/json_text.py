"""Whether a text is JSON, or may still become it: what an answer is held to where the engine says nothing.

Knows no schema: see `dutchdoor.engines.schema`.
"""

import json

import msgspec

from dutchdoor.core import EngineError


def check_json(text: str, *, whole: bool) -> None:
    """llama.cpp lets a schema go in the middle of an answer where following it takes too much, and misreads it
    for some tokenizers; JSON it must be at least, or the beginning of it.
    """
    if not (is_json(text) if whole else begins_json(text)):
        raise EngineError(
            "llama.cpp did not hold the answer to its JSON schema", hint="say it in simpler keywords"
        )


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=len)  # not as numbers: Python refuses those of many digits
    except json.JSONDecodeError:
        return False
    except RecursionError:
        return True  # deeper than Python reads, not wrong
    return True


def begins_json(text: str) -> bool:
    """False only for what no more text can make JSON: a number or an escape may be cut in the middle."""
    if "\\u" in text:
        return True
    try:
        msgspec.json.decode(text.rstrip("+-.eE"))
    except msgspec.DecodeError as error:
        return "malformed" not in str(error) or "number" in str(error)  # else: cut off, or out of range
    except RecursionError:
        return True
    return True
