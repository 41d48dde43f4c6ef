"""The comparison itself: prepare both sides, ask both the same, score, judge, and put it all into one report.

One side after the other, so that they neither compete for the machine nor need to fit into memory together;
what can be found wrong early (addresses, bundles, keys, a target that does not answer) is found before the
first question.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from dutchdoor.core import DutchdoorError, EngineError, Exit, VerdictKind
from dutchdoor.drill.addresses import AnyAddress
from dutchdoor.drill.asking import LIMIT_S, STREAMS, Answers, Progress, Question, interview, sample, warm_up
from dutchdoor.drill.candidates import Candidate, Options, Place, prepare
from dutchdoor.drill.cost import cost
from dutchdoor.drill.prompts import SOURCE, load_prompts
from dutchdoor.drill.quality import judge
from dutchdoor.drill.report import Cases, Comparison, Reply, Sample, Side
from dutchdoor.drill.routes import priced, routes_text, target_names
from dutchdoor.drill.scoring import load_cases, scored
from dutchdoor.drill.speed import lengths, speed
from dutchdoor.engines.interface import Engine, EngineInfo, Message
from dutchdoor.evidence.measures import MAX_MISSING
from dutchdoor.vetting.suites import Suite

REFUSED = re.compile(r"\banswers 40[13]\b")  # how `engines.http` says that a key was not taken
PROMPT_TOKENS = 64  # of an answer to a bundled prompt: enough to see it speak


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for."""

    a: AnyAddress
    b: AnyAddress
    options_a: Options
    options_b: Options
    cases: Path | None = None
    margin: float | None = None  # a fraction
    confidence: float = 0.95
    max_tokens: int | None = None
    streams: int = STREAMS
    limit_s: float = LIMIT_S


class Ask(Protocol):
    """How one side is asked: `interview` for cases, `sample` for the bundled prompts."""

    def __call__(
        self,
        engine: Engine,
        questions: Sequence[Question],
        *,
        streams: int,
        limit_s: float,
        progress: Progress,
    ) -> Awaitable[Answers]: ...


class Watch(Protocol):
    """Told what goes on: which side, what it does, how many of how many."""

    def __call__(self, side: str, what: str, done: int, total: int, /) -> None: ...


async def compare(request: Request, place: Place, watch: Watch) -> Comparison:
    """Compare A with B. Raises DutchdoorError where one side can't be read, loaded or reached at all."""
    suite = None if request.cases is None else load_cases(request.cases)
    questions, cases = _questions(request, suite)
    a = await prepare(request.a, request.options_a, place)
    b = await prepare(request.b, request.options_b, place)
    for candidate, letter in ((a, "A"), (b, "B")):
        if (
            candidate.key_hint is not None
        ):  # behind a URL: cheap to find out now, and a pity to find out after A has run
            await _reach(candidate, letter)
    ask_all = interview if suite else sample
    answers_a, info_a = await _ask(a, "A", ask_all, questions, request, watch)
    answers_b, info_b = await _ask(b, "B", ask_all, questions, request, watch)
    both = min(len(answers_a.replies), len(answers_b.replies))  # of bundled prompts what there was time for
    replies_a, replies_b = answers_a.replies[:both], answers_b.replies[:both]
    if suite is not None:
        replies_a, replies_b = await scored(replies_a, suite), await scored(replies_b, suite)
    samples = tuple(
        Sample(id=q.id, messages=q.messages, cluster=q.cluster, a=reply_a, b=reply_b)
        for q, reply_a, reply_b in zip(questions[:both], replies_a, replies_b, strict=True)
    )
    names = target_names(a.name, b.name)
    judged = judge(samples, margin=request.margin, confidence=request.confidence) if suite else None
    return Comparison(
        a=_side(a, info_a, answers_a, replies_a, request, suite is not None),
        b=_side(b, info_b, answers_b, replies_b, request, suite is not None),
        cases=msgspec.structs.replace(cases, n=both),
        quality=judged,
        samples=samples,
        routes=routes_text(
            names[0],
            priced(a.target, a.price),
            names[1],
            priced(b.target, b.price),
            unpriced=a.price is None or b.price is None,
        ),
    )


