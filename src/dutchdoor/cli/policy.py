"""`dutchdoor policy`: commit the rules before there is evidence; show and check the release log."""

import asyncio
from pathlib import Path

import click
import msgspec

from dutchdoor.cli.options import config_folder, data_folder, data_option, format_option, trust_option
from dutchdoor.core import Exit, UsageError
from dutchdoor.family.load import load_family


@click.group("policy")
def command() -> None:
    """Commit a policy before there is evidence; show and check the release log.

    Example: dutchdoor policy commit family.yaml
    """


@command.command("commit")
@click.argument(
    "manifest", metavar="FAMILY.yaml", type=click.Path(path_type=Path), default=Path("family.yaml")
)
@data_option()
@format_option()
def commit(manifest: Path, data: Path | None, format_: str) -> int:
    """Sign the family's policies, with the suites they name, into its release log.

    What was committed already is not written again. A decision under a policy that was committed after its
    evidence, or never, says so.

    Example: dutchdoor policy commit examples/gable/family.yaml
    """
    from dutchdoor.evidence.release_log import release_log
    from dutchdoor.evidence.signing_keys import own_key
    from dutchdoor.evidence.store import Salts
    from dutchdoor.evidence.subjects import identify
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.policy.timing import commit as sign

    loaded = load_family(manifest)
    policies = load_policies(loaded)
    if not policies:
        raise UsageError(f"{manifest} names no policy", hint="policies: [policy.yaml]")
    place = data_folder(manifest, data)
    log = release_log(place, loaded.family.family)
    signer = own_key(config_folder())
    subjects = asyncio.run(identify(loaded, Salts(place / "salts"), place / "cache"))
    rows = []
    for policy, line, new in sign(log, policies, subjects, signer):
        entry = line.entry
        rows.append({"policy": policy.policy.id, "digest": policy.digest, "entry": entry, "new": new})
        if format_ == "text":
            done = "committed" if new else "was committed already,"
            click.echo(f"{policy.policy.id}: {done} {entry.at}, line {entry.sequence + 1} of {log.path}")
    if format_ == "json":
        click.echo(msgspec.json.encode({"log": str(log.path), "policies": rows}).decode())
    return Exit.CLEAN


@command.command("log")
@click.argument(
    "manifest", metavar="FAMILY.yaml", type=click.Path(path_type=Path), default=Path("family.yaml")
)
@trust_option("A public key file whose lines count, besides your own and those in the trust folder.")
@data_option()
@format_option()
def show(manifest: Path, trust: tuple[Path, ...], data: Path | None, format_: str) -> int:
    """Show the release log of a family, and check its chain.

    Exit codes: 0 it holds, 3 it is empty or a line is signed by a key you don't trust, 10 a line was edited,
    removed or swapped.

    Example: dutchdoor policy log family.yaml
    """
    from dutchdoor.evidence.release_log import read, release_log
    from dutchdoor.evidence.signing_keys import trusted_keys

    loaded = load_family(manifest)
    log = release_log(data_folder(manifest, data), loaded.family.family)
    history = read(log, trusted_keys(config_folder(), trust))
    unknown = sorted({each.key_id for each in history.entries if not each.trusted})
    if format_ == "json":
        lines = [
            {"entry": each.entry, "digest": each.digest, "key": each.key_id, "trusted": each.trusted}
            for each in history.entries
        ]
        data_ = {"log": str(log.path), "lines": lines, "faults": history.faults, "notes": history.notes}
        click.echo(msgspec.json.encode({**data_, "head": history.head}).decode())
    else:
        for each in history.entries:
            entry = each.entry
            whose = "" if each.trusted else "  by a key that you do not trust"
            click.echo(
                f"{entry.sequence + 1:>4}  {entry.at}  {entry.kind:<8}  {entry.name or ''}  {entry.subject}{whose}"
            )
        for note in history.notes:
            click.echo(f"note: {note}", err=True)
        for fault in history.faults:
            click.echo(f"does not hold: {fault}")
        for key in unknown:
            click.echo(f"signed by an unknown key {key}: --trust KEYFILE", err=True)
        if not history.entries and not history.faults:
            click.echo("the release log is empty: `dutchdoor policy commit` begins it", err=True)
        elif not history.faults and not unknown:
            click.echo(f"the chain holds, {len(history.entries)} lines, head {history.head}")
    if history.faults:
        return Exit.AGAINST
    return Exit.INCONCLUSIVE if unknown or not history.entries else Exit.CLEAN
