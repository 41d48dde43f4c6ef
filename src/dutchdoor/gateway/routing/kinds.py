"""Which kind of file `serve` is given, ours or another gateway's, and reading what is not ours."""

import re
from pathlib import Path
from typing import Any, Literal

from dutchdoor.core import DocumentError

LARGEST = 4 << 20  # bytes; a config of a thousand models has some 300 kB
_KIND = re.compile(rb"^kind:\s*[\"']?dutchdoor/(routes|family)@", re.M)
_MODELS = re.compile(rb"^model_list\s*:", re.M)

Kind = Literal["routes", "family", "litellm"]


def detect(path: Path) -> Kind | None:
    """Which kind of file `serve` is given; null where it is none of them. Raises DocumentError."""
    data = read_bytes(path)
    if found := _KIND.search(data):
        return "routes" if found[1] == b"routes" else "family"
    if _MODELS.search(data):
        return "litellm"
    try:
        value = read_yaml(data, path)
    except DocumentError:
        return None
    kind = str(value.get("kind"))
    for ours in ("routes", "family"):
        if kind.startswith(f"dutchdoor/{ours}@"):
            return "routes" if ours == "routes" else "family"
    return "litellm" if "model_list" in value else None


def read_bytes(path: Path) -> bytes:
    """The bytes of a configuration; raises DocumentError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{path}: can't be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise DocumentError(f"{path}: it is larger than {LARGEST >> 20} MiB")
    return data


def read_yaml(data: bytes, path: Path) -> dict[str, Any]:
    """The fields of another program's YAML, which may use all of it but tags; raises DocumentError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(data.decode("utf-8-sig"))
    except (YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = "" if line is None else f":{line + 1}"
        problem = getattr(error, "problem", None) or "it is no YAML"
        raise DocumentError(f"{path}{place}: {' '.join(str(problem).split())}") from error
    if not isinstance(value, dict):
        raise DocumentError(f"{path}: it holds no fields")
    return {str(name): each for name, each in value.items()}
