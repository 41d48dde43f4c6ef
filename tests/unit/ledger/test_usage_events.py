"""Usage events: each request once under its id, all of them however pages fall, sent until they are taken."""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import LedgerError, UsageError
from dutchdoor.ledger import ingest
from dutchdoor.ledger.events import Event, Place, instant, place_after, read_page, resume_from
from dutchdoor.ledger.ingest import Ingest
from dutchdoor.ledger.keys import stamp
from tests.fakes.postgres import postgres  # noqa: F401 - a fixture
from tests.unit.ledger.booked import Books, on_both  # noqa: F401 - a fixture

DAY = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
END = "2026-12-01T00:00:00.000000Z"


def at(seconds: float) -> str:
    return stamp(DAY + datetime.timedelta(seconds=seconds))


def walk(books: Books, since: str = "", until: str = END, size: int = 2) -> list[Event]:
    place, found = Place(time=since), []
    while page := read_page(books, place, until, size=size):
        assert len(page) <= size
        found += page
        place = place_after(page[-1])
    return found


def test_an_event_is_a_cloud_event(books: Books) -> None:
    books.book("req_1", team="red", input_tokens=7, cached_tokens=3, output_tokens=2, nanodollars=11)
    (event,) = walk(books)
    assert json.loads(msgspec.json.encode(event)) == {
        "specversion": "1.0",
        "id": "req_1",
        "source": "dutchdoor",
        "type": "prompt",
        "subject": "key_a",
        "time": "2026-11-24T08:00:00.000000Z",
        "datacontenttype": "application/json",
        "data": {
            "tokens": 9,
            "input_tokens": 7,
            "cached_tokens": 3,
            "written_tokens": 0,
            "output_tokens": 2,
            "nanodollars": 11,
            "model": "m",
            "target": "t",
            "team": "red",
            "family": None,
            "state": "finished",
            "counted": "reported",
        },
    }


def test_an_unknown_amount_is_null_and_never_0(books: Books) -> None:
    books.book("r", nanodollars=None)
    assert walk(books)[0].data.nanodollars is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), max_size=25), st.integers(1, 4), st.integers(0, 6), st.integers(0, 6))
def test_each_request_of_a_span_comes_once_however_the_pages_fall(
    books: Books, seconds: list[int], size: int, first: int, last: int
) -> None:
    books.clear().book_all([{"at": at(second)} for second in seconds])  # many at the same instant
    found = [event.id for event in walk(books, at(first), at(last), size)]
    assert sorted(found) == sorted(
        f"r{number:04}" for number, second in enumerate(seconds) if first <= second < last
    )


def test_paging_by_time_alone_would_lose_requests_of_one_instant(books: Books) -> None:  # the planted fault
    for number in range(5):
        books.book(f"r{number}")
    page = read_page(books, Place(), END, size=2)
    wrong = read_page(books, Place(time=page[-1].time, id="\U0010ffff"), END, size=9)
    assert len(wrong) == 0 and len(walk(books)) == 5


def test_a_large_ledger_is_read_in_small_pieces(books: Books) -> None:
    books.book_all([{"at": at(number)} for number in range(2500)])
    assert len(walk(books, size=1000)) == 2500 and books.queries == 4


def test_going_on_misses_nothing_that_is_booked_late(books: Books) -> None:
    moment = DAY + datetime.timedelta(hours=8)
    books.book("early", at=at(100))
    books.open("slow", at(50))  # admitted before, settled after the first export
    first = {event.id for event in walk(books)}
    resume = resume_from(books, moment)
    assert resume == at(50)
    books.book("slow", at=at(50))
    books.db.run("DELETE FROM reservations")
    assert first | {event.id for event in walk(books, resume)} == {"early", "slow"}
    assert "slow" not in {event.id for event in walk(books, at(100))}  # the planted fault: the last event
    assert resume_from(books, moment) == stamp(moment - datetime.timedelta(seconds=60))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-24", at(0)),
        ("2026-11-24T00:00:05Z", at(5)),
        ("2026-11-24T01:00:05.5+01:00", at(5.5)),
        (at(7), at(7)),
    ],
)
def test_a_time_is_read_as_the_ledger_writes_it(text: str, meant: str) -> None:
    assert instant(text) == meant


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-13-01", "2026-11-24T08:00", "", "0001-01-01T00:00+14:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        instant(text)


