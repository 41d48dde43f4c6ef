"""A running gateway: a port, a moment when it is ready, and an end at which what is under way is finished."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Self

import uvicorn

from dutchdoor.core import DutchdoorError, EngineError
from dutchdoor.gateway.app import Gateway

DRAIN_S = 30  # how long answers under way have when the server is asked to stop
BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: who starts the server decides what a signal means."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class GatewayServer:
    """`base_url = await server.start()` … `await server.stop()`; port 0 takes a free one."""

    def __init__(
        self,
        app: Gateway,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        listener: socket.socket | None = None,
        drain_s: int = DRAIN_S,
    ) -> None:
        """`listener` is a socket from `listen`, for who wants to know early whether the port is free."""
        self.app = app
        self.host = host
        self.port = port
        self._listener = listener
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            http="httptools",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=drain_s,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

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
        listener = self._listener or listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                listener.close()
                await self._task
                raise EngineError("the gateway did not start", hint="its log says why")
            await asyncio.sleep(0.005)
        return self.base_url

    async def stop(self) -> None:
        """Take no more requests, finish those under way, close the gateway."""
        self.app.draining = True
        self._server.should_exit = True
        if self._task is not None:
            await self._task
            self._task = None
            await self._close_app()

    async def _close_app(self) -> None:
        """Close the gateway where uvicorn did not, which skips that when it is hurried: engines leave folders
        and processes behind otherwise.
        """
        if self.app.closed:
            return
        for task in list(self._server.server_state.tasks):
            task.cancel()
        await self._server.lifespan.shutdown()
        await self.app.close()

    def hurry(self) -> None:
        """Do not wait for answers under way any longer."""
        self._server.force_exit = True

    async def wait(self) -> None:
        """Return when the server has ended."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises DutchdoorError that says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    reason = os.strerror(error.errno) if error.errno else str(error)
    return EngineError(f"{host}:{port} cannot be listened on: {reason}", hint="look at --host and --port")
