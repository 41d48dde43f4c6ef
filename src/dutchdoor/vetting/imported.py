"""Outcomes of a suite out of another tool's log: which sample answers which case, and what it came to.

Every case of the suite has one outcome. A case that the log lacks is missing, with that reason; a sample of
no case, or two of one, is an error. Keeps no text of a case.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from dutchdoor.core import DocumentError, digest_bytes
from dutchdoor.evidence.record import Outcome
from dutchdoor.vetting.formats.log import Field, Log, Sample, truth
from dutchdoor.vetting.runner import Judged
from dutchdoor.vetting.scorers import normalised
from dutchdoor.vetting.suites import Case, Suite

By = Literal["both", "id", "input"]
Judge = Callable[[Case, str], Awaitable[Judged]]
LACKING = "not in the log"
UNSCORED = "not scored in the log"
UNGAUGED = "judged by a model whose errors nobody corrects here"
SHOWN = 5  # so many names in an error


class Meaning(NamedTuple):
    """Which scores of the log say that an answer was right, and that it was a refusal."""

    correct: Field | None
    refused: Field | None
    at_least: float | None = None


def meaning(
    log: Log, suite: Suite, *, correct: Field | None, refused: Field | None, at_least: float | None
) -> Meaning:
    """What was stated, else the log's only score where the suite asks what is right.

    Raises DocumentError where it can't be told, or where the log has no such score.
    """
    names = sorted({name for sample in log.samples for name in sample.scores})
    known = f"the log has {', '.join(names)}" if names else "the log has no scores"
    for each in (correct, refused):
        if each is not None and each.name not in names:
            raise DocumentError(f"there is no score {each.name!r} in the log", hint=known)
    if correct is None and refused is None:
        if all(case.scorer == "refusal" for case in suite.cases):
            raise DocumentError(
                "which score says that an answer was a refusal?",
                hint=f"--map refused=NAME (!NAME for its opposite), or --rescore; {known}",
            )
        if len(names) != 1:
            raise DocumentError(
                "which score says that an answer was right?",
                hint=f"--map correct=NAME, or --rescore; {known}",
            )
        correct = Field(names[0])
    return Meaning(correct, refused, at_least)


def matched(log: Log, suite: Suite, *, by: By = "both", epoch: int | None = None) -> dict[str, Sample]:
    """The sample of each case that the log has, by the case's id. Raises DocumentError naming some.

    `both`: by id, else by the text of the question; a sample whose id and text name two different cases is
    an error, and so is one whose id alone agrees.
    """
    chosen = _of_epoch(log, epoch)
    ids = {case.id: case for case in suite.cases}
    texts = _by_text(suite.cases)
    found: dict[str, Sample] = {}
    strangers: list[Sample] = []
    for sample in chosen:
        case = _case(sample, ids, texts, by)
        if case is None:
            strangers.append(sample)
        elif case.id in found:
            raise DocumentError(
                f"{sample.where}: the case {case.id!r} is in the log twice, also in {found[case.id].where}",
                hint="one outcome a case: --epoch N chooses one of several epochs",
            )
        else:
            found[case.id] = sample
    if strangers:
        some = ", ".join(repr(each.id) if each.id else each.where for each in strangers[:SHOWN])
        raise DocumentError(
            f"{len(strangers)} of {len(chosen)} samples are of no case of the suite: {some}",
            hint="is it the right suite? --map id=FIELD and --map input=FIELD say what names a case",
        )
    return found


def _of_epoch(log: Log, epoch: int | None) -> Sequence[Sample]:
    epochs = sorted({sample.epoch for sample in log.samples})
    if epoch is None:
        if len(epochs) > 1:
            raise DocumentError(
                f"the log has {len(epochs)} epochs of each case", hint=f"--epoch N chooses one: {epochs[:9]}"
            )
        return log.samples
    if epoch not in epochs:
        raise DocumentError(f"the log has no epoch {epoch}", hint=f"epochs: {epochs[:9]}")
    return [sample for sample in log.samples if sample.epoch == epoch]


def _case(sample: Sample, ids: Mapping[str, Case], texts: Mapping[str, Case | None], by: By) -> Case | None:
    named = ids.get(sample.id) if sample.id is not None and by != "input" else None
    if by == "id" or sample.input is None:
        return named
    key = _key(sample.input)
    asked = texts.get(key)
    if key in texts and asked is None and named is None:
        raise DocumentError(
            f"{sample.where}: several cases of the suite ask this", hint="--map id=FIELD names the case"
        )
    if named is not None and (asked or named) is not named:
        raise DocumentError(
            f"{sample.where}: it has the id of the case {named.id!r} and the question of {_of(asked)!r}",
            hint="--match input goes by the question alone, --match id by the id",
        )
    if named is not None and key not in texts:
        raise DocumentError(
            f"{sample.where}: it has the id of the case {named.id!r}, but asks something else",
            hint="--match id takes the ids' word for it",
        )
    return named or asked


def _of(case: Case | None) -> str | None:
    return None if case is None else case.id


def _by_text(cases: Sequence[Case]) -> dict[str, Case | None]:
    """Cases by the digest of their question; null where several ask the same."""
    found: dict[str, Case | None] = {}
    for case in cases:
        for text in dict.fromkeys(questions(case)):
            key = _key(text)
            found[key] = None if key in found else case
    return found


def questions(case: Case) -> tuple[str, ...]:
    """The texts under which other tools may have a case: its only message, or all with their roles."""
    messages = case.conversation()
    if len(messages) == 1:
        return (messages[0].content,)
    return ("\n".join(f"{each.role}: {each.content}" for each in messages),)


def _key(text: str) -> str:
    return digest_bytes(normalised(text).encode())


async def outcomes(
    suite: Suite, found: Mapping[str, Sample], means: Meaning | None, judge: Judge | None
) -> tuple[Outcome, ...]:
    """One outcome for each case, in the suite's order.

    With a `judge` the answers of the log are judged by the suite's own scorers, else its scores are taken.
    """
    return tuple([await _outcome(case, found.get(case.id), means, judge) for case in suite.cases])


async def _outcome(case: Case, sample: Sample | None, means: Meaning | None, judge: Judge | None) -> Outcome:
    correct, refused = None, None
    error = LACKING if sample is None else sample.error
    if case.scorer == "judge":  # facts of vetting, 7: a judge errs, differently for each model
        error = error or UNGAUGED
    if sample is not None and error is None:
        if judge is not None:
            if sample.answer is None:
                return Outcome(id=case.id, correct=None, refused=None, cluster=case.cluster, error=UNSCORED)
            judged = await judge(case, sample.answer)
            correct, refused = judged.correct, judged.refused
        elif means is not None:
            correct = truth(sample, means.correct, means.at_least) if means.correct else None
            refused = truth(sample, means.refused, None) if means.refused else None
    if error is None and (correct is None and refused is None):
        error = UNSCORED
    return Outcome(id=case.id, correct=correct, refused=refused, cluster=case.cluster, error=error)


def stated(log: Log) -> tuple[str, str]:
    """Engine and version as evidence has them: that it was imported, from which tool, log and model."""
    version = log.version or "unknown version"
    rest = [f"log {log.digest}", f"model {normalised(log.model or 'not stated')[:200]}"]
    if log.temperature is None:
        rest.append("sampling not stated")
    return f"imported:{log.tool}", "; ".join([version, *rest])
