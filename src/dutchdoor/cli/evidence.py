"""`dutchdoor evidence`: the results of other tools in, as signed evidence; what there is; ours out."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
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
from dutchdoor.core import DocumentError, Exit, ThreatModel, UsageError

if TYPE_CHECKING:
    from dutchdoor.vetting.importing import How, Imported

MAPPED = ("id", "input", "epoch", "answer", "correct", "refused", "harmful")
SUITE_FORMATS = (
    "rows", "lm-eval-task", "xstest", "simplesafetytests", "harmbench", "strongreject", "wmdp", "gsm8k", "humaneval",
    "bbh",
)  # fmt: skip
_FAMILY = click.Path(dir_okay=False, path_type=Path)


@click.group("evidence")
def command() -> None:
    """Import the results of other evaluation tools as signed evidence, or export ours.

    Example: dutchdoor evidence list examples/gable/family.yaml
    """


def place_options(function: click.decorators.FC) -> click.decorators.FC:
    """The options that say whose outcomes on which suite are meant."""
    for option in reversed(
        (
            click.option("--suite", required=True, metavar="NAME", help="The policy's name for it, or `refused`."),
            click.option("--member", required=True, metavar="NAME", help="A member, or a reference of the family."),
            click.option("--variant", metavar="ID", help="Which variant.  [default: the only one, or the one served]"),
            click.option("--threat", required=True, type=click.Choice([each.value for each in ThreatModel])),
            click.option("--rung", metavar="ATTACK:STEPS:SEED", help="After this attack of the policy's ladder."),
            click.option(
                "--policy", "policy_paths", multiple=True, type=click.Path(path_type=Path),
                help="A policy instead of those that the manifest names; repeatable.",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@command.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--family", "manifest", required=True, type=_FAMILY, help="The family's manifest.")
@place_options
@click.option(
    "--from", "tool", type=click.Choice(["inspect", "lm-eval", "jsonl"]), help="[default: told by the file]"
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="WHAT=FIELD",
    help=f"Which field or score is what: {', '.join(MAPPED)}; !FIELD means its opposite. Repeatable.",
)
@click.option(
    "--match",
    "by",
    type=click.Choice(["both", "id", "input"]),
    default="both",
    show_default=True,
    help="What tells which case a sample is: its id, or the text of its question.",
)
@click.option("--epoch", type=click.IntRange(min=1), help="Which of several epochs counts.")
@click.option("--filter", "filter_", metavar="NAME", help="Which of several filters of lm-eval counts.")
@click.option("--at-least", type=float, metavar="T", help="A graded score counts as right from here on.")
@click.option("--rescore", is_flag=True, help="Judge the log's answers by the suite's own scorers.")
@click.option("--made-at", metavar="DATE", help="When the outcomes were made, if the log does not say.")
@data_option()
@format_option()
def import_(
    file: Path, manifest: Path, suite: str, member: str, variant: str | None, threat: str, rung: str | None,
    policy_paths: tuple[Path, ...], tool: str | None, mapping: tuple[str, ...], by: str, epoch: int | None,
    filter_: str | None, at_least: float | None, rescore: bool, made_at: str | None, data: Path | None,
    format_: str,
) -> int:  # fmt: skip
    """Sign the outcomes in FILE as evidence: an Inspect log, samples of lm-eval, or JSON Lines.

    Every case of the suite must be in FILE: what it lacks counts as missing, and with too much missing
    nothing is stored (exit code 3). A sample of no case is an error. You sign for what you import. No text
    of a case is stored.

    Example: dutchdoor evidence import logs/x.eval --family family.yaml --suite hazard.potions --member small
    --threat guarded
    """
    from dutchdoor.evidence.signing_keys import own_key
    from dutchdoor.evidence.store import EvidenceStore
    from dutchdoor.family.load import load_family
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.vetting.formats.reading import read_log
    from dutchdoor.vetting.importing import import_log
    from dutchdoor.vetting.place import find_place

    paths = mapped(mapping)
    how = _how(paths, by, epoch, at_least, made_at, rescore=rescore)
    loaded = load_family(manifest)
    policies = load_policies(loaded, policy_paths or None)
    place = find_place(
        loaded, policies, member=member, variant=variant, threat=ThreatModel(threat), rung=rung, suite=suite
    )
    log = read_log(file, paths=paths, filter=filter_, format=tool)
    store = EvidenceStore(data_folder(manifest, data) / "evidence")
    done = asyncio.run(import_log(loaded, policies, store, own_key(config_folder()), place, log, how))
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    _tell(done, format_)
    return Exit.CLEAN if done.reason is None else Exit.INCONCLUSIVE


def mapped(stated: Sequence[str]) -> dict[str, str]:
    """`WHAT=FIELD` each; `harmful` is `correct`. Raises UsageError."""
    found: dict[str, str] = {}
    for each in stated:
        what, equals, name = each.partition("=")
        if what not in MAPPED or not equals or not name.removeprefix("!"):
            raise UsageError(
                f"--map {each} maps nothing", hint=f"WHAT=FIELD, WHAT one of {', '.join(MAPPED)}"
            )
        what = "correct" if what == "harmful" else what
        if what in found:
            raise UsageError(f"--map names {what} twice", hint="`harmful` and `correct` are the same")
        found[what] = name
    return found


def _how(
    paths: dict[str, str],
    by: str,
    epoch: int | None,
    at_least: float | None,
    made_at: str | None,
    *,
    rescore: bool,
) -> "How":
    from dutchdoor.vetting.formats.log import field
    from dutchdoor.vetting.formats.moment import moment
    from dutchdoor.vetting.imported import By
    from dutchdoor.vetting.importing import How

    correct, refused = (field(paths[what]) if what in paths else None for what in ("correct", "refused"))
    if rescore and (correct or refused or at_least is not None):
        raise UsageError(
            "--rescore takes no scores of the log", hint="leave --map correct, refused and --at-least out"
        )
    told = moment(made_at)
    if made_at is not None and told is None:
        raise UsageError(f"--made-at {made_at} is no date", hint="write 2026-11-24, or 2026-11-24T10:00:00Z")
    kind = msgspec.convert(by, By)
    return How(
        by=kind,
        epoch=epoch,
        correct=correct,
        refused=refused,
        at_least=at_least,
        rescore=rescore,
        made_at=told,
    )


def _tell(done: "Imported", format_: str) -> None:
    subject, asked, n = done.evidence.subject, done.evidence.conditions, len(done.evidence.outcomes)
    fields: dict[str, object] = {
        "stored": done.reason is None, "address": done.address, "member": subject.member, "variant": subject.variant,
        "suite": asked.suite, "threat": asked.threat.value, "rung": asked.rung.label if asked.rung else None,
        "engine": asked.engine, "engine_version": asked.engine_version, "made_at": done.evidence.made_at, "n": n,
        "missing": done.missing, "because": done.reason,
    }  # fmt: skip
    if format_ == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(fields), indent=2).decode() + "\n")
        return
    under = f" {asked.rung.label}" if asked.rung else ""
    what = f"{asked.suite} on {subject.member}/{subject.variant}, {asked.threat.value}{under}"
    if done.reason is not None:
        click.echo(f"not stored: {what}: {done.reason}")
    else:
        click.echo(
            f"signed and stored: {what}: {n} cases, {done.missing} missing, made {done.evidence.made_at[:10]}"
        )


@command.command("add")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--family", "manifest", required=True, type=_FAMILY, help="The family's manifest.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The public key of whoever signed; repeatable.",
)
@data_option()
def add(file: Path, manifest: Path, keys: tuple[Path, ...], data: Path | None) -> int:
    """Keep evidence that an outside evaluator signed, as theirs.

    FILE is the signed envelope. Keys that a rule names with attested_by, and trusted ones, are known. Kept
    is not trusted: it counts for rules that name its key, and for others only with `decide --trust`.

    Example: dutchdoor evidence add theirs.json --family family.yaml --key redteam.pub
    """
    from dutchdoor.evidence.signing_keys import trusted_keys
    from dutchdoor.evidence.store import LARGEST_FILE, EvidenceStore
    from dutchdoor.family.load import load_family
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.vetting.importing import add_signed, keys_of

    loaded = load_family(manifest)
    policies = load_policies(loaded)
    known = (*trusted_keys(config_folder(), keys), *keys_of(policies))
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise DocumentError(f"{file} is larger than {LARGEST_FILE} bytes")
        envelope = file.read_bytes()
    except OSError as error:
        raise DocumentError(f"can't read {file}: {error.strerror}") from error
    store = EvidenceStore(data_folder(manifest, data) / "evidence")
    evidence, key_id = asyncio.run(add_signed(loaded, policies, store, envelope, known))
    click.echo(
        f"kept: {evidence.conditions.suite} on {evidence.subject.member}/{evidence.subject.variant},"
        f" {len(evidence.outcomes)} cases, signed by {key_id}"
    )
    return Exit.CLEAN


@command.command("list")
@click.argument("manifest", type=_FAMILY, default=Path("family.yaml"))
@data_option()
@format_option()
def list_(manifest: Path, data: Path | None, format_: str) -> int:
    """List the evidence there is: on what, by whom signed, of when, how many cases, how many missing.

    Exit code 3 when there is none.

    Example: dutchdoor evidence list examples/gable/family.yaml
    """
    from dutchdoor.family.load import load_family
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.vetting.importing import keys_of
    from dutchdoor.vetting.listing import listed

    loaded = load_family(manifest)
    known = keys_of(load_policies(loaded))
    rows, warnings = asyncio.run(listed(loaded, data_folder(manifest, data), config_folder(), known))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if format_ == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n")
    elif rows:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("member", "threat", "suite", "n", "missing", "made", "by", "with", "holds"):
            table.add_column(
                name,
                no_wrap=name not in ("with", "holds"),
                justify="right" if name in ("n", "missing") else "left",
            )
        for row in rows:
            threat = " ".join(each for each in (row.threat, row.rung) if each)
            table.add_row(
                *map(Text, (f"{row.member}/{row.variant}", threat, row.suite, str(row.n), str(row.missing),
                            row.made_at[:10], row.signer, row.engine, "yes" if row.current else "no: other bytes now"))
            )  # fmt: skip
        data_console().print(table)
    if not rows:
        click.echo(
            "there is no evidence yet: `dutchdoor vet` or `dutchdoor evidence import` make it", err=True
        )
        return Exit.INCONCLUSIVE
    return Exit.CLEAN


@command.command("export")
@click.argument("manifest", type=_FAMILY, default=Path("family.yaml"))
@place_options
@click.option("--to", "tool", type=click.Choice(["inspect"]), default="inspect", show_default=True)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="FILE.eval or FILE.json"
)
@click.option(
    "--with-prompts", is_flag=True, help="Write the suite's questions too; without, only their ids."
)
@trust_option("A public key file whose evidence counts too.")
@data_option()
def export(
    manifest: Path, suite: str, member: str, variant: str | None, threat: str, rung: str | None,
    policy_paths: tuple[Path, ...], tool: str, out: Path, with_prompts: bool, trust: tuple[Path, ...],
    data: Path | None,
) -> int:  # fmt: skip
    """Write stored outcomes as a log that `inspect view` opens.

    It holds ids and scores; evidence has no answers, and questions only with --with-prompts. Exit code 3
    when there is no such evidence.

    Example: dutchdoor evidence export family.yaml --suite hazard.potions --member small --threat guarded
    --out small.eval
    """
    from dutchdoor.evidence.shelf import open_shelf
    from dutchdoor.evidence.signing_keys import trusted_keys
    from dutchdoor.evidence.store import EvidenceStore, Salts
    from dutchdoor.family.load import load_family
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.vetting.formats.inspect_out import write_inspect
    from dutchdoor.vetting.place import find_place
    from dutchdoor.vetting.suites import load_suite

    loaded = load_family(manifest)
    policies = load_policies(loaded, policy_paths or None)
    at = find_place(
        loaded, policies, member=member, variant=variant, threat=ThreatModel(threat), rung=rung, suite=suite
    )
    folder = data_folder(manifest, data)
    keys = trusted_keys(config_folder(), trust)
    opened = open_shelf(
        EvidenceStore(folder / "evidence"),
        loaded,
        keys,
        salts=Salts(folder / "salts"),
        cache=folder / "cache",
    )
    evidence = asyncio.run(opened).find(at.member, at.variant, at.suite, at.suite_digest, at.threat, at.rung)
    if evidence is None:
        click.echo(f"there is no evidence of {at.suite} on {at.member}/{at.variant} under {threat}", err=True)
        return Exit.INCONCLUSIVE
    write_inspect(out, evidence, load_suite(at.suite_path) if with_prompts else None)
    click.echo(f"wrote {out}: {len(evidence.outcomes)} cases of {at.suite} on {at.member}/{at.variant}")
    return Exit.CLEAN


@command.command("suite")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--as", "format_", required=True, metavar="FORMAT", help=f"{', '.join(SUITE_FORMATS)}.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The suite: FILE.jsonl"
)
@click.option("--scorer", metavar="NAME", help="For --as rows: exact, regex, choice, numeric, refusal.")
@click.option(
    "--map", "mapping", multiple=True, metavar="WHAT=COLUMN", help="For --as rows: id, prompt, target, …"
)
@click.option(
    "--header", type=click.Path(dir_okay=False, path_type=Path), help="JSON: domain, marginal-risk fields."
)
@click.option(
    "--leave-out", is_flag=True, help="Leave out cases that no scorer here can judge, and say how many."
)
def suite(
    file: Path, format_: str, out: Path, scorer: str | None, mapping: tuple[str, ...], header: Path | None,
    leave_out: bool,
) -> int:  # fmt: skip
    """Make a suite of a data set on disk: a public format, CSV or JSON Lines, or a task of lm-eval.

    Nothing is fetched. Exit code 1 for a case that no scorer here can judge, unless --leave-out is given.

    Example: dutchdoor evidence suite cases.csv --as rows --scorer exact --map prompt=question --out skill.jsonl
    """
    from dutchdoor.evidence.store import write_atomically
    from dutchdoor.vetting.formats.making import cases_of, header_of
    from dutchdoor.vetting.formats.suites_in import make_suite

    columns: dict[str, str] = {}
    for each in mapping:
        what, equals, name = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--map {each} maps nothing", hint="WHAT=COLUMN")
        columns[what] = name
    made = make_suite(cases_of(file, format_, scorer=scorer, columns=columns), header_of(header), str(file))
    if made.left_out and not leave_out:
        raise DocumentError(
            f"{len(made.left_out)} cases can't be judged here; the first: {made.left_out[0]}",
            hint="--leave-out makes a suite of the others",
        )
    write_atomically(out, made.data)
    click.echo(
        f"wrote {out}: {len(made.suite.cases)} cases, {len(made.left_out)} left out, {made.suite.digest}"
    )
    return Exit.CLEAN
