"""What `dutchdoor serve` puts together in one process: routes, ledger, limits, observers, and a server."""

import contextlib
import gc
import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dutchdoor.cli.options import config_folder, progress_console
from dutchdoor.core import Channel, EngineError, Exit
from dutchdoor.evidence.signing_keys import PublicKey, trusted_keys
from dutchdoor.gateway import log
from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.limits.opening import open_limits
from dutchdoor.gateway.metrics import Gauges, Metrics, Share
from dutchdoor.gateway.operation import Operation
from dutchdoor.gateway.protocol.server import GatewayServer, listen
from dutchdoor.gateway.record import Observer
from dutchdoor.gateway.routing.file import LoadedRoutes, load_routes
from dutchdoor.gateway.routing.kinds import detect
from dutchdoor.gateway.routing.opening import Built, Opener, RoutesSource
from dutchdoor.gateway.routing.reload import Reloader, Source
from dutchdoor.gateway.traces import Traces, wanted
from dutchdoor.gateway.upkeep import Upkeep
from dutchdoor.ledger.store import SERVING, Ledger

if TYPE_CHECKING:
    from dutchdoor.cli.serve import Settings
    from dutchdoor.family.load import LoadedFamily
    from dutchdoor.gateway.workers import Contact
    from dutchdoor.policy.decision import Decision


COLLECT_AFTER = 50_000  # more objects than there were, until cycles are looked for


@dataclass(frozen=True)
class Offered:
    """What a file offers. `first` makes the routes to start with, where the source alone does not tell them;
    `swappable`: it is a routes file of ours.
    """

    source: Source
    first: Callable[[], Awaitable[Built]] | None = None
    swappable: bool = False


@dataclass
class OpenServer:
    """A server that is not listening yet, and all that lives and ends with it."""

    server: GatewayServer[Gateway]
    gateway: Gateway
    reloader: Reloader
    upkeep: Upkeep
    speaks: bool  # whether this process says what there is to say

    async def start(self) -> str:
        """Listen; returns the base URL. Raises DutchdoorError."""
        try:
            base_url = await self.server.start()
        except BaseException:
            await self.gateway.close()
            raise
        run = self.gateway.ledger.run
        self.reloader.start(self.gateway, report=None if run is None else run.write, base_url=base_url)
        self.upkeep.start()
        # A request makes no cycles of its own, so looking for them costs a fifth of what a request costs for
        # nothing; what leads to one, such as an error, is still found now and then.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 10, 10)
        if self.speaks:
            from dutchdoor.gateway.targets.engine import engine_notes

            for note in engine_notes(self.gateway.targets):
                click.echo(f"note: {note}", err=True)
        return base_url

    async def stop(self) -> None:
        """Finish what is under way, and close all of it."""
        await self.reloader.stop()
        await self.upkeep.stop()
        await self.server.stop()


async def open_server(settings: "Settings", contact: "Contact | None") -> "OpenServer | int":
    """All but listening; or an exit code, where nothing may be served. Raises DutchdoorError."""
    speaks = contact is None or contact.first
    async with contextlib.AsyncExitStack() as undo:
        # first: a folder that cannot be written is found out at once
        ledger = await Ledger.open_in(settings.data, settings.ledger)
        undo.push_async_callback(ledger.close)
        offered = await _offered(settings, speaks)
        if isinstance(offered, int):
            return offered
        listener = undo.enter_context(listen(settings.host, settings.port, reuse_port=contact is not None))
        limits = await open_limits(settings.limits, settings.data / SERVING, workers=settings.workers)
        undo.push_async_callback(limits.close)
        numbers = (
            None if settings.numbers is None or contact is None else Share(settings.numbers, contact.number)
        )
        metrics = Metrics(share=numbers)
        observers: list[Observer] = [metrics]
        if wanted():
            observers.append(Traces())
        reloader = Reloader(offered.source)
        with progress_console(settings.quiet or not speaks).status("loading the models"):
            built = await reloader.first(None if offered.first is None else offered.first())
        gateway = Gateway(ledger, built.routes.values(), limits=limits, observers=observers)
        undo.pop_all()  # from here on, the server and its gateway own them
    metrics.gauges = lambda: _gauges(gateway)
    gateway.operation = Operation(
        serving=settings.data / SERVING,
        reload=reloader.ask if contact is None else _Reload(contact, reloader),
        metrics=metrics.text,
        routes=settings.file if offered.swappable else None,
        open_metrics=settings.open_metrics,
    )
    if not settings.quiet:
        log.to_stderr()
    server = GatewayServer(gateway, settings.host, settings.port, listener=listener, drain_s=settings.drain_s)
    return OpenServer(server, gateway, reloader, Upkeep(ledger, metrics), speaks)


