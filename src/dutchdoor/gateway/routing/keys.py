"""The keys of targets: from environment variables, and nowhere written down."""

import os

from dutchdoor.core import EngineError


def key_from(variable: str | None, who: str) -> str | None:
    """The key that an environment variable holds; raises EngineError where it is named and empty."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EngineError(
            f"{variable} is not set, and {who} needs the key in it", hint=f"export {variable}=…"
        )
    return key
