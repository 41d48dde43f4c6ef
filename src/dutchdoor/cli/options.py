"""Options that several commands share, and the places they stand for."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def data_option() -> Decorator:
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="DUTCHDOOR_DATA",
        show_envvar=True,
        help="Folder for evidence, cache, ledger and salts.  [default: .dutchdoor beside the manifest]",
    )


def ledger_option(name: str = "ledger") -> Decorator:
    """`--ledger`, which names a ledger in PostgreSQL."""
    return click.option(
        "--ledger",
        name,
        metavar="URL",
        envvar="DUTCHDOOR_LEDGER",
        show_envvar=True,
        help="The ledger, if it is in PostgreSQL: postgresql://USER@HOST/DATABASE.  [default: a file in --data]",
    )


def format_option(*formats: str) -> Decorator:
    return click.option(
        "--format",
        "format_",
        type=click.Choice(formats or ("text", "json")),
        default="text",
        show_default=True,
    )


def quiet_option() -> Decorator:
    return click.option("--quiet", is_flag=True, help="No progress on stderr.")


def trust_option(help: str) -> Decorator:
    """`--trust KEYFILE`, repeatable; `help` says what counts that is signed with it."""
    return click.option(
        "--trust", multiple=True, metavar="KEYFILE", type=click.Path(path_type=Path), help=help
    )


def data_folder(beside: Path | None, option: Path | None) -> Path:
    """Where private data lives: the option, else `.dutchdoor` beside the manifest or routes file, else here."""
    if option is not None:
        return option
    folder = Path() if beside is None else beside if beside.is_dir() else beside.parent
    return folder / ".dutchdoor"


def config_folder() -> Path:
    """Where the user's own keys and trusted keys live: `DUTCHDOOR_CONFIG`, else ~/.config/dutchdoor."""
    if named := os.environ.get("DUTCHDOOR_CONFIG"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "dutchdoor"


def progress_console(quiet: bool = False) -> Console:
    """A console on stderr that is silent when stderr is no terminal, or when asked to be."""
    return Console(stderr=True, quiet=quiet or not sys.stderr.isatty())


def data_console() -> Console:
    """A console on stdout for tables a person reads; plain when it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 120)
