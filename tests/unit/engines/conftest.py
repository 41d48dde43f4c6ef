"""Small random models of every shape, made once a session, and engines that are closed after each test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.engines.interface import ChatRequest, Engine, Message
from dutchdoor.engines.load import open_engine
from tests.fakes.models import make_model

Opener = Callable[..., Awaitable[Any]]
QUESTIONS = (
    "What is 12 + 30?",
    "Write a story about winter",
    "Über façade naïve 東京 привет 😀",
    "the cat   sat\n\n\non 1234567 mats!! It's",
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`models("llama")` → a folder, made when first asked for."""
    made: dict[str, Path] = {}

    def folder(shape: str) -> Path:
        if shape not in made:
            made[shape] = make_model(tmp_path_factory.mktemp("models") / shape, shape)
        return made[shape]

    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
async def opened(cache: Path) -> AsyncIterator[Opener]:
    """`await opened(path, …)` → an engine on one thread, closed after the test."""
    engines: list[Engine] = []

    async def open_one(path: Path, **options: Any) -> Engine:
        engine = await open_engine(path, **{"threads": 1, "parallel": 4, "cache": cache, **options})
        engines.append(engine)
        return engine

    yield open_one
    for engine in engines:
        await engine.close()


@pytest.fixture(scope="session", autouse=True)
def quiet_torch() -> Iterator[None]:
    """One thread for torch: the machine is shared, and these models are tiny."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def question(text: str = QUESTIONS[0], **options: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **{"max_tokens": 16, **options})
