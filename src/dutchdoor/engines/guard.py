"""A member as its publisher serves it: a system prompt put first, and checks on what goes in and what comes
out.

`dutchdoor/guard@1` holds two lists of checks, `input` and `output`; any that matches blocks, and a block ends
the answer with `finish_reason: content_filter`. A classifier that cannot be reached is an error, never a
pass.

Hold-back rule: of an answer, only text is let out that no match of any output pattern can reach back to. A
pattern that matches at most W characters keeps the last W − 1 characters back; one without a bound, one that
looks ahead, and any classifier keep the whole answer back until its end. So a blocked passage never slips out
piece by piece.

Not covered: other spellings of the same thing. A pattern sees the characters that are there.
"""

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

import aiohttp
import msgspec

from dutchdoor.core import DocumentError
from dutchdoor.engines.interface import (
    ChatRequest,
    Chunk,
    Engine,
    EngineInfo,
    Message,
    TokenLogprob,
    Unreachable,
    Usage,
)
from dutchdoor.family.document import open_document

WIDEST = 4096  # characters; a pattern that may match more is held to the end
CLASSIFIER_SECONDS = 30.0


class Classifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target that scores text at `POST {url}/moderations`, in the OpenAI dialect."""

    url: str
    model: str | None = None
    key_env: str | None = None  # the environment variable that holds the key


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check: a Python `regex` found anywhere, or a classifier whose highest score reaches `threshold`."""

    regex: str | None = None
    classifier: Classifier | None = None
    threshold: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    because: str | None = None  # for readers of the file; never told to callers


class GuardFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dutchdoor/guard@1` as written."""

    kind: Literal["dutchdoor/guard@1"]
    input: tuple[Check, ...] = ()
    output: tuple[Check, ...] = ()


class Pattern(msgspec.Struct, frozen=True):
    """A compiled pattern with the most characters that it can match; null where that has no bound."""

    expression: Any
    width: int | None

    def find(self, text: str, start: int = 0) -> tuple[int, int] | None:
        found = self.expression.search(text, start)
        return None if found is None else found.span()


class Scorer(msgspec.Struct, frozen=True):
    """A classifier with the score at which it blocks."""

    target: Classifier
    threshold: float


class Side(msgspec.Struct, frozen=True):
    """The checks of one direction."""

    patterns: tuple[Pattern, ...]
    scorers: tuple[Scorer, ...]

    @property
    def held_characters(self) -> int | None:
        """How many characters at the end are held back; null: all of them."""
        if self.scorers or any(pattern.width is None for pattern in self.patterns):
            return None
        return max((pattern.width - 1 for pattern in self.patterns if pattern.width), default=0)


class Guard(msgspec.Struct, frozen=True):
    """Ready to check."""

    input: Side
    output: Side


def load_guard(path: Path) -> Guard:
    """Read `dutchdoor/guard@1`. Raises DocumentError with file, line and field."""
    document = open_document(path, GuardFile)
    sides: dict[str, Side] = {}
    for direction, checks in (("input", document.value.input), ("output", document.value.output)):
        patterns: list[Pattern] = []
        scorers: list[Scorer] = []
        for index, check in enumerate(checks):
            where = f"{direction}[{index}]"
            if (check.regex is None) == (check.classifier is None):
                raise document.fault(where, "needs exactly one of regex and classifier")
            if check.regex is not None:
                if check.threshold is not None:
                    raise document.fault(f"{where}.threshold", "a regex has no threshold")
                try:
                    patterns.append(pattern(check.regex))
                except re.error as error:
                    raise document.fault(f"{where}.regex", f"is no regular expression: {error}") from error
            elif check.classifier is not None:
                if check.threshold is None:
                    raise document.fault(
                        where, "a classifier needs a threshold", hint="for example threshold: 0.8"
                    )
                scorers.append(Scorer(check.classifier, check.threshold))
        sides[direction] = Side(tuple(patterns), tuple(scorers))
    return Guard(sides["input"], sides["output"])


def pattern(text: str) -> Pattern:
    """A pattern with its width. Raises re.error, also for one that matches the empty text."""
    expression = re.compile(text)
    if expression.search("") is not None:
        raise re.error("it matches the empty text, so it would block everything")
    return Pattern(expression, _width(text, expression.flags))


def _width(text: str, flags: int) -> int | None:
    parser: Any = getattr(re, "_parser", None)  # CPython's own; without it every answer is held to its end
    if parser is None:
        return None
    parsed = parser.parse(text, flags & ~re.DEBUG)
    widest = int(parsed.getwidth()[1])
    return None if widest > WIDEST or _looks_ahead(parsed) else max(1, widest)


def _looks_ahead(parsed: Any) -> bool:
    """Whether a match can depend on what follows it (what precedes it is always there)."""
    for operation, argument in parsed:
        if str(operation) in ("ASSERT", "ASSERT_NOT") and argument[0] > 0:
            return True
        if any(_looks_ahead(inner) for inner in _inside(argument)):
            return True
    return False


def _inside(argument: Any) -> list[Any]:
    if hasattr(argument, "getwidth"):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [inner for part in argument for inner in _inside(part)]
    return []


def guarded(engine: Engine, system_prompt: str | None, guard: Guard | None) -> Engine:
    """The engine behind a system prompt and a guard; itself where there is neither."""
    if not system_prompt and guard is None:
        return engine
    return GuardedEngine(engine, system_prompt, guard)


class GuardedEngine:
    """An engine that asks its guard before and while it answers. Closing it closes the engine inside."""

    def __init__(self, engine: Engine, system_prompt: str | None, guard: Guard | None) -> None:
        self._engine = engine
        self._prompt = system_prompt.rstrip("\n") if system_prompt else None
        self._guard = guard

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """As the inner engine, or an end with `content_filter`. Raises what it raises, and Unreachable for a
        classifier that does not answer."""
        guard = self._guard
        if guard is not None and await _blocks(guard.input, request.messages):
            yield Chunk(finish_reason="content_filter", usage=Usage(input_tokens=0, output_tokens=0))
            return
        inner: Any = self._engine.stream(self.with_prompt(request))
        async with aclosing(inner) as chunks:
            if guard is None or not (guard.output.patterns or guard.output.scorers):
                async for chunk in chunks:
                    yield chunk
                return
            async with aclosing(_checked(chunks, guard.output)) as checked:
                async for chunk in checked:
                    yield chunk

    def with_prompt(self, request: ChatRequest) -> ChatRequest:
        """The request with the member's own system prompt first; a system message of the caller's follows it."""
        if self._prompt is None:
            return request
        rest = request.messages
        text = self._prompt
        if rest and rest[0].role == "system":
            text, rest = f"{text}\n\n{rest[0].content}", rest[1:]
        return msgspec.structs.replace(request, messages=(Message(role="system", content=text), *rest))

    async def close(self) -> None:
        await self._engine.close()


async def _blocks(side: Side, messages: Sequence[Message]) -> bool:
    """Whether an input check matches one message, or all of them read as one text."""
    texts = [message.content for message in messages]
    if len(texts) > 1:
        texts.append("\n".join(texts))
    if any(one.find(text) for one in side.patterns for text in texts):
        return True
    return await _scored(side.scorers, texts[-1] if texts else "")


async def _checked(chunks: AsyncIterator[Chunk], side: Side) -> AsyncGenerator[Chunk, None]:
    """Chunks whose text is certain to be no part of a match; log-probabilities follow at the end."""
    hold = Holder(side)
    logprobs: list[TokenLogprob] = []
    usage: Usage | None = None
    async for chunk in chunks:
        usage = chunk.usage or usage
        logprobs += chunk.logprobs
        last = chunk.finish_reason is not None
        text = hold.feed(chunk.text, last=last)
        if not hold.blocked and last and await _scored(side.scorers, hold.text):
            hold.blocked, text = True, ""
        if hold.blocked:
            yield Chunk(text=text, finish_reason="content_filter", usage=usage)
            return
        if text or last or chunk.usage is not None:
            yield Chunk(
                text=text,
                logprobs=tuple(logprobs) if last else (),
                finish_reason=chunk.finish_reason,
                usage=usage,
            )


class Holder:
    """Text in, and out again only what no match can reach back to."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._held = side.held_characters
        self._out = 0
        self.text = ""
        self.blocked = False

    def feed(self, text: str, *, last: bool) -> str:
        """What may leave now. A match sets `blocked`; what precedes it may have left before."""
        self.text += text
        safe = len(self.text) if last else 0 if self._held is None else max(0, len(self.text) - self._held)
        for one in self._side.patterns:
            start = 0 if one.width is None else max(0, self._out - one.width)
            found = one.find(self.text, start)
            if found is None:
                continue
            if found[1] < len(self.text) or last:
                self.blocked = True
                return ""
            safe = min(
                safe, found[0]
            )  # it ends where the text ends: more text may undo it (a word's end, a line's end)
        safe = max(safe, self._out)
        out, self._out = self.text[self._out : safe], safe
        return out


async def _scored(scorers: Sequence[Scorer], text: str) -> bool:
    """Whether any classifier's score reaches its threshold."""
    for scorer in scorers:
        if await _score(scorer.target, text) >= scorer.threshold:
            return True
    return False


async def _score(target: Classifier, text: str) -> float:
    """The highest score of any category, 0 … 1. Raises Unreachable: a check that did not happen is no pass."""
    key = os.environ.get(target.key_env) if target.key_env else None
    if target.key_env and not key:
        raise DocumentError(
            f"the guard's classifier needs a key, and the variable {target.key_env} is not set"
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"input": text} | ({"model": target.model} if target.model else {})
    timeout = aiohttp.ClientTimeout(total=CLASSIFIER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(f"{target.url.rstrip('/')}/moderations", json=body) as response,
        ):
            response.raise_for_status()
            results = (await response.json(content_type=None))["results"]
            scores = [float(score) for result in results for score in result["category_scores"].values()]
            return max(scores)
    except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = type(error).__name__
        raise Unreachable(f"the guard's classifier at {target.url} gave no score ({what})") from error
