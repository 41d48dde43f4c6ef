"""`dutchdoor signing-keys`: the key that signs for you, and the keys you trust."""

from pathlib import Path

import click
import msgspec

from dutchdoor.cli.options import config_folder, format_option
from dutchdoor.core import EvidenceError, Exit
from dutchdoor.evidence.signing_keys import (
    TRUST_FOLDER,
    PublicKey,
    own_key,
    own_public_key,
    read_public,
    trusted_keys,
)


class Shown(msgspec.Struct, frozen=True):
    """A key as `--format json` gives it."""

    key_id: str
    own: bool
    source: str


@click.group()
def command() -> None:
    """Show, export and trust the keys that sign.

    Keys live in ~/.config/dutchdoor (DUTCHDOOR_CONFIG names another folder): your own in signing-keys/, made
    on first use, and those you trust in trust/. API keys are another thing: see `dutchdoor keys`.

    Example: dutchdoor signing-keys export --out example-lab.pub
    """


@command.command()
@format_option()
def show(format_: str) -> None:
    """Show your own key's id; the key is made when there is none.

    Example: dutchdoor signing-keys show
    """
    key = own_key(config_folder()).public
    if format_ == "json":
        click.echo(msgspec.json.encode(Shown(key.key_id, True, key.source)))
        return
    click.echo(key.key_id)
    click.echo(f"kept in {key.source}", err=True)


@command.command()
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [default: stdout]"
)
def export(out: Path | None) -> None:
    """Write your public key as PEM, for those who are to trust you.

    Example: dutchdoor signing-keys export --out example-lab.pub
    """
    key = own_key(config_folder()).public
    if out is None:
        click.echo(key.pem(), nl=False)
        return
    try:
        out.write_bytes(key.pem())
    except OSError as error:
        raise EvidenceError(f"can't write {out}: {error.strerror}") from error
    click.echo(f"wrote {out}: tell people its id over another way, {key.key_id}", err=True)


@command.command()
@click.argument("keyfile", type=click.Path(path_type=Path))
def trust(keyfile: Path) -> None:
    """Trust a public key from now on. Compare its id with what the publisher says before you do.

    Example: dutchdoor signing-keys trust example-lab.pub
    """
    key = read_public(keyfile)
    path = _trust_file(key)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(key.pem())
    except OSError as error:
        raise EvidenceError(f"can't write {path}: {error.strerror}") from error
    click.echo(f"trusted: {key.key_id}")


@command.command("list")
@format_option()
def list_(format_: str) -> None:
    """List the keys whose signatures count.

    Example: dutchdoor signing-keys list --format json
    """
    own = own_public_key(config_folder())
    keys = [Shown(key.key_id, key == own, key.source) for key in trusted_keys(config_folder())]
    if format_ == "json":
        click.echo(msgspec.json.encode(keys))
        return
    for key in keys:
        click.echo(f"{key.key_id}  {'own' if key.own else 'trusted'}  {key.source}")
    if not keys:
        click.echo("no key yet: `dutchdoor signing-keys show` makes your own", err=True)


@command.command()
@click.argument("key")
def untrust(key: str) -> int:
    """Trust a key no longer, named by its id or by its file.

    Example: dutchdoor signing-keys untrust example-lab.pub
    """
    given = Path(key)
    wanted = read_public(given).key_id if given.is_file() else key
    found = [each for each in trusted_keys(config_folder()) if each.key_id == wanted]
    if not found:
        raise EvidenceError(f"no trusted key {wanted}", hint="`dutchdoor signing-keys list` shows them")
    path = _trust_file(found[0])
    removed = [
        each for each in (path, Path(found[0].source)) if each.parent.name == TRUST_FOLDER and each.exists()
    ]
    if not removed:
        raise EvidenceError(
            f"{wanted} is your own key", hint=f"move {found[0].source} away to sign with another"
        )
    for each in dict.fromkeys(removed):
        each.unlink()
    click.echo(f"no longer trusted: {wanted}")
    return Exit.CLEAN


def _trust_file(key: PublicKey) -> Path:
    return config_folder() / TRUST_FOLDER / (key.key_id.removeprefix("sha256:")[:16] + ".pub")
