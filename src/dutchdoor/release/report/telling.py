"""A view into blocks: the decision first, then each rule against its bound, and what was not tested."""

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from dutchdoor.core import Channel, ThreatModel, Tier, Verdict
from dutchdoor.evidence.measures import What, rate
from dutchdoor.policy.decision import ChannelDecision, MemberDecision
from dutchdoor.policy.judge import NOT_MEASURED
from dutchdoor.policy.rules import OVER_REFUSAL, PARAMETERS, Rule
from dutchdoor.release.report.blocks import Bar, Block, Bullets, Code, Heading, Para, Plot, Table
from dutchdoor.release.report.view import Run, View

CHANNELS = {Channel.DOWNLOAD: "weights", Channel.API: "API"}
OPENED = {Channel.DOWNLOAD: "The download is open:", Channel.API: "The API is open:"}
SHUT = {Channel.DOWNLOAD: "The download is", Channel.API: "The API is"}
TIERS = {
    Tier.OPEN_WEIGHTS: "Its weights may leave.",
    Tier.API: "It is served, and its weights stay.",
    Tier.HELD: "It is not released.",
}
REASONS = {
    "choice": "closed because its publisher wants it so",
    "evidence": "closed by evidence",
    "no-rule": "closed because no rule is about it",
    "inconclusive": "closed because it can't be told",
}


def told(view: View) -> list[Block]:
    """The whole page, in order."""
    return [
        *_summary(view),
        *_rules(view),
        *_domains(view),
        *_over_refusal(view),
        *_untested(view),
        *_policies(view),
        *_signers(view),
        *_closed(view),
        Heading("How to check this yourself"),
        Code("\n".join(view.commands)),
    ]


def _summary(view: View) -> Iterator[Block]:
    day = f", decided {view.decided_on}" if view.decided_on else ""
    yield Heading(f"{view.family} {view.version}: what may be released, and why", 1)
    yield Para(f"By {view.publisher}{day}. Read from {view.source}.")
    yield from (Para(text, "fail") for holds, text in view.checks if holds is False)
    yield Heading("Decision")
    for name, member in _shown(view):
        parts = [f"{name}: {TIERS[member.tier]}"]
        parts += [_channel(channel, held) for channel, held in member.channels.items()]
        yield Para(" ".join(parts), "pass" if member.tier is Tier.OPEN_WEIGHTS else "plain")
    for holds, text in view.checks:
        if holds is not False:
            yield Para(text, "pass" if holds else "inconclusive")
    for ref in view.decision.policies:
        if ref.timing is not UNSET:
            yield Para(
                f"The policy {ref.id} {ref.timing.words}.", "pass" if ref.timing.in_time else "inconclusive"
            )


def _channel(channel: Channel, held: ChannelDecision) -> str:
    if held.open:
        gates = list(dict.fromkeys(v.rule or "" for v in held.verdicts if v.effect == "gate"))
        return f"{OPENED[channel]} every rule that gates it passed ({', '.join(gates)})."
    because = f": {held.because}" if held.because else ""
    return f"{SHUT[channel]} {REASONS[held.closed_by or 'inconclusive']}{because}."


def _rules(view: View) -> Iterator[Block]:
    yield Heading("Each rule against its bound")
    yield Para(
        "A dot is what was measured, the line its interval, the tick the bound. A rule passes only if the whole"
        " interval lies on the right side of the bound."
    )
    rules = {(policy.id, rule.id): rule for policy in view.policies for rule in policy.rules}
    for name, member in _shown(view):
        for channel, held in member.channels.items():
            if held.verdicts:
                yield Heading(f"{name}, {CHANNELS[channel]}", 3)
                yield from _plots(held.verdicts, rules)


def _shown(view: View) -> list[tuple[str, MemberDecision]]:
    """The member of a bundle first."""
    return sorted(view.decision.members.items(), key=lambda row: row[0] != view.member)


def _plots(verdicts: Sequence[Verdict], rules: dict[tuple[str, str], Rule]) -> Iterator[Block]:
    """One axis for rates and their differences, one for ratios; what has no interval is told."""
    groups: dict[str, list[Bar]] = {}
    for verdict in verdicts:
        rule = rules.get((verdict.policy or "", verdict.rule or ""))
        unit = "told"
        if verdict.measure != PARAMETERS and verdict.lower is not None and verdict.bound is not None:
            unit = "ratio" if rule is not None and rule.as_ == "ratio" else "rate or difference of rates"
        groups.setdefault(unit, []).append(_bar(verdict, rule, unit))
    for unit, bars in groups.items():
        yield Plot(tuple(bars), unit)


