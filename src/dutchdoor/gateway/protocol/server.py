"""A running gateway: a port, a moment when it is ready, and an end at which what is under way is finished."""

import asyncio
import errno
import socket
from email.utils import formatdate
from typing import Generic, Protocol, Self, TypeVar

from dutchdoor.core import DutchdoorError, EngineError
from dutchdoor.gateway.protocol.connection import Connection
from dutchdoor.gateway.protocol.request import Handler

DRAIN_S = 30.0  # how long answers under way have when the server is asked to stop
GOODBYE_S = 5.0  # and then to be told that they are cut, and booked
BACKLOG = 2048
SWEEP_S = 0.5  # how often silence is looked for


class Service(Handler, Protocol):
    """What a server serves, and starts and closes with itself."""

    draining: bool

    async def start(self) -> None: ...

    async def close(self) -> None: ...


S = TypeVar("S", bound=Service)


class GatewayServer(Generic[S]):
    """`base_url = await server.start()` … `await server.stop()`; port 0 takes a free one."""

    def __init__(
        self,
        app: S,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        listener: socket.socket | None = None,
        drain_s: float = DRAIN_S,
    ) -> None:
        """`listener` is a socket from `listen`, for who wants to know early whether the port is free."""
        self.app = app
        self.handler: Handler = app
        self.host = host
        self.port = port
        self.connections: set[Connection] = set()
        self.held = 0
        self.date = _date()
        self.finishing = False
        self._drain_s = drain_s
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._hurried = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def base_url(self) -> str:
        """Where OpenAI clients point: `http://host:port/v1`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - shown, not bound
        return f"http://{shown}:{self.port}/v1"

    async def start(self) -> str:
        """Listen and return the base URL when requests are answered; raises EngineError where that cannot
        be.
        """
        loop = asyncio.get_running_loop()
        listener = self._listener or listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        try:
            await self.app.start()
        except BaseException:
            listener.close()
            raise
        self._server = await loop.create_server(
            lambda: Connection(self, loop), sock=listener, backlog=BACKLOG
        )
        self._sweep()
        return self.base_url

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.date = _date()
        now = loop.time()
        for connection in list(self.connections):
            connection.look_at_the_clock(now)
        self._sweeping = loop.call_later(SWEEP_S, self._sweep)

    async def stop(self) -> None:
        """Take no more requests, finish those under way, close the gateway."""
        self.app.draining = True
        self.finishing = True
        if self._server is not None:
            self._server.close()
            self._server = None
            for connection in list(self.connections):
                connection.finish()
            await self._drain()
            await self._cut()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        await self.app.close()
        self._ended.set()

    async def _drain(self) -> None:
        """Wait until nothing is under way, for so long, or until it is hurried."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_s
        while any(not each.idle for each in self.connections) and not self._hurried.is_set():
            left = until - loop.time()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(self._hurried.wait(), min(0.02, left))
            except TimeoutError:
                continue

    async def _cut(self) -> None:
        tasks = [task for each in list(self.connections) if (task := each.cut()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=GOODBYE_S)
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.abort()

    def hurry(self) -> None:
        """Do not wait for answers under way any longer."""
        self._hurried.set()

    async def wait(self) -> None:
        """Return when the server has ended."""
        await self._ended.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _date() -> bytes:
    return b"date: " + formatdate(usegmt=True).encode() + b"\r\n"


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket; raises DutchdoorError that says what to do. `reuse_port`: several processes may
    listen on it, and the kernel spreads connections over them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    listener.setblocking(False)
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> DutchdoorError:
    if error.errno == errno.EADDRINUSE:
        return EngineError(
            f"port {port} on {host} is in use", hint=f"stop what listens there, or use --port {port + 1}"
        )
    if error.errno == errno.EACCES:
        return EngineError(f"port {port} may not be opened by this user", hint="use a port above 1023")
    reason = error.strerror or str(error)  # of a name that leads nowhere the number is none of `errno`
    return EngineError(f"{host}:{port} cannot be listened on: {reason}", hint="look at --host and --port")
