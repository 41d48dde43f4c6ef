"""The twenty harmless prompts of the smoke test.

They show that both sides answer, how fast and how long. They have no right answers: they say nothing about
quality.
"""

from importlib.resources import files

import msgspec

from dutchdoor.core import digest_bytes

SOURCE = "bundled prompts"


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    prompt: str


def load_prompts() -> tuple[tuple[Prompt, ...], str]:
    """The prompts and the digest of their file."""
    data = files("dutchdoor.drill").joinpath("prompts.jsonl").read_bytes()
    return tuple(msgspec.json.decode(line, type=Prompt) for line in data.splitlines() if line), digest_bytes(
        data
    )
