"""`dutchdoor serve`.

The keyed, metered API over what the evidence lets out, or over the targets of a routes file.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dutchdoor.cli.options import config_folder, data_folder, data_option, progress_console, quiet_option
from dutchdoor.core import Channel, DocumentError, Exit

if TYPE_CHECKING:
    from dutchdoor.evidence.signing_keys import PublicKey
    from dutchdoor.family.load import LoadedFamily
    from dutchdoor.gateway.app import Gateway
    from dutchdoor.policy.decision import Decision


@click.command("serve")
@click.argument("file", type=click.Path(path_type=Path), default=Path("family.yaml"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    envvar="DUTCHDOOR_PORT",
    show_envvar=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of each engine.  [default: all cores]")
@click.option(
    "--trust",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A public key file whose evidence and bundles count, besides your own and the trust folder's.",
)
@data_option()
@quiet_option()
def command(
    file: Path,
    host: str,
    port: int,
    threads: int | None,
    trust: tuple[Path, ...],
    data: Path | None,
    quiet: bool,
) -> int:
    """Serve the members whose API channel is open.

    FILE is a family.yaml (decided from stored evidence; measures nothing) or a routes.yaml. Needs keys:
    `dutchdoor keys create`. Ends on Ctrl-C or SIGTERM, when the answers under way are finished. Exit code 3
    when nothing may be served yet, 10 when the evidence is against all of it. Requests are logged to stderr
    as JSON lines, without prompts or keys.

    Example: dutchdoor serve examples/gable/family.yaml --port 8080
    """
    if not file.is_file():
        raise DocumentError(f"there is no file {file}", hint="name a family.yaml or a routes.yaml")
    return run(_serve(file, host, port, threads, trust, data_folder(file, data), quiet))


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def _serve(
    file: Path, host: str, port: int, threads: int | None, trust: tuple[Path, ...], data: Path, quiet: bool
) -> int:
    from dutchdoor.evidence.signing_keys import trusted_keys
    from dutchdoor.family.document import kind_of
    from dutchdoor.gateway import log
    from dutchdoor.gateway.routing.build import build_from_routes
    from dutchdoor.gateway.routing.file import load_routes
    from dutchdoor.gateway.protocol.server import GatewayServer, listen
    from dutchdoor.ledger.store import Ledger

    trusted = trusted_keys(config_folder(), trust)
    console = progress_console(quiet)
    async with contextlib.AsyncExitStack() as undo:
        ledger = await Ledger.open_in(data)  # first: a folder that cannot be written is found out at once
        undo.push_async_callback(ledger.close)
        if (kind_of(file) or "").startswith("dutchdoor/routes@"):
            routes = load_routes(file)
            building = build_from_routes(routes, data, trusted, ledger=ledger, threads=threads)
        else:
            from dutchdoor.family.load import load_family
            from dutchdoor.gateway.routing.build import build_from_family
            from dutchdoor.gateway.routing.family import served_members

            family = load_family(file)
            decision = await _judge(family, data, trusted)
            if not served_members(family, decision):
                return _nothing(file, decision)
            building = build_from_family(family, decision, data, ledger=ledger, threads=threads)
        undo.callback(building.close)
        listener = undo.enter_context(listen(host, port))
        with console.status("loading the models"):
            gateway = await building
        undo.pop_all()  # from here on, the server and its gateway own them
    if not quiet:
        log.to_stderr()
    return await _until_signalled(GatewayServer(gateway, host, port, listener=listener), gateway, data)


async def _judge(family: "LoadedFamily", data: Path, trusted: Sequence["PublicKey"]) -> "Decision":
    """Decide, and say what is not served and why."""
    from dutchdoor.gateway.routing.family import decide_from_store

    judged = await decide_from_store(family, data, trusted)
    for warning in judged.warnings:
        click.echo(f"warning: {warning}", err=True)
    for member in family.family.members:
        channel = judged.decision.members[member.name].channels[Channel.API]
        if not channel.open:
            why = f": {channel.because}" if channel.because else ""
            click.echo(f"{member.name} is not served, closed by {channel.closed_by}{why}", err=True)
    return judged.decision


async def _until_signalled(server: Any, gateway: "Gateway", data: Path) -> int:
    from dutchdoor.gateway.targets.engine import engine_notes

    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, asked)
    await server.start()
    for note in engine_notes(gateway.targets):
        click.echo(f"note: {note}", err=True)
    click.echo(f"serving {', '.join(gateway.routes)} at {server.base_url}")
    click.echo(f"make a key:  {key_command(data)}")
    sys.stdout.flush()
    ended = asyncio.ensure_future(server.wait())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await server.stop()
    return Exit.CLEAN


def key_command(data: Path) -> str:
    """The command that makes a key for the server whose data lies here."""
    program = sys.argv[0] if os.sep in sys.argv[0] and not sys.argv[0].endswith(".py") else "dutchdoor"
    return f"{program} keys create --name NAME --data {shlex.quote(str(data.absolute()))}"


def _nothing(file: Path, decision: "Decision") -> int:
    closed = {member.channels[Channel.API].closed_by for member in decision.members.values()}
    unsettled = closed & {"inconclusive", "no-rule"}
    click.echo("error: nothing is served: no member's api channel is open", err=True)
    if "inconclusive" in closed:
        click.echo(f"\nhint: measure first: dutchdoor vet {shlex.quote(str(file))}", err=True)
    elif "no-rule" in closed:
        click.echo("\nhint: the policy needs a rule with `gates: api`", err=True)
    else:
        click.echo(f"\nhint: see why: dutchdoor decide {shlex.quote(str(file))}", err=True)
    return Exit.INCONCLUSIVE if unsettled else Exit.AGAINST
