"""Answers against their targets, with the scorers of `dutchdoor.vetting`.

A case that can't be judged at all is found before anything is asked. What a scorer can't tell is missing.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from dutchdoor.core import DocumentError
from dutchdoor.drill.report import Reply
from dutchdoor.vetting.sandbox import CodeSandbox
from dutchdoor.vetting.scorers import score, score_code
from dutchdoor.vetting.suites import Case, Suite, load_suite

UNTOLD = "the scorer could not tell"


def load_cases(path: Path) -> Suite:
    """A suite of cases that have right answers. Raises DocumentError naming file, line and field."""
    suite = load_suite(path)
    for case in suite.cases:
        if case.scorer == "refusal":
            raise DocumentError(
                f"{path}:{_line(path, case)}: scorer: 'refusal' judges no quality",
                hint="compare takes exact, choice, numeric, regex, constraints and code",
            )
    return suite


def _line(path: Path, case: Case) -> int:
    """Where a case stands in its file; for messages."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip() and msgspec.json.decode(line, type=dict).get("id") == case.id:
            return number
    return 0


async def scored(replies: Sequence[Reply], suite: Suite) -> tuple[Reply, ...]:
    """Each answer with its score. Code runs in a sandbox that is started only if a case needs it."""
    async with AsyncExitStack() as stack:
        sandbox: CodeSandbox | None = None
        if any(case.scorer == "code" for case in suite.cases):
            sandbox = await stack.enter_async_context(CodeSandbox())
        return tuple(
            [await _judged(case, reply, sandbox) for case, reply in zip(suite.cases, replies, strict=True)]
        )


async def _judged(case: Case, reply: Reply, sandbox: CodeSandbox | None) -> Reply:
    if reply.text is None:
        return reply
    if reply.finish_reason == "content_filter":  # by its own declared guard: the question stays unanswered
        return msgspec.structs.replace(reply, correct=False)
    if sandbox is not None and case.scorer == "code":
        judged = await score_code(sandbox, case.target, reply.text)
    else:
        judged = score(case.scorer, case.target, case.choices, reply.text)
    if judged.correct is None:
        return msgspec.structs.replace(reply, error=UNTOLD)
    return msgspec.structs.replace(reply, correct=judged.correct)