def exit_code(report: Comparison) -> Exit:
    """With a margin, the verdict's; else 0, or 3 when so much is missing that nothing was checked."""
    verdict = report.quality
    if verdict is not None and verdict.bound is not None:
        codes = {VerdictKind.PASS: Exit.CLEAN, VerdictKind.FAIL: Exit.AGAINST}
        return codes.get(verdict.verdict, Exit.INCONCLUSIVE)
    few = MAX_MISSING * report.cases.n
    return Exit.INCONCLUSIVE if max(report.a.missing, report.b.missing) > few else Exit.CLEAN


def _questions(request: Request, suite: Suite | None) -> tuple[tuple[Question, ...], Cases]:
    """What is sent: the cases, or the bundled prompts."""
    if suite is None:
        prompts, digest = load_prompts()
        limit = request.max_tokens or PROMPT_TOKENS
        asked = tuple(
            Question(id=p.id, messages=(Message(role="user", content=p.prompt),), max_tokens=limit)
            for p in prompts
        )
        return asked, Cases(source=SOURCE, digest=digest, n=len(asked), smoke_test=True, max_tokens=limit)
    asked = tuple(
        Question(
            id=case.id,
            messages=case.conversation(),
            max_tokens=request.max_tokens or case.max_tokens,
            cluster=case.cluster,
        )
        for case in suite.cases
    )
    source = str(request.cases)
    cases = Cases(
        source=source, digest=suite.digest, n=len(asked), smoke_test=False, max_tokens=request.max_tokens
    )
    return asked, cases


async def _reach(candidate: Candidate, letter: str) -> None:
    engine = await candidate.open()
    try:
        await _named(letter, candidate, lambda: warm_up(engine))
    finally:
        await engine.close()


async def _named(letter: str, candidate: Candidate, attempt: Callable[[], Awaitable[None]]) -> None:
    """Errors say which side they are about, and where a server refuses us, which key was sent."""
    try:
        await attempt()
    except DutchdoorError as error:
        hint = candidate.key_hint if candidate.key_hint and REFUSED.search(error.message) else error.hint
        raise EngineError(f"{letter}, {candidate.address}: {error.message}", hint=hint) from error


async def _ask(
    candidate: Candidate,
    letter: str,
    ask_all: Ask,
    questions: Sequence[Question],
    request: Request,
    watch: Watch,
) -> tuple[Answers, EngineInfo]:
    """Open one side, warm it up, ask it everything, close it."""
    watch(letter, "loading", 0, 0)
    engine = await candidate.open()
    try:
        await _named(letter, candidate, lambda: warm_up(engine))
        answers = await ask_all(
            engine,
            questions,
            streams=request.streams,
            limit_s=request.limit_s,
            progress=partial(watch, letter),
        )
        return answers, engine.info
    finally:
        await engine.close()


def _side(
    candidate: Candidate,
    info: EngineInfo,
    answers: Answers,
    replies: Sequence[Reply],
    request: Request,
    with_cases: bool,
) -> Side:
    missing = [r for r in replies if r.text is None or (with_cases and r.correct is None)]
    answered = [r for r in replies if r.text is not None]
    notes = list(candidate.notes)
    if info.plain_format:
        notes.append("it has no chat template, so it was asked in the plain form 'User: … Assistant:'")
    failed = [r for r in answers.crowd if r.text is None]
    if failed and not missing:
        of = f"{len(failed)} of {len(answers.crowd)} requests failed, {request.streams} at a time"
        notes.append(f"{of}: {failed[0].error}")
    return Side(
        address=candidate.address,
        kind=candidate.kind,
        name=candidate.name,
        license=candidate.license,
        license_source=candidate.license_source,
        parameters=candidate.parameters,
        context_length=candidate.context_length or info.context_length,
        engine=info.name,
        engine_version=info.version,
        engine_because=info.because,
        as_served=candidate.as_served,
        price=candidate.price,
        signer=candidate.signer,
        notes=tuple(notes),
        asked=len(replies),
        answered=len(answered),
        correct=sum(r.correct is True for r in replies) if with_cases else None,
        missing=len(missing),
        first_error=next((r.error for r in missing if r.error), None),
        lengths=lengths(replies),
        alone=speed(answers.alone, streams=1, wall_s=answers.alone_s),
        crowd=speed(answers.crowd, streams=request.streams, wall_s=answers.crowd_s),
        cost=cost(replies, candidate.price),
    )
