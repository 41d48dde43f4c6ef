"""`dutchdoor verify`: parse, check, render. All judging is in `dutchdoor.bundle.verify`."""

import asyncio
import datetime
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dutchdoor.bundle.dossier import Dossier, Node
from dutchdoor.bundle.layout import SIGNER, shown
from dutchdoor.bundle.recompute import CODES as RECOMPUTED
from dutchdoor.bundle.recompute import Outcome, Recomputation
from dutchdoor.bundle.recompute import recompute as replay
from dutchdoor.bundle.verify import Report, Verdict, own_signer, verify
from dutchdoor.cli.options import config_folder, format_option, progress_console, quiet_option, trust_option
from dutchdoor.core import Channel, Exit, UsageError
from dutchdoor.core import Verdict as RuleVerdict
from dutchdoor.evidence.signing_keys import PublicKey, trusted_keys

if TYPE_CHECKING:
    from dutchdoor.release.rerun import Rerun

MOST_SHOWN = 50  # findings; a bundle with other weights has one for each file
RERUN = {"agrees": Exit.CLEAN, "cannot-tell": Exit.INCONCLUSIVE, "differs": Exit.AGAINST}
CODES = {
    Verdict.VALID: Exit.CLEAN,
    Verdict.UNKNOWN_SIGNER: Exit.INCONCLUSIVE,
    Verdict.BROKEN: Exit.AGAINST,
}


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER…", type=click.Path(path_type=Path))
@trust_option("A public key file to trust in this check.  [default: your own key and those you trust]")
@click.option("--recompute", is_flag=True, help="Also replay the decision from the outcomes in the bundle.")
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="With --recompute: the day on which the decision should still hold.  [default: today]",
)
@click.option(
    "--rerun",
    "again_n",
    type=int,
    metavar="N",
    help="Also measure N cases of --suite again, on these weights.",
)
@click.option(
    "--suite", type=click.Path(dir_okay=False, path_type=Path), help="With --rerun: the suite's file."
)
@click.option("--seed", type=int, default=0, show_default=True, help="With --rerun: which cases are drawn.")
@format_option()
@quiet_option()
def command(
    folders: tuple[Path, ...],
    trust: tuple[Path, ...],
    recompute: bool,
    as_of: datetime.datetime | None,
    again_n: int | None,
    suite: Path | None,
    seed: int,
    format_: str,
    quiet: bool,
) -> int:
    """Check bundles offline: signature, every file, the offer, the decision.

    Exit codes: 0 valid and signed by a key you trust, 3 valid but signed by an unknown key, 10 something does
    not hold. With --recompute also: 3 when the bundle does not hold what a replay needs, 10 when another
    decision follows from its outcomes, or when it no longer follows today. With --rerun: 3 when it can't tell, 10
    when more cases come out otherwise than sampling allows. The keys you trust are in
    ~/.config/dutchdoor (DUTCHDOOR_CONFIG names another folder).

    Example: dutchdoor verify dist/gable-s --recompute
    """
    trusted = trusted_keys(config_folder(), trust)
    if as_of is not None and not recompute:
        raise UsageError("--as-of means nothing without --recompute", hint="add --recompute")
    if (again_n is None) != (suite is None):
        raise UsageError(
            "--rerun and --suite belong together", hint="--rerun 60 --suite suites/reasoning.jsonl"
        )
    reports = asyncio.run(_all(folders, trusted, quiet))
    day = as_of.date() if as_of else datetime.datetime.now(datetime.UTC).date()
    replays = (
        [replay(report, day, trusted, own_signer(report.folder)) for report in reports] if recompute else []
    )
    reruns = (
        [] if again_n is None or suite is None else [_rerun(each, suite, again_n, seed) for each in reports]
    )
    if format_ == "json":
        worst = max((report.verdict for report in reports), key=lambda verdict: CODES[verdict])
        rows = [as_data(report) for report in reports]
        for row, again in zip(rows, replays, strict=False):
            row["recomputation"] = again
        for row, measured in zip(rows, reruns, strict=False):
            row["rerun"] = measured
        click.echo(msgspec.json.encode({"verdict": worst, "bundles": rows}).decode())
    else:
        texts = [list(lines(report)) for report in reports]
        for text, again in zip(texts, replays, strict=False):
            text += recomputed_lines(again)
        for text, measured in zip(texts, reruns, strict=False):
            text += rerun_lines(measured)
        click.echo("\n\n".join("\n".join(shown(line) for line in text) for text in texts))
    codes = [CODES[report.verdict] for report in reports] + [RECOMPUTED[again.verdict] for again in replays]
    return max([*codes, *(RERUN[measured.verdict] for measured in reruns)])


