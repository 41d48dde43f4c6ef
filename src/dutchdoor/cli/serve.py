"""`dutchdoor serve`.

The keyed, metered API over what the evidence lets out, or over the targets of a routes file.
"""

import asyncio
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dutchdoor.cli.options import data_folder, data_option, ledger_option, quiet_option, trust_option
from dutchdoor.core import DocumentError, DutchdoorError, Exit

if TYPE_CHECKING:
    from dutchdoor.gateway.workers import Contact


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve; `port` is one that is free, or 0."""

    file: Path
    host: str
    port: int
    data: Path
    ledger: str | None = None
    workers: int = 1
    limits: str | None = None
    drain_s: float = 30.0
    threads: int | None = None
    trust: tuple[Path, ...] = ()
    open_metrics: bool = False
    quiet: bool = False
    numbers: Path | None = None  # where several workers keep what they counted


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
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    envvar="DUTCHDOOR_WORKERS",
    show_envvar=True,
    help="Processes that share the port; for targets that are URLs.",
)
@ledger_option()
@click.option(
    "--limits",
    metavar="WHERE",
    envvar="DUTCHDOOR_LIMITS",
    show_envvar=True,
    help="Where rate limits are counted: memory, host (by its workers together), or redis://HOST by several"
    " hosts.  [default: memory; host with workers]",
)
@click.option(
    "--drain-s",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    help="Seconds that answers under way have when it is asked to end.",
)
@click.option("--open-metrics", is_flag=True, help="Tell /metrics without an admin's key.")
@click.option("--threads", type=click.IntRange(1), help="Threads of each engine.  [default: all cores]")
@trust_option("A public key file whose evidence and bundles count, besides your own and the trust folder's.")
@data_option()
@quiet_option()
def command(**options: Any) -> int:
    """Serve the members whose API channel is open.

    FILE is a family.yaml (decided from stored evidence; measures nothing), a routes.yaml, or a LiteLLM
    config.yaml, of which it says what it does not take over. Needs keys: `dutchdoor keys create`. SIGHUP loads
    it again. Ends on Ctrl-C or SIGTERM, when the answers under way are finished. Exit code 3 when nothing may
    be served yet, 10 when the evidence is against all of it. Requests are logged to stderr as JSON lines,
    without prompts or keys.

    Example: dutchdoor serve examples/gable/family.yaml --port 8080
    """
    file: Path = options["file"]
    if not file.is_file():
        raise DocumentError(f"there is no file {file}", hint="name a family.yaml or a routes.yaml")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that could be loaded again
    _open_standard_files()
    options["data"] = data_folder(file, options["data"])
    settings = Settings(**options)
    if settings.workers > 1:
        return _supervise(settings)
    return run(_serve(settings, None))


def _open_standard_files() -> None:
    """Open what was closed of stdin, stdout and stderr: else the ledger's file or a socket would get its
    number, and what is printed would be written there.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


# -- several processes


def _supervise(settings: Settings) -> int:
    from dutchdoor.gateway.limits.opening import check_limits
    from dutchdoor.gateway.workers import Ready, Supervisor, numbers_folder, reserved_port
    from dutchdoor.ledger.store import SERVING

    check_limits(settings.limits, settings.workers)
    importlib.import_module("dutchdoor.cli.serving")  # once, before the workers are forked

    with (
        reserved_port(settings.host, settings.port) as port,
        numbers_folder(settings.data / SERVING) as numbers,
    ):
        settings = msgspec.structs.replace(settings, port=port, numbers=numbers)

        def announce(ready: Ready) -> None:
            _announce(ready.routes, ready.base_url, settings)

        return Supervisor(
            settings.workers, lambda contact: _work(settings, contact), announce, drain_s=settings.drain_s
        ).run()


def _work(settings: Settings, contact: "Contact") -> int:
    """One worker, from its fork to its end."""
    from dutchdoor.gateway.workers import Failed

    try:
        return run(_serve(settings, contact))
    except DutchdoorError as error:
        contact.say(Failed(message=error.message, hint=error.hint))
        return Exit.FAILED


# -- one process


async def _serve(settings: Settings, contact: "Contact | None") -> int:
    from dutchdoor.cli import serving
    from dutchdoor.gateway.workers import Ready

    opened = await serving.open_server(settings, contact)
    if isinstance(opened, int):
        return opened
    ending = Ending(opened, contact)
    base_url = await opened.start()
    if contact is not None:
        contact.say(Ready(routes=list(opened.gateway.routes), base_url=base_url))
    else:
        _announce(list(opened.gateway.routes), base_url, settings)
    await ending.wait()
    await opened.stop()
    return Exit.CLEAN


class Ending:
    """What asks a server to end: signals, and the end of the supervisor. Also the signal to load again."""

    def __init__(self, opened: Any, contact: "Contact | None") -> None:
        self._server = opened.server
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, opened.reloader.ask)
        if contact is None:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(each, self._ask_or_hurry)
            return
        loop.add_signal_handler(signal.SIGTERM, self._asked.set)
        loop.add_signal_handler(signal.SIGQUIT, self._hurry)
        loop.add_reader(contact.lifeline, self._orphaned, contact.lifeline)

    async def wait(self) -> None:
        """Return when it is asked to end, or has ended."""
        waits = [asyncio.ensure_future(each) for each in (self._asked.wait(), self._server.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    def _ask_or_hurry(self) -> None:
        if self._asked.is_set():
            self._server.hurry()
        self._asked.set()

    def _hurry(self) -> None:
        self._server.hurry()
        self._asked.set()

    def _orphaned(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self._asked.set()


def _announce(routes: Sequence[str], base_url: str, settings: Settings) -> None:
    click.echo(f"serving {', '.join(routes)} at {base_url}")
    click.echo(f"make a key:  {key_command(settings.data, settings.ledger)}")
    sys.stdout.flush()


def key_command(data: Path, ledger: str | None = None) -> str:
    """The command that makes a key for the server whose data lies here."""
    program = sys.argv[0] if os.sep in sys.argv[0] and not sys.argv[0].endswith(".py") else "dutchdoor"
    # a URL may hold a password, so the variable is named that the other commands read as well
    where = "" if ledger is None else ' --ledger "$DUTCHDOOR_LEDGER"'
    return f"{program} keys create --name NAME --data {shlex.quote(str(data.absolute()))}{where}"
