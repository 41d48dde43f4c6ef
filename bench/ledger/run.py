"""What reserving and settling one request costs the process, in µs of CPU, by the size of the group.

Durability is on. PostgreSQL is a server of its own in a temporary folder; its CPU is not counted, since it is
another process. Example: .venv/bin/python bench/ledger/run.py --requests 20000
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.postgres import running

from dutchdoor.ledger.keys import Key, new_request
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.store import Admission, Ledger, Used

SIZES = (1, 16, 64, 256)
PRICE = Price.per_million("0.5", "1.5")


async def one_group(ledger: Ledger, keys: list[Key], size: int) -> None:
    """Reserve a group at once, then settle it at once."""
    ids = [new_request() for _ in range(size)]
    reserving = [
        ledger.reserve(
            Admission(
                id=request,
                key=keys[number % len(keys)],
                model="assistant",
                target="local",
                nanodollars=2_000_000,
            )
        )
        for number, request in enumerate(ids)
    ]
    for each in reserving:
        await each
    used = Used(
        target="local", state="finished", counted="reported", input_tokens=500, output_tokens=200, price=PRICE
    )
    settling = [ledger.settle(request, used) for request in ids]
    for one in settling:
        await one


async def measure(
    place: Path | str, size: int, requests: int, owners: int, rounds: int
) -> tuple[float, float]:
    """Median of the rounds: µs of CPU and of wall clock a request."""
    async with await Ledger.open(place) as ledger:
        await ledger.begin()
        made = [await ledger.create_key(f"k{number}", budget=10**15) for number in range(owners)]
        keys = [found for each in made if (found := await ledger.find_key(each.key)) is not None]
        await one_group(ledger, keys, size)
        cpu, wall = [], []
        for _ in range(rounds):
            began, began_wall = time.process_time(), time.perf_counter()
            for _ in range(max(1, requests // size)):
                await one_group(ledger, keys, size)
            done = max(1, requests // size) * size
            cpu.append((time.process_time() - began) / done * 1e6)
            wall.append((time.perf_counter() - began_wall) / done * 1e6)
    return statistics.median(cpu), statistics.median(wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=8000, help="requests a round and size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args()
    print(f"{'':12}{'keys':>6}" + "".join(f"{f'group {size}':>24}" for size in SIZES))
    with tempfile.TemporaryDirectory() as folder, running() as server:
        for kind in ("sqlite", "postgresql"):
            for owners in (1, 64):
                cells = []
                for size in SIZES:
                    if options.only not in (None, kind):
                        continue
                    place = (
                        server.url() if kind == "postgresql" else Path(folder) / f"{owners}-{size}.sqlite3"
                    )
                    requests = min(options.requests, 300 * size)
                    cpu, wall = uvloop.run(measure(place, size, requests, owners, options.rounds))
                    cells.append(f"{f'{cpu:.1f} µs CPU {wall:.0f} wall':>24}")
                if cells:
                    print(f"{kind:12}{owners:>6}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