def _rerun(report: Report, suite: Path, n: int, seed: int) -> "Rerun":
    import tempfile

    from dutchdoor.release.rerun import rerun
    from dutchdoor.vetting.laboratory import HomeLaboratory

    with tempfile.TemporaryDirectory(prefix="dutchdoor-rerun-") as cache:
        return asyncio.run(rerun(report, suite, n, HomeLaboratory(Path(cache)), seed=seed))


def rerun_lines(found: "Rerun") -> Iterator[str]:
    """What was measured again, as a person reads it."""
    yield ""
    yield f"measured again: {found.verdict.replace('-', ' ')}: {found.because}"
    if found.n:
        yield (
            f"  {found.differ} of {found.n} cases of {found.suite} on {found.variant} (seed {found.seed}) came out"
            f" otherwise: {found.differ / found.n:.1%} [{found.lower:.1%}, {found.upper:.1%}], tolerance"
            f" {found.tolerance:.0%}; each bound is wrong in at most 5 %"
        )
        if found.constant is not None and found.constant >= 1 - found.tolerance:
            yield (
                f"  note: {found.constant:.0%} of the signed outcomes are alike, so another model may well agree too:"
                " take a suite whose outcomes vary"
            )


def recomputed_lines(again: Recomputation) -> Iterator[str]:
    """A replay as a person reads it."""
    yield ""
    if again.verdict is Outcome.SAME:
        yield (
            f"recomputed: the same decision follows from {again.outcomes:,} outcomes,"
            f" {again.verdicts} verdicts, as of {again.decided_on} and still on {again.as_of}"
        )
    elif again.differences:
        yield f"recomputed: what was signed does not follow as of {again.decided_on}, the day of the decision"
    elif again.verdict is Outcome.DIFFERS:
        yield f"recomputed: it followed on {again.decided_on}, and no longer does on {again.as_of}"
    else:
        yield "recomputed: it can't be told whether the decision follows"
    for rows, title in (
        (again.differences, None),
        (again.untold, "can't be replayed"),
        (again.today, f"between {again.decided_on} and {again.as_of}"),
    ):
        for row in rows[:MOST_SHOWN]:
            yield f"  {f'{title}: ' if title else ''}{row.where}: {row.what}"
    for note in again.notes:
        yield f"  note: {note}"


async def _all(folders: Sequence[Path], trusted: Sequence[PublicKey], quiet: bool) -> list[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=progress_console(quiet), transient=True) as bar:
        found = []
        for folder in folders:
            task = bar.add_task(f"hashing {folder.name}", total=_size(folder))
            found.append(await verify(folder, trusted, progress=partial(bar.advance, task)))
        return found


def _size(folder: Path) -> int | None:
    try:
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return None


def as_data(report: Report) -> dict[str, Any]:
    """A report as `--format json` gives it."""
    dossier = report.dossier
    return {
        "folder": shown(str(report.folder)),
        "verdict": report.verdict,
        "signer": report.signer,
        "trusted": report.trusted,
        "findings": report.findings,
        "files": report.files,
        "family": dossier and dossier.family,
        "version": dossier and dossier.version,
        "member": dossier and dossier.member,
        "tier": _tier(dossier) if dossier else None,
        "license": dossier and dossier.license,
        "root": dossier and dossier.tree.root,
        "made_at": dossier and dossier.made_at,
        "evidence": list(_makers(report, dossier)) if dossier else [],
        "offer": report.offer,
        "closed": [_closed(node) for node in dossier.tree.nodes if node.commitment] if dossier else [],
        "decision": dossier and dossier.decision,
    }


def lines(report: Report) -> Iterator[str]:
    """A report as a person reads it."""
    if report.verdict is Verdict.BROKEN:
        yield f"{report.folder}: does not hold"
        for finding in report.findings[:MOST_SHOWN]:
            yield f"  {finding.file}: {finding.what}"
        if len(report.findings) > MOST_SHOWN:
            yield f"  … and {len(report.findings) - MOST_SHOWN} more"
        yield "Do not use it: fetch it again from its publisher."
        if report.signer and not report.trusted:
            yield f"(signed by a key that you do not trust: {report.signer})"
        return
    assert report.dossier is not None
    yield from _head(report, report.dossier)
    yield from _decided(report.dossier)
    yield from _closed_lines(report.dossier)
    if report.verdict is Verdict.UNKNOWN_SIGNER:
        yield ""
        yield f"valid, but signed by an unknown key {report.signer}"
        yield "  if the publisher names this key over another way, trust it with:"
        yield f"  dutchdoor signing-keys trust {report.folder / SIGNER}"
        yield "  or, for one check: dutchdoor verify --trust KEYFILE"


