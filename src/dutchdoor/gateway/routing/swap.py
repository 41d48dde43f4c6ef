"""Changing a routes file: one value of it is replaced, and whoever serves the file says when it has switched.

The new file is checked as a whole before it takes the old one's place, in one step. Two who set routes in one
folder wait for each other.
"""

import asyncio
import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from dutchdoor.core import DocumentError, DutchdoorError, EngineError, digest_bytes
from dutchdoor.gateway.routing import edit
from dutchdoor.gateway.routing.file import LoadedRoutes, load_routes
from dutchdoor.gateway.routing.status import serves, statuses

POLL_S = 0.05  # between two looks at what the workers say

To = Sequence[str] | Mapping[str, float]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A file's bytes before and after."""

    before: bytes
    after: bytes

    @property
    def digest(self) -> str:
        """Of the new bytes, as workers report it."""
        return digest_bytes(self.after)


class Swapped(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap came to. `workers` is how many processes serve the file, all of which have switched."""

    route: str
    to: tuple[str, ...]
    weights: tuple[float, ...] | None
    digest: str
    workers: int


def set_route(path: Path, name: str, to: To, *, new: bool = False) -> Change:
    """Give a route other targets, in order or by weight, and leave all the rest of the file as it is written.

    Only `new` makes a route that is not there yet. Waits for others who set a route in this folder. Raises
    DocumentError, and then the file is as it was.
    """
    with _locked(path):
        return _set(path, name, to, new)


def set_abilities(path: Path, can: Mapping[str, Mapping[str, bool | int]]) -> Change:
    """Give targets other abilities, by name, and leave all the rest of the file as it is written.

    Raises DocumentError, and then the file is as it was.
    """
    with _locked(path):
        loaded = load_routes(path)
        before = after = path.read_bytes()
        for name, row in can.items():
            if dict(row) != loaded.targets[name].can:
                after = _edited(after, path, ["targets", name, "can"], dict(row))

        def only_these(old: LoadedRoutes, new: LoadedRoutes) -> bool:
            replace = msgspec.structs.replace
            wanted = {
                name: replace(row, can=dict(can.get(name, row.can))) for name, row in old.targets.items()
            }
            return old.routes == new.routes and wanted == new.targets

        if after != before:
            _replace(path, after, check=only_these)
        return Change(before=before, after=after)


async def swap_route(
    path: Path, name: str, to: To, serving: Path, *, timeout_s: float = 10.0, new: bool = False
) -> Swapped:
    """As `set_route`, and returns when every process that serves the file has switched; `serving` is the
    folder of its run files.

    Raises EngineError where one of them cannot use the new file, which is then as it was; or where one has
    not answered in time, and then the new file stays.
    """
    async with _locked_soon(path, timeout_s):
        change = await asyncio.to_thread(_set, path, name, to, new)
        try:
            workers = await _switched(path, change.digest, serving, timeout_s)
        except RefusedError:
            _restore(path, change)
            raise
    plan = next(each for each in load_routes(path).routes if each.model == name)
    return Swapped(route=name, to=plan.to, weights=plan.weights, digest=change.digest, workers=workers)


class RefusedError(EngineError):
    """A worker cannot use the new file."""


def _set(path: Path, name: str, to: To, new: bool) -> Change:
    loaded = load_routes(path)
    known = [plan.model for plan in loaded.routes]
    if name not in known and not new:
        hint = f"routes: {', '.join(known)}; --new makes one that is not there yet"
        raise DocumentError(f"{path}: there is no route {name!r}", hint=hint)
    before = path.read_bytes()
    for each in to:
        if each not in loaded.targets:
            hint = f"targets: {', '.join(loaded.targets)}"
            raise DocumentError(f"{path}: there is no target {each!r}", hint=hint)
    value = dict(to) if isinstance(to, Mapping) else list(to)
    steps = ["routes", name, *(["to"] if name in loaded.long_forms else [])]
    after = _edited(before, path, steps, value)
    if after != before:

        def only_this(old: LoadedRoutes, new: LoadedRoutes) -> bool:
            others = [[each for each in both.routes if each.model != name] for both in (old, new)]
            return others[0] == others[1] and old.targets == new.targets

        _replace(path, after, check=only_this)
    return Change(before=before, after=after)


def _edited(data: bytes, path: Path, steps: Sequence[str], value: object) -> bytes:
    mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
    text = data.removeprefix(mark).decode("utf-8")
    return mark + edit.put(text, steps, value, name=str(path)).encode("utf-8")


def _replace(
    path: Path, data: bytes, *, check: Callable[[LoadedRoutes, LoadedRoutes], bool] | None = None
) -> None:
    """Put a file in another's place in one step, durable on return, with its mode. What cannot be read, or
    of which `check` does not hold, takes no place.
    """
    try:
        _put_in_place(path, data, check)
    except OSError as error:
        raise DocumentError(
            f"{path}: cannot be written: {error.strerror}",
            hint="the file is as it was; its folder must let files be made in it, and have room",
        ) from error


def _put_in_place(
    path: Path, data: bytes, check: Callable[[LoadedRoutes, LoadedRoutes], bool] | None
) -> None:
    real = path.resolve()  # a link stays a link
    handle, temporary = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}-")
    place = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), real.stat().st_mode & 0o7777)
            os.fsync(file.fileno())
        if check is not None:
            _checked(path, place, check)
        place.replace(real)
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    folder = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _restore(path: Path, change: Change) -> None:
    if path.read_bytes() == change.after:  # else somebody has written to it by hand since then
        _replace(path, change.before)


def _checked(path: Path, place: Path, check: Callable[[LoadedRoutes, LoadedRoutes], bool]) -> None:
    try:
        fresh = load_routes(place)
    except DocumentError as error:  # told of the file it is going to be
        raise DocumentError(error.message.replace(str(place), str(path)), hint=error.hint) from error
    if not check(load_routes(path), fresh):
        raise DocumentError(
            f"{path}: its form does not let one value be changed alone", hint="change it by hand"
        )


async def _switched(path: Path, digest: str, serving: Path, timeout_s: float) -> int:
    """Wait until all that serve the file have read these bytes; returns how many they are."""
    end = time.monotonic() + timeout_s
    while True:
        ours = [each for each in statuses(serving) if serves(each, path)]
        for each in ours:
            if each.digest == digest and each.error is not None:
                raise RefusedError(
                    f"process {each.pid} cannot use the new file: {each.error}", hint="the file is as it was"
                )
        ready = sum(each.digest == digest for each in ours)
        if ready == len(ours):
            return ready
        if time.monotonic() > end:
            raise EngineError(
                f"{ready} of {len(ours)} processes switched within {timeout_s:g} seconds",
                hint="the new file stays; the others switch when they can, or say in their log why not",
            )
        await asyncio.sleep(POLL_S)


def _open_folder(path: Path) -> int:
    try:
        return os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise DocumentError(f"{path}: there is no such file", hint="name it with --routes") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder of a file: a lock that needs no file of its own, and falls with its process."""
    folder = _open_folder(path)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextlib.asynccontextmanager
async def _locked_soon(path: Path, timeout_s: float) -> AsyncIterator[None]:
    end = time.monotonic() + timeout_s
    folder = _open_folder(path)
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DutchdoorError(
                        f"another command is changing {path}", hint="try again when it is through"
                    ) from None
                await asyncio.sleep(POLL_S)
        yield
    finally:
        os.close(folder)
