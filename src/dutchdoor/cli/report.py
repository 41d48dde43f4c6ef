"""`dutchdoor report`: a decision as one page that a reviewer can read."""

import asyncio
import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dutchdoor.cli.options import config_folder, data_folder, data_option, trust_option
from dutchdoor.core import BundleError, Exit, UsageError

if TYPE_CHECKING:
    from dutchdoor.evidence.signing_keys import PublicKey
    from dutchdoor.release.report import View

SUFFIXES = (".html", ".htm", ".md")


@click.command("report")
@click.argument(
    "source", metavar="FAMILY.yaml|BUNDLE", type=click.Path(path_type=Path), default=Path("family.yaml")
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="Where the page goes: .html or .md.",
)
@trust_option("A public key file to trust, besides your own and those in the trust folder.")
@data_option()
def command(source: Path, out: Path, trust: tuple[Path, ...], data: Path | None) -> int:
    """Write the report of a decision that a reviewer can read.

    From a manifest it decides from stored evidence as `decide` does; from a bundle it verifies and recomputes.
    The page needs no network. Exit codes: 0 written, 3 written and an intended channel can't be told, 10
    written and the bundle does not hold.

    Example: dutchdoor report examples/gable/family.yaml --out report.html
    """
    from dutchdoor.bundle.verify import looks_like_bundle
    from dutchdoor.evidence.signing_keys import trusted_keys
    from dutchdoor.release.report import from_bundle, html_page, markdown_page

    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: unknown kind of page", hint="name it .html or .md")
    trusted = trusted_keys(config_folder(), trust)
    today = datetime.datetime.now(datetime.UTC).date()
    if source.is_dir():
        if not looks_like_bundle(source):
            raise BundleError(
                f"{source} is no bundle", hint="name a family.yaml, or a folder that `pack` wrote"
            )
        view = asyncio.run(from_bundle(source, trusted, today))
    else:
        view = asyncio.run(_from_manifest(source, data, trusted, today))
    page = markdown_page(view) if out.suffix.lower() == ".md" else html_page(view)
    try:
        out.write_text(page, "utf-8")
    except OSError as error:
        raise BundleError(f"can't write {out}: {error.strerror}") from error
    click.echo(f"wrote {out}", err=True)
    return _code(view)


async def _from_manifest(
    manifest: Path, data: Path | None, trusted: "tuple[PublicKey, ...]", today: datetime.date
) -> "View":
    from dutchdoor.family.load import load_family
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.release.report import from_family

    loaded = load_family(manifest)
    return await from_family(loaded, load_policies(loaded), data_folder(manifest, data), trusted, today)


def _code(view: "View") -> Exit:
    from dutchdoor.policy.decide import unsettled

    states = [holds for holds, _ in view.checks]
    if False in states:
        return Exit.AGAINST
    return Exit.INCONCLUSIVE if unsettled(view.decision) or None in states else Exit.CLEAN