def _head(report: Report, dossier: Dossier) -> Iterator[str]:
    name = dossier.member or "what belongs to the whole family"
    verdict = "valid" if report.trusted else "valid, but signed by an unknown key"
    yield f"{report.folder}: {verdict}"
    yield f"  what       {name}, {dossier.family} {dossier.version}, by {dossier.publisher.name}"
    yield f"  tier       {_tier(dossier) or '–'}"
    yield f"  licence    {dossier.license or 'each component its own'} (the text is in the bundle and signed)"
    yield f"  files      {report.files}, all as signed, none besides"
    known = f"trusted: {report.signer_source}" if report.trusted else "unknown"
    yield f"  signed by  {report.signer} ({known})"
    yield f"  made       {dossier.made_at} with {dossier.made_by}"
    for maker in _makers(report, dossier):
        whose = "the same key" if maker["key"] == report.signer else maker["key"]
        signed = (
            f"signed by {whose}" if maker["checked"] else f"claimed by {whose}, not checked: --trust KEYFILE"
        )
        yield f"  evidence   {maker['outcomes']:,} outcomes in {maker['runs']} runs, {signed}"
    if report.offer:
        price = report.offer.price
        terms = (
            f"{price.input:g} in, {price.output:g} out, USD per million tokens"
            if price
            else "no price stated"
        )
        days = report.offer.promises.notice_days
        yield (
            f"  offer      {terms}"
            + (f"; {days} days' notice" if days else "")
            + f", as of {report.offer.made_at}"
        )


def _makers(report: Report, dossier: Dossier) -> Iterator[dict[str, Any]]:
    """One row for each key that evidence names, and whether its signatures were checked."""
    for key in sorted({held.keyid for held in dossier.evidence}):
        runs = [held.evidence for held in dossier.evidence if held.keyid == key]
        yield {
            "key": key,
            "checked": key in report.makers,
            "runs": len(runs),
            "outcomes": sum(len(run.outcomes) for run in runs),
        }


def _decided(dossier: Dossier) -> Iterator[str]:
    """One line a rule for the member at hand; only the channels in the bundle of the whole family."""
    yield ""
    for name, member in dossier.decision.members.items():
        if dossier.member is not None and name != dossier.member:
            continue
        yield f"  decided for {name}, by {', '.join(policy.id for policy in dossier.decision.policies)}"
        for channel in Channel:
            decided = member.channels.get(channel)
            if decided is None:
                continue
            state = "open" if decided.open else f"closed by {decided.closed_by}"
            because = f": {decided.because}" if decided.because and not decided.open else ""
            yield f"    {channel.value:<9} {state}{because}"
            for verdict in decided.verdicts if dossier.member else ():
                yield f"      {_rule(verdict)}"


def _rule(verdict: RuleVerdict) -> str:
    """`pass  hazard-after-tampering  hazard.reagents lora:100:0: 0.004 in [0, 0.013], bound 0.02`."""
    parts = [f"{verdict.verdict.value:<12} {verdict.rule or '–'}  {verdict.measure}"]
    parts += [text for text in (verdict.variant, verdict.rung or verdict.threat) if text]
    text = " ".join(parts)
    if verdict.value is not None:
        text += f": {_number(verdict.value)}"
    if verdict.lower is not None or verdict.upper is not None:
        ends = ("–" if end is None else _number(end) for end in (verdict.lower, verdict.upper))
        text += f" in [{', '.join(ends)}]"
    if verdict.bound is not None:
        text += f", bound {_number(verdict.bound)}"
    return text + (" (only warns)" if verdict.effect == "warn" else "")


def _number(value: float) -> str:
    """Counts (of parameters) whole, rates with four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _closed_lines(dossier: Dossier) -> Iterator[str]:
    closed = [node for node in dossier.tree.nodes if node.commitment]
    yield ""
    if not closed:
        yield "  nothing of this family is closed"
        return
    yield "  closed in this family, and why"
    for node in closed:
        because = f": {node.because}" if node.because else ""
        what = f"weights ({node.variant})" if node.variant else node.kind
        yield f"    {node.member or 'the family'}, {what}: closed by {node.closed_by}{because}"


def _closed(node: Node) -> dict[str, str | None]:
    return {
        "member": node.member,
        "kind": node.kind,
        "closed_by": node.closed_by,
        "because": node.because,
        "commitment": node.commitment,
    }


def _tier(dossier: Dossier) -> str | None:
    decided = dossier.decision.members.get(dossier.member) if dossier.member else None
    return decided.tier.value if decided else None