class _Reload:
    """Asks all workers, or this process alone where its supervisor is gone."""

    def __init__(self, contact: "Contact", reloader: Reloader) -> None:
        self._contact = contact
        self._reloader = reloader

    def __call__(self) -> None:
        if not self._contact.reload_all():
            self._reloader.ask()


def _gauges(gateway: Gateway) -> Gauges:
    return Gauges(
        in_flight=gateway.under_way,
        unbooked=len(gateway.unbooked),
        breakers={each.name: gateway.breaker_of(each).is_open for each in gateway.targets},
        commits=gateway.ledger.commits,
    )


# -- what is served


async def _offered(settings: "Settings", speaks: bool) -> Offered | int:
    """What the file offers; an exit code where nothing of it may be served."""
    trusted = trusted_keys(config_folder(), settings.trust)
    opener = Opener(settings.data, trusted, settings.threads)
    kind = detect(settings.file)
    if kind == "routes":
        read = _reader(settings)
        return Offered(RoutesSource(settings.file, opener, read=read), swappable=True)
    if kind == "litellm":
        from dutchdoor.gateway.routing.litellm import load_litellm, read_litellm

        found = load_litellm(settings.file)
        if speaks:
            for each in found.left_out:
                click.echo(f"note: not taken over: {each.where}: {each.why}", err=True)
            for place in found.open_keys:
                click.echo(f"note: a key stands in the file, at {place}; a variable is its place", err=True)
        return Offered(RoutesSource(settings.file, opener, read=read_litellm))
    return await _family(settings, opener, trusted, speaks)


def _reader(settings: "Settings") -> Callable[[Path], LoadedRoutes]:
    """Reads a routes file, and refuses one whose engines each worker would have to itself."""
    if settings.workers == 1:
        return load_routes

    def read(path: Path) -> LoadedRoutes:
        loaded = load_routes(path)
        _refuse_engines(
            [name for name, row in loaded.targets.items() if not (row.url or row.provider)], settings
        )
        return loaded

    return read


async def _family(
    settings: "Settings", opener: Opener, trusted: Sequence[PublicKey], speaks: bool
) -> Offered | int:
    from dutchdoor.family.load import load_family
    from dutchdoor.gateway.routing.family import FamilySource, served_members

    family = load_family(settings.file)
    decision = await _judge(family, settings.data, trusted, speaks)
    members = served_members(family, decision)
    if not members:
        return _nothing(settings.file, decision, speaks)
    _refuse_engines([each.name for each in members if each.serve.target is None], settings)
    source = FamilySource(settings.file, opener)
    return Offered(source, first=lambda: source.build_from(family, decision))


async def _judge(
    family: "LoadedFamily", data: Path, trusted: Sequence[PublicKey], speaks: bool
) -> "Decision":
    """Decide, and say what is not served and why."""
    from dutchdoor.gateway.routing.family import decide_from_store

    judged = await decide_from_store(family, data, trusted)
    if not speaks:
        return judged.decision
    for warning in judged.warnings:
        click.echo(f"warning: {warning}", err=True)
    for member in family.family.members:
        channel = judged.decision.members[member.name].channels[Channel.API]
        if not channel.open:
            why = f": {channel.because}" if channel.because else ""
            click.echo(f"{member.name} is not served, closed by {channel.closed_by}{why}", err=True)
    return judged.decision


def _refuse_engines(names: Sequence[str], settings: "Settings") -> None:
    if names and settings.workers > 1:
        raise EngineError(
            f"with --workers {settings.workers} each process would load the weights of {', '.join(names)} for itself",
            hint="use one worker, or serve the weights elsewhere (llama-server, vLLM) and name that server's url",
        )


def _nothing(file: Path, decision: "Decision", speaks: bool) -> int:
    closed = {member.channels[Channel.API].closed_by for member in decision.members.values()}
    unsettled = closed & {"inconclusive", "no-rule"}
    if speaks:
        click.echo("error: nothing is served: no member's api channel is open", err=True)
        if "inconclusive" in closed:
            click.echo(f"\nhint: measure first: dutchdoor vet {shlex.quote(str(file))}", err=True)
        elif "no-rule" in closed:
            click.echo("\nhint: the policy needs a rule with `gates: api`", err=True)
        else:
            click.echo(f"\nhint: see why: dutchdoor decide {shlex.quote(str(file))}", err=True)
    return Exit.INCONCLUSIVE if unsettled else Exit.AGAINST
