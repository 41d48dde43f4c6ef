"""Which dialect a path speaks."""

from dutchdoor.gateway.dialects.chat import ChatDialect
from dutchdoor.gateway.dialects.completions import CompletionsDialect
from dutchdoor.gateway.dialects.embeddings import EmbeddingsDialect
from dutchdoor.gateway.dialects.interface import Dialect
from dutchdoor.gateway.dialects.messages import MessagesDialect
from dutchdoor.gateway.dialects.responses import ResponsesDialect

_ALL: tuple[Dialect, ...] = (
    ChatDialect(),
    CompletionsDialect(),
    EmbeddingsDialect(),
    ResponsesDialect(),
    MessagesDialect(),
)
DIALECTS: dict[bytes, Dialect] = {each.path.encode(): each for each in _ALL}