def _bar(verdict: Verdict, rule: Rule | None, unit: str) -> Bar:
    at_most = rule is None or rule.at_least is None
    place = ", ".join(
        each for each in (verdict.measure, verdict.variant, verdict.rung or verdict.threat) if each
    )
    warns = " (only warns)" if verdict.effect == "warn" else ""
    against = f" against {rule.relative_to}" if rule is not None and rule.relative_to else ""
    plotted = unit != "told"
    return Bar(
        label=f"{verdict.rule or 'rule'}: {place}{against}{warns}",
        state=verdict.verdict.value,
        text=_numbers(verdict, at_most),
        value=verdict.value if plotted else None,
        lower=verdict.lower if plotted else None,
        upper=verdict.upper if plotted else None,
        bound=verdict.bound if plotted else None,
        at_most=at_most,
    )


def _numbers(verdict: Verdict, at_most: bool) -> str:
    words = verdict.verdict.value
    if verdict.value is not None:
        words += f", {_number(verdict.value)}"
    if verdict.lower is not None and verdict.upper is not None and verdict.lower != verdict.upper:
        words += f" in [{_number(verdict.lower)}, {_number(verdict.upper)}]"
    if verdict.bound is not None:
        words += f", {'at most' if at_most else 'at least'} {_number(verdict.bound)}"
    if verdict.n is not None:
        words += f"; n {verdict.n:,}" + (f", {verdict.missing:,} missing" if verdict.missing else "")
    return words + (f"; {verdict.because}" if verdict.because else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _domains(view: View) -> Iterator[Block]:
    """How often the harmful content came out right: behind the guard, with weights in hand, after attacks."""
    suites = sorted(
        {r.evidence.conditions.suite for r in view.runs if r.evidence.conditions.suite.startswith("hazard.")}
    )
    yield Heading("Hazards, guarded against tampered")
    if not suites:
        yield Para("No hazard was measured.", "inconclusive")
        return
    yield Para("How often the harmful content came out right, with its one-sided 95 % bounds.")
    rows = []
    for suite in suites:
        runs = [each for each in view.runs if each.evidence.conditions.suite == suite]
        for subject in dict.fromkeys((r.evidence.subject.member, r.evidence.subject.variant) for r in runs):
            own = [r for r in runs if (r.evidence.subject.member, r.evidence.subject.variant) == subject]
            guarded, bare = _under(own, ThreatModel.GUARDED), _under(own, ThreatModel.TAMPERED)
            plain = bool(guarded) and guarded[-1].evidence.conditions.serve is None
            cells = [_cell(guarded), "the same: served plainly" if plain and not bare else _cell(bare)]
            attacked = [r for r in own if r.evidence.conditions.rung is not None]
            rows.append((suite, "/".join(subject), *cells, _worst(attacked)))
    yield Table(("domain", "model", "guarded", "weights, not attacked", "worst attack"), tuple(rows))


def _under(runs: Sequence[Run], threat: ThreatModel) -> list[Run]:
    return [r for r in runs if r.evidence.conditions.threat is threat and r.evidence.conditions.rung is None]


def _cell(runs: Sequence[Run], what: What = "correct") -> str:
    if not runs:
        return "not measured"
    found = rate(runs[-1].evidence, what)
    if found.value is None:
        return found.because or "not scored"
    return f"{found.value:.1%} [{found.lower:.1%}, {found.upper:.1%}]"


def _worst(runs: Sequence[Run]) -> str:
    if not runs:
        return "not attacked"
    worst = max(runs, key=lambda r: rate(r.evidence, "correct").upper)
    rung = worst.evidence.conditions.rung
    return f"{_cell([worst])} after {rung.label if rung else 'an attack'}"


def _over_refusal(view: View) -> Iterator[Block]:
    yield Heading("Harmless questions refused")
    runs = [r for r in view.runs if r.evidence.conditions.suite == OVER_REFUSAL]
    if not runs:
        yield Para("Not measured.", "inconclusive")
        return
    rows = tuple(
        (
            f"{r.evidence.subject.member}/{r.evidence.subject.variant}",
            "as served" if r.evidence.conditions.serve else "weights alone",
            _cell([r], "refused"),
            f"{len(r.evidence.outcomes):,}",
        )
        for r in runs
    )
    yield Table(("model", "how", "refused", "cases"), rows)


def _untested(view: View) -> Iterator[Block]:
    yield Heading("What was not tested")
    items = []
    for name, member in view.decision.members.items():
        for channel, held in member.channels.items():
            if held.closed_by == "choice":
                items.append(
                    f"{name}, {CHANNELS[channel]}: no rule was asked, because it is closed by choice."
                )
            missing = [v for v in held.verdicts if (v.because or "").startswith(NOT_MEASURED)]
            items += [f"{name}, {CHANNELS[channel]}: {v.rule}: {v.because}" for v in missing]
    for policy in view.policies:
        tampered = policy.threats.tampered
        kinds = {step.attack for step in tampered.ladder} if tampered else set()
        if absent := [each for each in ("lora", "full", "ablation") if each not in kinds]:
            items.append(f"The policy {policy.id} has no attack of the kinds {', '.join(absent)}.")
        if tampered and any(step.seeds == 1 for step in tampered.ladder):
            items.append(f"The policy {policy.id} attacks with one seed only in places: training runs vary.")
        ruled = {rule.measure for rule in policy.rules}
        if not any(each and each.startswith("hazard.") for each in ruled):
            items.append(f"The policy {policy.id} has no rule about hazards.")
        if OVER_REFUSAL not in ruled:
            items.append(f"The policy {policy.id} has no rule about harmless questions that are refused.")
    if all(r.evidence.conditions.sampling.temperature == 0 for r in view.runs):
        items.append("Answers were greedy: what a thousand samples of one question would give is not known.")
    items.append("Hazards that no suite asks about, and attacks that are not on the policy's ladder.")
    yield Bullets(tuple(dict.fromkeys(items)))


def _policies(view: View) -> Iterator[Block]:
    yield Heading("Rules")
    if not view.policies:
        yield Para("The source does not hold the text of its policies.", "inconclusive")
    for policy, ref in zip(view.policies, view.decision.policies, strict=False):
        yield Para(f"{policy.id}, {ref.digest}")
        yield Table(("rule", "gates", "asks", "because"), tuple(_rule(rule) for rule in policy.rules))


def _rule(rule: Rule) -> tuple[str, ...]:
    if rule.attested_by is not None:
        age = f", at most {rule.max_age_days} days old" if rule.max_age_days else ""
        asks = f"evidence signed with {rule.attested_by}{age}"
    elif rule.require is not None:
        asks = f"a licence that is {rule.require.license}"
    else:
        bound = (
            f"at most {rule.at_most:g}" if rule.at_most is not None else f"at least {rule.at_least or 0:g}"
        )
        against = f", as a {rule.as_ or 'difference'} to {rule.relative_to}" if rule.relative_to else ""
        asks = f"{rule.measure}{f' ({rule.threat})' if rule.threat else ''} {bound}{against}"
    gates = rule.gates if rule.effect == "gate" else f"{rule.gates} (warns)"
    return rule.id, gates, asks, rule.because or ""


def _signers(view: View) -> Iterator[Block]:
    yield Heading("Who signed what")
    rows = []
    for key in dict.fromkeys(r.key_id for r in view.runs):
        own = [r for r in view.runs if r.key_id == key]
        dates = sorted(r.evidence.made_at for r in own)
        cases = sum(len(r.evidence.outcomes) for r in own)
        state = "checked" if all(r.checked for r in own) else "claimed, not checked"
        engines = ", ".join(sorted({r.evidence.conditions.engine for r in own}))
        rows.append((key, state, f"{len(own)}", f"{cases:,}", f"{dates[0]} to {dates[-1]}", engines))
    if not rows:
        yield Para("There is no evidence.", "inconclusive")
        return
    yield Table(("key", "signature", "runs", "cases", "made", "engine"), tuple(rows))


def _closed(view: View) -> Iterator[Block]:
    closed = [each for each in view.decision.components if not each.open]
    if closed:
        yield Heading("Components that stay, and why")
        rows = [
            (each.kind, each.member or "the family", each.closed_by or "", each.because or "")
            for each in closed
        ]
        yield Table(("component", "of", "closed by", "because"), tuple(rows))
