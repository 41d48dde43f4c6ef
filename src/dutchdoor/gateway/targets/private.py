"""What of a target no client may read: its key and its address, taken out of an upstream's own words."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}
HIDDEN = "…"


def hider(url: str, key: str | None) -> Callable[[str], str]:
    """A function that takes a target's key, URL, `host:port` and address out of a text."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    address = f"[{host}]" if ":" in host else host
    places = {url.rstrip("/"), f"{address}:{parts.port or PORTS.get(parts.scheme, 0)}"}
    places |= {f"{parts.scheme}://{parts.netloc}", parts.netloc if parts.port else ""}
    patterns = [re.escape(place) + (r"[^\s\"'<>()]*" if "://" in place else "") for place in places if place]
    patterns.sort(key=len, reverse=True)  # the longest first, or its rest would stay
    if "." in host or ":" in host or host == "localhost":  # any other bare name may be a word of the text
        patterns.append(rf"(?<![\w.-]){re.escape(host)}(?![\w-])")
    hidden = re.compile("|".join(patterns), re.IGNORECASE)

    def hide(text: str) -> str:
        shown = text.replace(key, HIDDEN) if key else text  # first: a URL may hold it
        return hidden.sub(HIDDEN, shown)

    return hide
