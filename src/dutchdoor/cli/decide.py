"""`dutchdoor decide`: rules and stored evidence in, the decision out."""

import asyncio
import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dutchdoor.cli.options import (
    config_folder,
    data_console,
    data_folder,
    data_option,
    format_option,
    trust_option,
)
from dutchdoor.core import Channel, DutchdoorError, Exit, Tier, UsageError, Verdict, VerdictKind
from dutchdoor.family.load import LoadedFamily, load_family
from dutchdoor.policy.decide import decide, load_policies, unmet, unsettled
from dutchdoor.policy.decision import ChannelDecision, Decision, Timing
from dutchdoor.policy.grounds import NotedShelf
from dutchdoor.policy.judge import NOT_MEASURED
from dutchdoor.policy.rules import PARAMETERS, LoadedPolicy
from dutchdoor.policy.timing import log_decision, told_digests, with_timing

if TYPE_CHECKING:
    from dutchdoor.evidence.shelf import StoredShelf

_MARKS = {
    VerdictKind.PASS: ("✓", "green"),
    VerdictKind.FAIL: ("✗", "red"),
    VerdictKind.INCONCLUSIVE: ("?", "yellow"),
}
_COLOURS = {Tier.OPEN_WEIGHTS: "green", Tier.API: "cyan", Tier.HELD: "yellow"}
_WORST_FIRST = (VerdictKind.FAIL, VerdictKind.INCONCLUSIVE, VerdictKind.PASS)


@click.command("decide")
@click.argument("manifest", type=click.Path(path_type=Path), default=Path("family.yaml"))
@click.option(
    "--policy",
    "policy_paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A policy to judge by instead of those the manifest names; may be given several times.",
)
@click.option(
    "--require",
    "requirements",
    multiple=True,
    metavar="NAME=TIER",
    help="Exit with 10 unless the member has this tier: open-weights, api or held; may be repeated.",
)
@trust_option("A public key file whose evidence counts, besides your own and those in the trust folder.")
@data_option()
@format_option()
def command(
    manifest: Path,
    policy_paths: tuple[Path, ...],
    requirements: tuple[str, ...],
    trust: tuple[Path, ...],
    data: Path | None,
    format_: str,
) -> int:
    """Decide each channel of each member from stored evidence.

    MANIFEST is family.yaml by default. Measures nothing: `dutchdoor vet` does. Exit code 0, or 3 when an
    intended channel is inconclusive or has no rule, or 10 when a --require doesn't hold.

    Example: dutchdoor decide family.yaml --require gable-s=open-weights
    """
    loaded = load_family(manifest)
    required = parse_requirements(requirements, loaded)
    policies = load_policies(loaded, policy_paths or None)
    shelf, warnings = asyncio.run(open_stored(loaded, data_folder(manifest, data), trust))
    noted = NotedShelf(shelf)
    decision = decide(loaded, policies, noted, datetime.datetime.now(datetime.UTC).date())
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    place = data_folder(manifest, data)
    decision = _timed(decision, policies, shelf, noted, place, trust)
    if not policy_paths:  # another policy is only a question
        _note(decision, place)
    if format_ == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(decision), indent=2).decode() + "\n")
    else:
        data_console().print(render(decision, manifest, policies), soft_wrap=False)
    broken = unmet(decision, required)
    for each in broken:
        click.echo(f"required, and not so: {each}", err=True)
    if broken:
        return Exit.AGAINST
    return Exit.INCONCLUSIVE if unsettled(decision) else Exit.CLEAN


def _timed(
    decision: Decision,
    policies: Sequence[LoadedPolicy],
    shelf: "StoredShelf",
    noted: NotedShelf,
    data: Path,
    trust: Sequence[Path],
) -> Decision:
    """The decision, each policy with when it was committed to the release log."""
    from dutchdoor.evidence.release_log import read, release_log
    from dutchdoor.evidence.signing_keys import trusted_keys

    history = read(release_log(data, decision.family), trusted_keys(config_folder(), trust))
    for fault in history.faults:
        click.echo(f"warning: release log: {fault}", err=True)
    digests = [told_digests(each, shelf.subjects) for each in policies]
    entries = [each for each in history.entries if each.trusted]
    return with_timing(decision, digests, list(noted.given.values()), entries)


