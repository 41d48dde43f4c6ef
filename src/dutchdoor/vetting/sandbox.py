"""Runs code that a model wrote, apart from everything else.

A zygote process (`cell.py`, started with `python -I -S`, an empty environment and no inherited files) forks
one child per case; the child calls the function on the given arguments and sends the results back. Expected
results never enter the child: they are compared here, so nothing the code can send helps it unless it is
right.

What stands around a child: limits on processor time, address space, file size, open files and processes; a
wall-clock limit; and, on Linux (x86-64, arm64), a seccomp filter that allows only memory, clock and exit
calls and writing to the result pipe, so no file, network, process, signal or device is within reach.
Elsewhere an audit hook refuses the same in Python; that stops accidents and the ordinary, not somebody who
breaks out of the interpreter. `CodeSandbox.kernel_filter` says which one holds. It is no defence against
flaws in the kernel, and modules that the zygote has not loaded can't be imported by the code.
"""

import asyncio
import contextlib
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from dutchdoor.core import EngineError

CELL = Path(__file__).with_name("cell.py")
WALL_S = 2.0  # for all tests of one case together
CPU_S = 1
MEMORY_BYTES = 256 << 20
GRACE_S = 5.0  # beyond the wall limit: then the zygote itself is stuck
START_S = 20.0
ANSWER_BYTES = 4 << 20


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one call gave: a JSON value, or the name of what went wrong (an exception, `timeout`, `died`, …)."""

    value: Any = None
    error: str | None = None


class _Zygote:
    """One cell process: answers one request at a time."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.kernel_filter = False

    async def ask(self, request: dict[str, Any], deadline_s: float) -> Any:
        if self.process is None or self.process.returncode is not None:
            await self._start()
        return await asyncio.wait_for(self._exchange(request), deadline_s)

    async def _start(self) -> None:
        await self.stop()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(CELL),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={}, cwd="/", start_new_session=True,
        )  # fmt: skip
        hello = await asyncio.wait_for(self._receive(), START_S)
        self.kernel_filter = bool(hello["kernel_filter"])

    async def _exchange(self, request: dict[str, Any]) -> Any:
        assert self.process is not None and self.process.stdin is not None
        body = json.dumps(request).encode()
        self.process.stdin.write(struct.pack("<I", len(body)) + body)
        await self.process.stdin.drain()
        return await self._receive()

    async def _receive(self) -> Any:
        assert self.process is not None and self.process.stdout is not None
        (size,) = struct.unpack("<I", await self.process.stdout.readexactly(4))
        if size > ANSWER_BYTES:
            raise EngineError("the code sandbox answered out of form")
        return json.loads(await self.process.stdout.readexactly(size))

    async def stop(self) -> None:
        if self.process is None:
            return
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None


class CodeSandbox:
    """A few zygotes; `async with CodeSandbox() as sandbox: await sandbox.call(code, "f", [[1], [2]])`."""

    def __init__(
        self,
        *,
        workers: int = 2,
        wall_s: float = WALL_S,
        cpu_s: int = CPU_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`workers` cases run at once; `wall_s` and `cpu_s` (seconds) and `memory_bytes` bound one case."""
        self._limits = {"wall_s": wall_s, "cpu_s": cpu_s, "memory_bytes": memory_bytes}
        self._wall_s = wall_s
        self._zygotes = [_Zygote() for _ in range(workers)]
        self._free: asyncio.Queue[_Zygote] = asyncio.Queue()
        for zygote in self._zygotes:
            self._free.put_nowait(zygote)

    @property
    def kernel_filter(self) -> bool:
        """True if the kernel itself bounds what the code can call; known after the first case."""
        return any(zygote.kernel_filter for zygote in self._zygotes)

    async def __aenter__(self) -> "CodeSandbox":
        if sys.platform == "win32":
            raise EngineError("code can't be judged on Windows", hint="run vetting on Linux, macOS or in WSL")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(zygote.stop() for zygote in self._zygotes))

    async def call(self, code: str, function: str, calls: Sequence[Sequence[Any]]) -> tuple[CallResult, ...]:
        """What `function` of `code` gives for each list of arguments, one result a call.

        Whatever the code does is a result; EngineError is raised only if the sandbox itself broke, twice.
        """
        request = {"code": code, "function": function, "calls": [list(c) for c in calls], **self._limits}
        zygote = await self._free.get()
        try:
            for attempt in (1, 2):  # a zygote that died is started again once
                try:
                    answer = await zygote.ask(request, self._wall_s + GRACE_S)
                    break
                except (OSError, EOFError, TimeoutError, ValueError, KeyError, TypeError) as error:
                    await zygote.stop()
                    if attempt == 2:
                        raise EngineError(f"the code sandbox broke: {error!r}") from error
        except asyncio.CancelledError:
            await zygote.stop()  # its answer would be taken for that of the next case
            raise
        finally:
            self._free.put_nowait(zygote)
        return _results(answer, len(calls))


def _results(answer: Any, n: int) -> tuple[CallResult, ...]:
    """The child's answer as results; whatever is not of the form counts as an error of the code."""
    rows = answer.get("results")
    if answer.get("error") is None and isinstance(rows, list) and len(rows) == n:
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            return tuple(
                CallResult(error=str(row["error"])) if "error" in row else CallResult(value=row["value"])
                for row in rows
            )
    return tuple(CallResult(error=str(answer.get("error") or "out of form")) for _ in range(n))
