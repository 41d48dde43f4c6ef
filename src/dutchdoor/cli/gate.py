"""`dutchdoor gate`: scores from anywhere against a bound or a baseline, one verdict out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dutchdoor.core import Exit, UsageError, VerdictKind

if TYPE_CHECKING:  # the statistics cost a quarter of a second, which `--help` need not pay
    from dutchdoor.policy.gate import GateVerdict, Terms

STDIN = Path("-")
MOST_DIGITS = 12  # after the point of a percentage
_FILE = click.Path(path_type=Path, allow_dash=True)
_CODES = {
    VerdictKind.PASS: Exit.CLEAN,
    VerdictKind.FAIL: Exit.AGAINST,
    VerdictKind.INCONCLUSIVE: Exit.INCONCLUSIVE,
}


@click.command("gate")
@click.argument("candidate", type=_FILE)
@click.option("--baseline", type=_FILE, metavar="FILE", help="Scores to compare with, item by item.")
@click.option(
    "--margin",
    type=float,
    help="How much worse than the baseline may the candidate be, as a fraction: 0.03 is three points.",
)
@click.option("--absolute", type=float, metavar="P0", help="Without a baseline: how high the rate may be.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of each bound, one-sided.")
@click.option(
    "--measure", default="harmful", show_default=True, metavar="FIELD", help="The field that is 0 or 1."
)
@click.option(
    "--higher-is-better",
    is_flag=True,
    help="The field is good where it is 1 (say, correct): the rate may not be lower by more than the margin.",
)
@click.option(
    "--cluster", metavar="FIELD", help="The field that names what items share; then they count for less."
)
@click.option("--sequential", is_flag=True, help="Stop at the first item at which the verdict is clear.")
@click.option("--seed", type=int, help="Of the order in which --sequential takes the items.  [default: 0]")
@click.option(
    "--judge",
    type=_FILE,
    metavar="GOLD",
    help="The scores are a judge's: correct for its errors by people's labels, {id, side, gold}.",
)
@click.option(
    "--max-missing",
    type=float,
    default=0.02,
    show_default=True,
    help="More items without a score on either side, as a fraction: inconclusive.",
)
@click.option("--format", "format_", type=click.Choice(("text", "json")), default="text", show_default=True)
def command(
    candidate: Path,
    baseline: Path | None,
    judge: Path | None,
    measure: str,
    cluster: str | None,
    format_: str,
    **options: Any,
) -> int:
    """Hold the scores of a candidate against a bound or a baseline.

    CANDIDATE and --baseline are JSONL files, gzipped or not; - is stdin. A line is one item: {"id": "a-1",
    "harmful": 0}, with null where it could not be scored. Exit code 0 pass, 10 fail, 3 inconclusive or
    nothing to check.

    Example: dutchdoor gate candidate.jsonl --baseline base.jsonl --margin 0.03
    """
    terms = _terms(baseline, judge, options)
    _check_files(candidate, baseline, judge)
    _check_fields(measure, cluster)
    verdict = _judged(candidate, baseline, judge, measure, cluster, terms)
    if format_ == "json":
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(verdict), indent=2).decode() + "\n")
    else:
        click.echo(rendered(verdict, measure, terms.higher_is_better, candidate, baseline))
    return _CODES[verdict.verdict]


def _judged(
    candidate: Path,
    baseline: Path | None,
    judge: Path | None,
    measure: str,
    cluster: str | None,
    terms: "Terms",
) -> "GateVerdict":
    from dutchdoor.evidence.scored import read_labels, read_scores
    from dutchdoor.policy.gate import judge_difference, judge_rate

    ours = read_scores(candidate, measure=measure, cluster=cluster)
    theirs = None if baseline is None else read_scores(baseline, measure=measure, cluster=cluster)
    labels = None if judge is None else read_labels(judge)
    if theirs is None:
        return judge_rate(ours, terms, labels)
    return judge_difference(ours, theirs, terms, labels)


def _terms(baseline: Path | None, judge: Path | None, options: dict[str, Any]) -> "Terms":
    """What is claimed, checked. Raises UsageError for what can't be meant."""
    margin, absolute, higher = options["margin"], options["absolute"], options["higher_is_better"]
    if (baseline is None) == (absolute is None):
        raise UsageError(
            "say what to hold the scores against",
            hint="either --baseline FILE with --margin, or --absolute P0 without a baseline",
        )
    if (baseline is None) != (margin is None):
        raise UsageError(
            "--margin and --baseline belong together",
            hint="--baseline base.jsonl --margin 0.03 allows three points",
        )
    if not 0.5 < options["confidence"] < 1:  # false for nan too
        raise UsageError(
            f"--confidence {options['confidence']:g} is not between 0.5 and 1", hint="0.95 is usual"
        )
    if not 0 <= options["max_missing"] <= 1:
        raise UsageError(
            f"--max-missing {options['max_missing']:g} is no fraction", hint="0.02 is two of a hundred"
        )
    if margin is not None and not 0 <= margin < 1:
        raise UsageError(
            f"--margin {margin:g} is not from 0 to below 1",
            hint="0.03 allows three points; at 1 everything passes",
        )
    if absolute is not None and not (0 < absolute <= 1 if higher else 0 <= absolute < 1):
        span = "above 0 and at most 1" if higher else "from 0 to below 1"
        raise UsageError(
            f"--absolute {absolute:g} is not {span}", hint="every rate would pass, or it is no rate"
        )
    if options["sequential"] and absolute in (0, 1):
        raise UsageError(
            f"--sequential can't judge --absolute {absolute:g}", hint="name a bound between 0 and 1"
        )
    if options["sequential"] and judge is not None:
        raise UsageError("--sequential and --judge don't go together", hint="leave one out")
    if options["seed"] is not None and (not options["sequential"] or options["seed"] < 0):
        raise UsageError("--seed is a number from 0 up, for --sequential")
    from dutchdoor.policy.gate import Terms

    bound = absolute if margin is None else 0.0 - margin if higher else margin
    return Terms(
        bound=bound + 0.0,  # no -0.0
        higher_is_better=higher,
        confidence=options["confidence"],
        max_missing=options["max_missing"],
        sequential_seed=(options["seed"] or 0) if options["sequential"] else None,
    )