def _note(decision: Decision, data: Path) -> None:
    """Put the decision into the release log, where there is private data at all: looking makes none."""
    from dutchdoor.evidence.release_log import release_log
    from dutchdoor.evidence.signing_keys import own_key, own_public_key

    if own_public_key(config_folder()) is None:  # deciding makes no key
        return
    if not (data / "evidence").is_dir() and not (data / "release-log").is_dir():
        return
    try:
        log_decision(release_log(data, decision.family), decision, own_key(config_folder()))
    except DutchdoorError as error:  # who only reads a family may still decide
        click.echo(f"warning: the decision is not in the release log: {error.message}", err=True)


async def open_stored(
    loaded: LoadedFamily, data: Path, trust: Sequence[Path] = ()
) -> tuple["StoredShelf", tuple[str, ...]]:
    """The shelf of a data folder, and what was left out of it and why."""
    from dutchdoor.evidence.shelf import open_shelf
    from dutchdoor.evidence.signing_keys import trusted_keys
    from dutchdoor.evidence.store import EvidenceStore, Salts

    shelf = await open_shelf(
        EvidenceStore(data / "evidence"),
        loaded,
        trusted_keys(config_folder(), trust),
        salts=Salts(data / "salts"),
        cache=data / "cache",
    )
    return shelf, shelf.warnings


def parse_requirements(stated: Sequence[str], loaded: LoadedFamily) -> dict[str, Tier]:
    """`NAME=TIER` each, checked against the family. Raises UsageError."""
    known = [each.name for each in loaded.family.members]
    found: dict[str, Tier] = {}
    for each in stated:
        name, _, tier = each.partition("=")
        if name not in known:
            raise UsageError(
                f"--require {each}: there is no member {name!r}", hint=f"members: {', '.join(known)}"
            )
        if tier not in list(Tier):
            raise UsageError(f"--require {each}: unknown tier {tier!r}", hint=f"tiers: {', '.join(Tier)}")
        if found.setdefault(name, Tier(tier)) is not Tier(tier):
            raise UsageError(f"--require names two tiers for {name}", hint="a member has one")
    return found


def render(decision: Decision, manifest: Path, policies: Sequence[LoadedPolicy]) -> RenderableType:
    """The decision as a person reads it: a table, what stays closed, and what to do about the unknown."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("member", "tier", "channel", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column(Text("rules: value [lower, upper] against the bound"), overflow="fold")
    for name, member in decision.members.items():
        for index, (channel, held) in enumerate(member.channels.items()):
            first = index == 0
            table.add_row(
                Text(name if first else "", "bold"),
                Text(member.tier if first else "", _COLOURS[member.tier]),
                channel.value,
                outcome(held),
                Text("\n").join(_lines(held)),
            )
    parts: list[RenderableType] = [table]
    for title, rows in (
        ("policies", _timings(decision)),
        ("components that stay", _closed_components(decision)),
        ("what to do", [("", each) for each in remedies(decision, manifest, policies)]),
    ):
        if rows:
            block = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            for left, right in rows:
                block.add_row(Text(left), Text(right))
            parts += [Text(), Text(title, "bold"), block]
    return Group(*parts)


def rendered(decision: Decision, manifest: Path, policies: Sequence[LoadedPolicy], width: int = 120) -> str:
    """`render` as plain text."""
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render(decision, manifest, policies))
    return capture.get()


def outcome(held: ChannelDecision) -> Text:
    """`open`, or what closed it."""
    if held.open:
        return Text("open", "green")
    words = {"choice": "closed by choice", "evidence": "closed by evidence", "no-rule": "closed: no rule"}
    if held.closed_by in words:
        return Text(words[held.closed_by], "red" if held.closed_by == "evidence" else "yellow")
    return Text("closed: inconclusive", "yellow")


def _lines(held: ChannelDecision) -> list[Text]:
    """One line a rule: its worst verdict, nearest to the bound, and how many others there are."""
    lines = [Text(held.because)] if held.closed_by in ("choice", "no-rule") and held.because else []
    by_rule: dict[tuple[str | None, str | None], list[Verdict]] = {}
    for each in held.verdicts:
        by_rule.setdefault((each.policy, each.rule), []).append(each)
    for verdicts in by_rule.values():
        kind = next(each for each in _WORST_FIRST if any(v.verdict is each for v in verdicts))
        alike = [each for each in verdicts if each.verdict is kind]
        worst = min(alike, key=_margin)
        mark, colour = _MARKS[kind]
        more = f"  (and {len(alike) - 1} more)" if len(alike) > 1 else ""
        line = Text.assemble((f"{mark} ", colour), f"{worst.rule}", f": {measured(worst)}{more}")
        if worst.effect == "warn":
            line.append("  (warns only)", "dim")
        lines.append(line)
    return lines


def _margin(verdict: Verdict) -> float:
    """How far the deciding bound is from the rule's, so that the nearest miss or narrowest pass is shown."""
    if verdict.bound is None or verdict.lower is None or verdict.upper is None:
        return 0.0
    return min(abs(verdict.upper - verdict.bound), abs(verdict.lower - verdict.bound))


