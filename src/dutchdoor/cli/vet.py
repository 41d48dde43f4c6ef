"""`dutchdoor vet`: measure what the policies ask, show how far it is, sum up what came out."""

import asyncio
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dutchdoor.cli.live import Display, clock_face
from dutchdoor.cli.options import (
    config_folder,
    data_console,
    data_folder,
    data_option,
    format_option,
    progress_console,
    quiet_option,
    trust_option,
)
from dutchdoor.core import Exit, ThreatModel, UsageError
from dutchdoor.evidence.measures import Measure
from dutchdoor.family.load import LoadedFamily, load_family
from dutchdoor.policy.decide import load_policies
from dutchdoor.policy.rules import LoadedPolicy

if TYPE_CHECKING:  # what measures is imported when something is to be measured
    from dutchdoor.vetting.report import Due, Row, VetReport


@click.command("vet")
@click.argument("manifest", type=click.Path(path_type=Path), default=Path("family.yaml"))
@click.option("--member", "members", multiple=True, metavar="NAME", help="Only this member; repeatable.")
@click.option(
    "--threat",
    "threats",
    multiple=True,
    type=click.Choice([each.value for each in ThreatModel]),
    help="Only this threat model; repeatable.",
)
@click.option("--plan", "only_plan", is_flag=True, help="List what there is to measure, and measure nothing.")
@trust_option("A public key file whose evidence is not measured again; repeatable.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    metavar="N",
    help="Questions at a time to a member that is served elsewhere.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="For one answer of a member that is served elsewhere; then it is asked again.",
)
@data_option()
@format_option()
@quiet_option()
def command(
    manifest: Path,
    members: tuple[str, ...],
    threats: tuple[str, ...],
    only_plan: bool,
    trust: tuple[Path, ...],
    concurrency: int,
    timeout: float,
    data: Path | None,
    format_: str,
    quiet: bool,
) -> int:
    """Measure each variant on the policy's suites under both threat models.

    MANIFEST is family.yaml by default. What was measured before and still holds is not measured again;
    after Ctrl-C or kill -9 the same command goes on where it was. Exit code 0 when all evidence is there, 3
    when something could not be measured (it says what and why). What the evidence means, `dutchdoor
    decide` says.

    Example: dutchdoor vet examples/gable/family.yaml --member gable-s
    """
    from dutchdoor.vetting.report import counted

    loaded = load_family(manifest)
    known = [member.name for member in loaded.family.members]
    for name in members:
        if name not in known:
            raise UsageError(f"there is no member {name!r}", hint=f"members: {', '.join(known)}")
    policies = load_policies(loaded)
    started = time.monotonic()
    chosen = tuple(ThreatModel(each) for each in threats)
    with Display(progress_console(quiet), plain=None if quiet else sys.stderr) as display:
        work = _work(
            loaded,
            policies,
            data_folder(manifest, data),
            trust,
            members,
            chosen,
            only_plan=only_plan,
            show=display,
            concurrency=concurrency,
            silence_s=timeout,
        )
        report = run(work)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if format_ == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    else:
        data_console().print(render(report.rows))
    if not report.rows:
        click.echo("nothing to measure: no rule of the policies asks for a suite", err=True)
        return Exit.INCONCLUSIVE
    if only_plan:
        if report.due is not None and format_ == "text":
            click.echo(cost(report.due))
        return Exit.CLEAN
    if format_ == "text":
        click.echo(f"{counted(report.rows)} in {time.monotonic() - started:.1f} s")
    return Exit.INCONCLUSIVE if report.unmeasured else Exit.CLEAN


async def _work(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    data: Path,
    trust: Sequence[Path],
    members: Sequence[str],
    threats: Sequence[ThreatModel],
    *,
    only_plan: bool,
    show: Display,
    concurrency: int,
    silence_s: float,
) -> "VetReport":
    from dutchdoor.evidence.signing_keys import own_key, trusted_keys
    from dutchdoor.evidence.store import EvidenceStore
    from dutchdoor.vetting.vet import planned, vet

    store = EvidenceStore(data / "evidence")
    if only_plan:
        keys = trusted_keys(config_folder(), trust)
        return await planned(loaded, policies, store, trusted=keys, members=members, threats=threats)
    signer = own_key(config_folder())
    keys = trusted_keys(config_folder(), trust)
    return await vet(
        loaded,
        policies,
        store,
        signer,
        trusted=keys,
        members=members,
        threats=threats,
        progress=show.step,
        concurrency=concurrency,
        silence_s=silence_s,
    )


def run(work: Coroutine[Any, Any, "VetReport"]) -> "VetReport":
    """Run on uvloop where there is one: a question costs a third less."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def cost(due: "Due") -> str:
    """What a plan comes to, in one line."""
    if not due.settings:
        return "nothing is due: all evidence is there"
    attacks = f" and {_count(due.attacks, 'attack')}" if due.attacks else ""
    what = f"due: {_count(due.cases, 'case')} in {_count(due.settings, 'setting')}{attacks}"
    if due.seconds is None:
        unknown = due.settings_without_forecast
        return (
            f"{what}; how long is not known: {_count(unknown, 'setting')} of a model not measured here before"
        )
    return f"{what}; about {clock_face(due.seconds)} at the pace of the last time, one after the other"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def render(rows: Sequence["Row"]) -> RenderableType:
    """What was measured, a line each measure, and below it what was not, with the reason."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("member", "threat", "measure"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "at least", "at most", "n", "missing"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    last = ("", "")
    for row in rows:
        threat = row.threat if row.rung is None else f"{row.threat} {row.rung}"
        place = (f"{row.member}/{row.variant}", threat)
        shown = ("", "") if place == last else place
        for measure, found in row.measures.items():
            table.add_row(*map(Text, (*shown, measure, *_numbers(found), row.state)))
            shown = ("", "")
        if not row.measures:
            empty = [""] * 5
            table.add_row(*map(Text, (*shown, row.suite, *empty)), Text(_short(row), "yellow"))
        last = place
    return _with_reasons(table, rows)


def _short(row: "Row") -> str:
    if row.state != "due":
        return row.state
    return "to be measured" if row.cases is None else f"to be measured: {_count(row.cases, 'case')}"


def _numbers(found: Measure) -> tuple[str, ...]:
    value = "–" if found.value is None else f"{found.value:.1%}"
    return value, f"{found.lower:.1%}", f"{found.upper:.1%}", str(found.n), str(found.missing)


def _with_reasons(table: Table, rows: Sequence["Row"]) -> RenderableType:
    from rich.console import Group

    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason is not None:
            what = f"{row.member}/{row.variant} {row.threat}" + (f" {row.rung}" if row.rung else "")
            reasons.setdefault(f"{what}: {row.reason}", []).append(row.suite)
    lines = [Text(f"not measured: {why} ({', '.join(suites)})") for why, suites in reasons.items()]
    return Group(table, *lines)