# -- sending


class Meter:
    """A server that takes batches as OpenMeter does, after whatever it is told to answer before."""

    def __init__(self) -> None:
        self.answers: list[web.Response | None] = []  # null: the connection is cut
        self.taken: dict[tuple[str, str], dict] = {}
        self.heads: list[tuple[str, str | None]] = []
        self.waits: list[float] = []
        self.url = ""

    async def ingest(self, request: web.Request) -> web.StreamResponse:
        self.heads.append((request.content_type, request.headers.get("Authorization")))
        answer = self.answers.pop(0) if self.answers else web.Response(status=204)
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if answer.status < 300:
            for event in await request.json():
                self.taken[event["source"], event["id"]] = event
        return answer

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
async def meter() -> AsyncIterator[Meter]:
    served = Meter()
    app = web.Application()
    app.router.add_post("/api/v1/events", served.ingest)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1/events"
    yield served
    await runner.cleanup()


async def send(meter: Meter, books: Books, token: str | None = None) -> None:
    async with Ingest(meter.url, token, sleep=meter.sleep) as opened:
        await opened.send(walk(books))


async def test_a_batch_is_sent_once_when_it_is_taken(meter: Meter, books: Books) -> None:
    books.book("r1", output_tokens=5)
    books.book("r2")
    await send(meter, books, "secret")
    assert meter.heads == [("application/cloudevents-batch+json", "Bearer secret")]
    assert meter.taken["dutchdoor", "r1"]["data"]["tokens"] == 5 and len(meter.taken) == 2
    await send(meter, books)
    assert len(meter.taken) == 2 and meter.heads[1][1] is None


async def test_what_may_pass_is_tried_again(meter: Meter, books: Books) -> None:
    books.book("r1")
    meter.answers = [
        web.Response(status=503),
        None,
        web.Response(status=429, headers={"Retry-After": "7"}),
        web.Response(status=429, headers={"Retry-After": "86400"}),
        web.Response(status=500, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    ]
    await send(meter, books)
    assert len(meter.taken) == 1 and len(meter.heads) == 6
    assert meter.waits[2:4] == [7.0, ingest.LONGEST_WAIT_S]
    assert 0.25 <= meter.waits[0] <= 0.5 <= meter.waits[1] <= 1.0


async def test_a_batch_that_is_never_taken_is_an_error(meter: Meter, books: Books) -> None:
    books.book("r1")
    meter.answers = [web.Response(status=503, text="full") for _ in range(20)]
    with pytest.raises(LedgerError, match="did not take the events: 503 full"):
        await send(meter, books)
    assert len(meter.heads) == ingest.ATTEMPTS and not meter.taken


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 413])
async def test_a_refusal_is_not_tried_again(meter: Meter, books: Books, status: int) -> None:
    books.book("r1")
    meter.answers = [web.Response(status=status, text="no", headers={"Location": meter.url})]
    with pytest.raises(LedgerError, match=f"refuses the events: {status}"):
        await send(meter, books, "secret")
    assert len(meter.heads) == 1


async def test_a_server_that_is_not_there_is_an_error(books: Books) -> None:
    books.book("r1")
    gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    meter = Meter()
    meter.url = f"http://127.0.0.1:{port}/"
    with pytest.raises(LedgerError, match="did not take"):
        await send(meter, books)


@pytest.mark.parametrize("url", ["ftp://x/", "openmeter.cloud", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Ingest(url)


def test_a_token_goes_over_no_open_line() -> None:
    with pytest.raises(UsageError, match="in the clear"):
        Ingest("http://openmeter.example.org/", "secret")
    Ingest("https://openmeter.example.org/", "secret")
    Ingest("http://openmeter.example.org/")
    Ingest("http://[::1]:8888/", "secret")