def _check_files(candidate: Path, baseline: Path | None, judge: Path | None) -> None:
    if [candidate, baseline, judge].count(STDIN) > 1:
        raise UsageError("stdin can be one file only", hint="give the others by name")
    if baseline is not None and _same(candidate, baseline):
        raise UsageError(
            f"{candidate} is compared with itself: the difference would be 0 whatever it holds",
            hint="--baseline names the scores of another model on the same items",
        )


def _check_fields(measure: str, cluster: str | None) -> None:
    for name in (measure, "-" if cluster is None else cluster):
        if not name or not name.isprintable() or '"' in name or "\\" in name:
            raise UsageError(f"{name!a} is no name of a field", hint="quotes and backslashes are none either")
    if len({"id", measure, cluster}) < 3:
        raise UsageError("id, --measure and --cluster must be three different fields")


def _same(one: Path, other: Path) -> bool:
    try:
        return STDIN not in (one, other) and one.samefile(other)
    except OSError:
        return False  # one is not there: reading it says so


def rendered(
    verdict: "GateVerdict", measure: str, higher_is_better: bool, candidate: Path, baseline: Path | None
) -> str:
    """The verdict as one line for a person: what was held against what, the interval, what was missing."""
    what = f"{measure} of {_name(candidate)}"
    if baseline is not None:
        what += f" − {_name(baseline)}"
    parts = [f"{verdict.verdict.value.upper()}: {what}{_interval(verdict, higher_is_better)}"]
    unit = "items" if baseline is None else "pairs"
    counted = f"{verdict.n} {unit}"
    if verdict.clusters is not None:
        counted += f" in {verdict.clusters} clusters"
    if verdict.stopped_at is not None:
        counted = f"stopped after {verdict.stopped_at} of {counted}"
    parts += [f"{counted}, {verdict.missing} missing"]
    parts += [each for each in (verdict.method, verdict.because) if each]
    line = "; ".join(parts)
    # ids and names come from elsewhere: nothing in them may break the line or steer a terminal
    return "".join(sign if sign.isprintable() else "�" for sign in line)


def _interval(verdict: "GateVerdict", higher_is_better: bool) -> str:
    lower, upper, bound = verdict.lower, verdict.upper, verdict.bound
    if lower is None or upper is None or bound is None:
        return ""
    digits = _digits(lower, upper, bound, verdict.value)
    sign = "+" if verdict.measure == "difference" else ""
    unit = " points" if verdict.measure == "difference" else " %"

    def shown(fraction: float) -> str:
        return f"{100 * fraction:{sign}.{digits}f}".replace("-", "−")

    value = "not known" if verdict.value is None else shown(verdict.value) + unit
    sure = f"{100 * (verdict.confidence or 0):.6g} % sure"
    at_most, at_least = f"at most {shown(upper)}", f"at least {shown(lower)}"
    match verdict.verdict:
        case VerdictKind.PASS:
            claim = at_least if higher_is_better else at_most
        case VerdictKind.FAIL:
            claim = at_most if higher_is_better else at_least
        case _:
            claim, sure = f"{at_least} and {at_most}", f"each {sure}"
    allowed = "least" if higher_is_better else "most"
    return f" is {value}, {claim} ({sure}); allowed: at {allowed} {shown(bound)}"


def _digits(lower: float, upper: float, bound: float, value: float | None) -> int:
    """Two, or as many as it takes for a limit not to look like the bound or the value that it isn't."""
    digits = 2

    def alike(x: float, y: float) -> bool:
        return x != y and f"{100 * x:.{digits}f}" == f"{100 * y:.{digits}f}"

    others = [bound] if value is None else [bound, value]
    while digits < MOST_DIGITS and any(alike(x, y) for x in (lower, upper) for y in others):
        digits += 1
    return digits


def _name(path: Path) -> str:
    return "stdin" if path == STDIN else str(path)
