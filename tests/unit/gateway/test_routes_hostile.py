"""Routes files that are no files, names that are no names, and folders that cannot be written."""

import asyncio
import fcntl
import os
import resource
import signal
from pathlib import Path

import pytest

from dutchdoor.core import DocumentError, EngineError, LedgerError
from dutchdoor.gateway.protocol.server import listen
from dutchdoor.gateway.routing.file import load_routes
from dutchdoor.gateway.routing.opening import Opener, RoutesSource
from dutchdoor.gateway.routing.reload import Reloader
from dutchdoor.gateway.routing.swap import set_route
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.gateway.workers import NUMBERS, numbers_folder
from dutchdoor.ledger.store import Ledger

ROUTES = """\
kind: dutchdoor/routes@1
targets:
  a: {url: "http://127.0.0.1:1/v1", model: m}
  b: {url: "http://127.0.0.1:2/v1", model: n}
routes:
  r: [a]
"""


class Swaps:
    """Takes routes and remembers how often."""

    def __init__(self) -> None:
        self.swaps = 0

    def swap(self, *_: object) -> None:
        self.swaps += 1


@pytest.mark.parametrize("name", [r'"a\r\nx-evil: 1"', r'"\0"', '""', "a" * 201])
@pytest.mark.parametrize("where", ["  a: {url", "  r: ["])
def test_a_name_that_could_end_a_header_is_none(tmp_path: Path, name: str, where: str) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES.replace(where, where.replace("a:", f"{name}:").replace("r:", f"{name}:")))
    with pytest.raises(DocumentError, match="is no name") as caught:
        load_routes(path)
    assert caught.value.hint


async def test_a_pipe_in_the_files_place_stops_nothing(tmp_path: Path) -> None:
    path, gateway = tmp_path / "routes.yaml", Swaps()
    path.write_text(ROUTES)
    reloader = Reloader(RoutesSource(path, Opener(tmp_path)), poll_s=0.01)
    built = await reloader.first()
    told: list[bytes] = []
    reloader.start(gateway, report=told.append)
    path.unlink()
    os.mkfifo(path)
    await asyncio.sleep(0.05)
    reloader.ask()
    await asyncio.sleep(0.05)
    assert b"it is no file" in told[-1] and not gateway.swaps
    path.unlink()
    path.write_text(ROUTES)
    async with asyncio.timeout(5):
        while not gateway.swaps:
            await asyncio.sleep(0.02)
    await reloader.stop()
    for route in built.routes.values():
        for target in route.targets:
            await target.close()


def test_a_full_disk_is_said_and_the_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(DocumentError, match="cannot be written") as caught:
            set_route(path, "r", ["b"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "as it was" in (caught.value.hint or "")
    assert path.read_text() == ROUTES and [each.name for each in tmp_path.iterdir()] == ["routes.yaml"]


def test_a_folder_of_numbers_that_another_start_took_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    lock = fcntl.flock

    def late(file: int, how: int) -> None:
        if not taken:  # between the making of the folder and its lock
            (folder,) = tmp_path.glob(NUMBERS + "*")
            folder.rmdir()
            taken.append(folder)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with numbers_folder(tmp_path) as folder:
        assert taken and folder.is_dir() and folder not in taken
    assert not list(tmp_path.iterdir())


async def test_a_ledger_url_that_is_none_makes_no_file_with_the_password_in_its_name(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="none of PostgreSQL") as caught:
        await Ledger.open_in(tmp_path, "postgres//u:secret@h/x")
    assert "secret" not in f"{caught.value.message} {caught.value.hint}" and not list(tmp_path.iterdir())


def test_a_host_that_is_none_is_said_in_words() -> None:
    with pytest.raises(EngineError) as caught:
        listen("nosuch.invalid", 0)
    assert "Unknown error" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "http://h:99999/v1",
        "http://[::1/v1",
        "http://h\r\nx: y/v1",
        "http://h/v1 x",
        "http://h☃/v1",
        "ftp://h/v1",
    ],
)
def test_a_target_whose_url_is_none_is_said_in_words(url: str) -> None:
    with pytest.raises(EngineError, match="no URL") as caught:
        HttpTarget("t", url, "m", None)
    assert caught.value.hint


@pytest.mark.parametrize("key", ["secret\n", "sec☃ret", "secret\r\nx: y"])
def test_a_key_that_no_header_can_hold_is_said_and_not_shown(key: str) -> None:
    with pytest.raises(EngineError, match="no header can hold") as caught:
        HttpTarget("t", "http://h/v1", "m", None, key=key)
    assert "sec" not in caught.value.message.replace("character", "")
