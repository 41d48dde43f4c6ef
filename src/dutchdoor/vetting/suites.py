"""What a suite is: cases as data, each with the scorer that judges its answers.

A suite is a JSONL file: one case a line, and on the first line, if it likes, a header. Strict: a field that
is not known, an id that comes twice, or a case that its scorer can't judge is an error with file and line.
Asks no model.
"""

import codecs
import hashlib
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from dutchdoor.core import DocumentError
from dutchdoor.engines.interface import Message
from dutchdoor.vetting.scorers import score

T = TypeVar("T")
KIND = "dutchdoor/suite@1"
ScorerName = Literal[
    "exact", "choice", "numeric", "regex", "code", "constraints", "json_schema", "refusal", "judge"
]
CLAIM = (
    "threat", "existing_risk", "existing_defences", "marginal_risk", "ease_of_defending", "assumptions",
)  # fmt: skip
DEFAULT_MAX_TOKENS = 256  # as in `evidence.record.Sampling`


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class JudgeSpec(Row, frozen=True, kw_only=True):
    """A model that judges answers, and the file with the gold labels that say how it errs."""

    model: str
    prompt: str
    gold: str


class Header(Row, frozen=True, kw_only=True):
    """What a suite says of itself; the six marginal-risk fields after Kapoor et al., arXiv 2403.07918."""

    kind: Literal["dutchdoor/suite@1"] = "dutchdoor/suite@1"
    name: str | None = None
    about: str | None = None
    license: str | None = None
    domain: str | None = None  # the hazard domain
    threat: str | None = None
    existing_risk: str | None = None
    existing_defences: str | None = None
    marginal_risk: str | None = None
    ease_of_defending: str | None = None
    assumptions: str | None = None
    judge: JudgeSpec | None = None


class Case(Row, frozen=True, kw_only=True):
    """One question with what judges the answer. `target` is the scorer's: a string, number or table."""

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    scorer: ScorerName
    target: Any = None
    choices: tuple[str, ...] = ()
    cluster: str | None = None  # what it shares a source with
    max_tokens: int = DEFAULT_MAX_TOKENS

    def conversation(self) -> tuple[Message, ...]:
        """The messages to send, the prompt as one user message."""
        return self.messages or (Message(role="user", content=self.prompt or ""),)


class Suite(Row, frozen=True, kw_only=True):
    """A whole suite; `digest` is that of the file's bytes."""

    header: Header
    cases: tuple[Case, ...]
    digest: str


def load_suite(path: Path) -> Suite:
    """Read a suite. Raises DocumentError naming file, line and field."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"can't read the suite {path}: {error.strerror}") from error
    return parse_suite(data, str(path))


def parse_suite(data: bytes, name: str) -> Suite:
    """The suite in these bytes; `name` is for messages."""
    header, cases = Header(), list[Case]()
    seen: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        if not cases and header == Header() and _is_header(line, where):
            header = _decode(line, Header, where)
            _check_header(header, where)
            continue
        case = _decode(line, Case, where)
        _check(case, where)
        if case.id in seen:
            raise DocumentError(f"{where}: the id {case.id!r} was used on line {seen[case.id]}")
        seen[case.id] = number
        cases.append(case)
    if not cases:
        raise DocumentError(f"{name}: no cases", hint="a suite is a JSONL file with one case a line")
    if header.judge is None and any(case.scorer == "judge" for case in cases):
        raise DocumentError(
            f"{name}: cases are judged by a model that the header does not name",
            hint='"judge": {"model": …, "prompt": …, "gold": FILE}',
        )
    return Suite(header=header, cases=tuple(cases), digest="sha256:" + hashlib.sha256(data).hexdigest())


def _is_header(line: bytes, where: str) -> bool:
    kind = _decode(line, dict[str, Any], where).get("kind")
    if kind not in (None, KIND):
        raise DocumentError(f"{where}: kind {kind!r} is no suite", hint=f"expected kind {KIND}")
    return kind is not None


def _check_header(header: Header, where: str) -> None:
    """A claim of marginal risk that leaves one of its six fields out is none."""
    missing = [name for name in (*CLAIM, "domain") if not (getattr(header, name) or "").strip()]
    if any(getattr(header, name) is not None for name in CLAIM) and missing:
        raise DocumentError(
            f"{where}: a claim of marginal risk without {', '.join(missing)}",
            hint="state the hazard domain and all six fields, or none of the six",
        )


def _decode(line: bytes, type: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(line, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(
            f"{where}: {error}", hint="see docs/reference/suites.md for the fields of a case"
        ) from error


def _check(case: Case, where: str) -> None:
    """What the types can't say: what a case asks, and whether its scorer can judge it."""
    if (case.prompt is None) == (not case.messages):
        raise DocumentError(f"{where}: a case has either `prompt` or `messages`")
    if case.messages and case.messages[-1].role != "user":
        raise DocumentError(f"{where}: messages: the last one must be the user's")
    if not case.id or case.max_tokens < 1:
        raise DocumentError(f"{where}: {'id is empty' if not case.id else 'max_tokens must be at least 1'}")
    if case.scorer not in ("refusal", "judge") and case.target is None:
        raise DocumentError(f"{where}: target: the scorer {case.scorer!r} needs one")
    if case.scorer == "choice" and not case.choices:
        raise DocumentError(f"{where}: choices: the scorer 'choice' needs them")
    if case.scorer == "code":
        tests = case.target.get("tests") if isinstance(case.target, dict) else None
        sound = (
            isinstance(tests, list)
            and tests
            and all(isinstance(t, list) and len(t) == 2 and isinstance(t[0], list) for t in tests)
        )
        if not sound or not isinstance(case.target.get("function"), str):
            raise DocumentError(
                f"{where}: target: no function with tests",
                hint='write {"function": "f", "tests": [[[1, 2], 3]]}',
            )
    else:  # what no answer can be judged by is found here, not in the middle of a run
        try:
            score(case.scorer, case.target, case.choices, "")
        except DocumentError as error:
            raise DocumentError(f"{where}: target: {error.message}", hint=error.hint) from error
