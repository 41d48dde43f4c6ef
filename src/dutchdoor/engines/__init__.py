"""Reach a model: the embedded engine, transformers, an HTTP target in the OpenAI dialect, and a guard over
any of them.

Every engine answers chats through the one seam in `interface.py`. Refuses to judge answers (see
`dutchdoor.vetting`), to route between targets or to count money (see `dutchdoor.gateway` and
`dutchdoor.ledger`).
"""

from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import (
    Answer,
    ChatRequest,
    Chunk,
    Engine,
    EngineInfo,
    Message,
    Overloaded,
    TokenLogprob,
    Unreachable,
    Usage,
)
from dutchdoor.engines.load import open_engine

__all__ = [
    "Answer",
    "ChatRequest",
    "Chunk",
    "Engine",
    "EngineInfo",
    "Message",
    "Overloaded",
    "TokenLogprob",
    "Unreachable",
    "Usage",
    "ask",
    "open_engine",
]