def measured(verdict: Verdict) -> str:
    """A verdict's value with its interval and the rule's bound; else the reason why there is none."""
    where = [each for each in (verdict.variant, verdict.threat, verdict.rung) if each]
    place = f" ({', '.join(where)})" if where else ""
    if verdict.value is None or verdict.lower is None or verdict.upper is None:
        words = verdict.because if verdict.verdict is VerdictKind.INCONCLUSIVE else verdict.verdict.value
        return f"{verdict.measure}{place}: {_short(words or verdict.verdict.value)}"
    shown = _amount(verdict.value, verdict)
    if verdict.lower != verdict.upper:
        shown += f" [{_amount(verdict.lower, verdict)}, {_amount(verdict.upper, verdict)}]"
    if verdict.bound is not None:
        shown += f" {_relation(verdict)} {_amount(verdict.bound, verdict)}"
    reason = f": {verdict.because}" if verdict.verdict is VerdictKind.INCONCLUSIVE and verdict.because else ""
    return f"{verdict.measure} {shown}{place}{reason}"


def _short(reason: str) -> str:
    """A reason without the whole list of what was not measured: `vet` measures all of it at once."""
    items = reason.split(", ") if reason.startswith(NOT_MEASURED) else [reason]
    return items[0] if len(items) == 1 else f"{items[0]} and {len(items) - 1} more"


def _relation(verdict: Verdict) -> str:
    assert verdict.lower is not None and verdict.upper is not None and verdict.bound is not None
    if verdict.verdict is VerdictKind.PASS:
        return "≤" if verdict.upper <= verdict.bound else "≥"
    if verdict.verdict is VerdictKind.FAIL:
        return ">" if verdict.lower > verdict.bound else "<"
    return "against"


def _amount(value: float, verdict: Verdict) -> str:
    if verdict.measure == PARAMETERS and abs(value) >= 1000:
        for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= limit:
                return f"{value / limit:.3g}{unit}"
    if verdict.measure == PARAMETERS and float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.3f}"


def _timings(decision: Decision) -> list[tuple[str, str]]:
    """Where a policy was not committed before its evidence; nothing where all is in order."""
    return [
        (f"  {ref.id}", ref.timing.words)
        for ref in decision.policies
        if isinstance(ref.timing, Timing) and ref.timing.evidence and not ref.timing.in_time
    ]


def _closed_components(decision: Decision) -> list[tuple[str, str]]:
    return [
        (
            f"  {each.kind} of {each.member or 'the family'}{f' ({each.path})' if each.path else ''}",
            f"closed by {each.closed_by}: {each.because}",
        )
        for each in decision.components
        if not each.open
    ]


def remedies(decision: Decision, manifest: Path, policies: Sequence[LoadedPolicy]) -> list[str]:
    """What would settle the channels that are inconclusive or have no rule."""
    lines: list[str] = []
    reasons: dict[str, list[str]] = {}
    for name, channel in unsettled(decision):
        held = decision.members[name].channels[channel]
        if held.closed_by == "no-rule":
            lines.append(_no_rule(name, channel, held, policies))
        for verdict in held.verdicts:
            if verdict.effect == "gate" and verdict.verdict is VerdictKind.INCONCLUSIVE:
                reasons.setdefault(verdict.because or "inconclusive", []).append(name)
    if any(NOT_MEASURED in reason for reason in reasons):
        lines.append(f"measure what is missing: dutchdoor vet {shlex.quote(str(manifest))}")
    for reason, names in reasons.items():
        if not reason.startswith(NOT_MEASURED):
            lines.append(f"{', '.join(dict.fromkeys(names))}: {reason}")
    return lines


def _no_rule(name: str, channel: Channel, held: ChannelDecision, policies: Sequence[LoadedPolicy]) -> str:
    if not policies:
        return f"{name}: name a policy in the manifest, `policies: [policy.yaml]`"
    where = (held.because or "").rpartition(" in ")[2]
    remedy = f"add a rule with `gates: {channel}` to the policy {where}"
    return f"{name}: {remedy}, or set `intent: {{{channel}: false}}`"
