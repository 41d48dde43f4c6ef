"""What a dead process left open is closed, and nothing of a living one is."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from dutchdoor.ledger import runs
from dutchdoor.ledger.bill import as_csv, as_text
from dutchdoor.ledger.database import is_url
from dutchdoor.ledger.store import Ledger
from tests.unit.ledger.ledgers import MONTH, admission, new_key, serving

SERVER = """
import asyncio, sys
from dutchdoor.ledger.store import Admission, Ledger
async def main():
    ledger = await Ledger.open(sys.argv[1])
    await ledger.begin()
    made = await ledger.create_key("a", budget=100)
    key = await ledger.find_key(made.key)
    await ledger.reserve(Admission(id="r", key=key, model="m", target="t", nanodollars=100))
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_what_a_killed_server_left_open_is_interrupted_and_charged_nothing(place) -> None:
    async with serving(place) as living:
        killed = subprocess.Popen([sys.executable, "-c", SERVER, str(place)], stdout=subprocess.PIPE)
        with killed, killed.stdout as said:
            assert said.readline() == b"ready\n"
            assert await living.close_dead_runs() == []  # it is alive: its requests are its own
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait(30)
        async with asyncio.timeout(30):  # PostgreSQL notices within moments that a session's process is gone
            while not (closed := await living.close_dead_runs()):
                await asyncio.sleep(0.05)
        assert closed == ["r"]
        assert await living.close_dead_runs() == []
        (key,) = await living.keys()
        bill = await living.bill(MONTH)
        assert [line.id for line in bill.interrupted] == ["r"] and not bill.lines
        assert bill.interrupted[0].reserved_nanodollars == 100 and bill.total_nanodollars == 0
        assert (await living.balance(key)).held == 0
        assert "interrupted, charged nothing: 1" in as_text(bill, {key.id: "a"})
        assert "interrupted" in as_csv(bill)
        (row,) = await living.read(lambda db: db.rows("SELECT price, nanodollars, target FROM usage"))
        assert row == {"price": None, "nanodollars": 0, "target": "t"}  # its price is unknown, and never 0


async def test_a_server_that_starts_leaves_the_requests_of_living_ones(place) -> None:
    async with await Ledger.open(place) as first:
        await first.begin()
        await first.reserve(admission(await new_key(first), 5, "r"))
        async with await Ledger.open(place) as second:
            assert await second.begin() == []
    async with await Ledger.open(place) as third:
        assert await third.begin() == ["r"]


def test_a_run_is_dead_when_nobody_holds_its_lock(tmp_path) -> None:
    run = runs.Run(tmp_path)
    assert not runs.is_dead(tmp_path, run.id)
    run.release()
    assert runs.is_dead(tmp_path, run.id)
    (tmp_path / "run_left").touch()
    assert runs.is_dead(tmp_path, "run_left")


def test_a_living_run_says_what_it_is_and_a_dead_one_is_swept_away(tmp_path) -> None:
    assert runs.living(tmp_path / "nowhere") == []
    run, silent = runs.Run(tmp_path), runs.Run(tmp_path)
    run.write(b"long text")
    run.write(b"short")
    (tmp_path / "run_left").touch()
    (tmp_path / "run_left.status").write_bytes(b"dead")
    assert runs.living(tmp_path) == [b"short"]
    runs.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {run.id, run.id + ".status", silent.id}
    run.release()
    silent.release()
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_swept_away_while_it_begins_claims_again(tmp_path, monkeypatch) -> None:
    """Between the making of its file and its lock it looks dead."""
    swept = []

    def flock(file: int, how: int) -> None:
        if not swept:
            swept.append(True)
            runs.sweep(tmp_path)
        real(file, how)

    real = fcntl.flock
    monkeypatch.setattr(runs.fcntl, "flock", flock)
    run = runs.Run(tmp_path)
    assert swept and not runs.is_dead(tmp_path, run.id)
    run.release()


async def test_a_data_folder_has_the_run_file_wherever_the_ledger_is(place, tmp_path) -> None:
    async with await Ledger.open_in(tmp_path, str(place) if is_url(place) else None) as ledger:
        await ledger.begin()
        ledger.run.write(b"{}")
        assert runs.living(tmp_path / "serving") == [b"{}"]
    assert runs.living(tmp_path / "serving") == []
    assert (tmp_path / "ledger.sqlite3").exists() == isinstance(place, Path)
