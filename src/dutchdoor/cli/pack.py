"""`dutchdoor pack`: decide from stored evidence, make the bundles, say what stays and why."""

import asyncio
from pathlib import Path

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dutchdoor.bundle.pack import NothingLeavesError
from dutchdoor.bundle.release import Packing, decide_and_pack
from dutchdoor.cli.options import (
    config_folder,
    data_folder,
    data_option,
    format_option,
    progress_console,
    quiet_option,
    trust_option,
)
from dutchdoor.core import Channel, Exit
from dutchdoor.evidence.signing_keys import own_key, trusted_keys
from dutchdoor.family.load import load_family
from dutchdoor.policy.decide import load_policies


@click.command()
@click.argument(
    "manifest", metavar="FAMILY.yaml", type=click.Path(path_type=Path), default=Path("family.yaml")
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dist"),
    show_default=True,
    help="Folder for the bundles, one folder a member.",
)
@click.option(
    "--member", "-M", "members", multiple=True, help="Pack only this member; may be given several times."
)
@trust_option("A public key file whose evidence counts, besides your own and those in the trust folder.")
@data_option()
@format_option()
@quiet_option()
def command(
    manifest: Path,
    out: Path,
    members: tuple[str, ...],
    trust: tuple[Path, ...],
    data: Path | None,
    format_: str,
    quiet: bool,
) -> int:
    """Make the signed bundle of each member that may leave.

    Decides from stored evidence and measures nothing. Exit codes: 0 packed, 3 nothing was packed because
    it is not known whether it may leave, 10 nothing was packed because it may not.

    Example: dutchdoor pack examples/gable/family.yaml --out dist
    """
    loaded = load_family(manifest)
    policies = load_policies(loaded)
    config = config_folder()
    signer = own_key(config)
    trusted = trusted_keys(config, trust)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=progress_console(quiet), transient=True) as bar:
        task = bar.add_task("packing", total=None)
        try:
            packing = asyncio.run(
                decide_and_pack(
                    loaded,
                    policies,
                    data_folder(manifest, data),
                    out,
                    signer,
                    trusted,
                    members=members,
                    progress=lambda done: bar.advance(task, done),
                    say=lambda text: click.echo(f"note: {text}", err=True),
                )
            )
        except NothingLeavesError as error:
            click.echo(f"error: {error.message}\n\nhint: {error.hint}", err=True)
            return error.exit_code
    render(packing, format_)
    return Exit.CLEAN


def render(packing: Packing, format_: str) -> None:
    """The folders on stdout; for a person also what stays behind, and how to check."""
    stays = {
        name: member.channels[Channel.DOWNLOAD]
        for name, member in packing.decision.members.items()
        if not member.channels[Channel.DOWNLOAD].open
    }
    if format_ == "json":
        import msgspec

        closed = {
            name: {"closed_by": each.closed_by, "because": each.because} for name, each in stays.items()
        }
        click.echo(msgspec.json.encode({"bundles": [str(path) for path in packing.paths], "closed": closed}))
        return
    for path in packing.paths:
        click.echo(f"{path}")
    for name, each in stays.items():
        click.echo(f"{name} stays: closed by {each.closed_by}, {each.because}", err=True)
    click.echo(f"check with: dutchdoor verify {packing.paths[0]}", err=True)
