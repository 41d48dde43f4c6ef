"""`dutchdoor bill`, `usage export` and `prices` on real ledgers of both kinds."""

import asyncio
import contextlib
import csv
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dutchdoor.ledger.keys import now
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.store import Admission, Ledger, Used
from tests.fakes.postgres import postgres  # noqa: F401 - a fixture
from tests.functional.server import dutchdoor

MONTH = now().strftime("%Y-%m")
PRICE = Price.per_million("0.4", "1.2", cached_input="0.1")
HELD = 10**6  # nano-dollars; what left came to more than it, and is charged as it
TOTAL = 60 * 400 + 40 * 100 + 10 * 1200 + HELD
EMPTY = {"month": "2020-01", "lines": [], "interrupted": [], "total_nanodollars": 0}


async def use(folder: Path, url: str | None) -> str:
    """A ledger in which one key made a request of each kind; the id of the key."""
    async with await Ledger.open_in(folder, url) as ledger:
        await ledger.begin()
        made = await ledger.create_key("=ann", team="red")
        (key,) = await ledger.keys()
        for number, used in enumerate(
            (
                Used(
                    target="t",
                    state="finished",
                    counted="reported",
                    price=PRICE,
                    input_tokens=100,
                    cached_tokens=40,
                    output_tokens=10,
                ),
                Used(target="u", state="finished", counted="reported", input_tokens=3),
                Used(target="t", state="left", counted="relayed", output_tokens=10**6, price=PRICE),
                Used(target="t", state="interrupted", counted="none"),
            )
        ):
            wanted = Admission(
                id=f"req_{number}", key=key, model="m", target="t", nanodollars=HELD, families=("gable",)
            )
            await ledger.reserve(wanted)
            await ledger.settle(wanted.id, used)
    return made.id


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str], str]:
    """A folder, an environment and a key with which commands find a ledger that was used."""
    url = request.getfixturevalue("postgres").url() if request.param == "postgresql" else None
    key = asyncio.run(use(tmp_path / ".dutchdoor", url))
    return tmp_path, dict(os.environ) | ({"DUTCHDOOR_LEDGER": url} if url else {}), key


def run(ledger: tuple[Path, dict[str, str], str], *arguments: str) -> str:
    done = dutchdoor(*arguments, cwd=ledger[0], env=ledger[1])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bill_in_all_its_forms(ledger: tuple[Path, dict[str, str], str]) -> None:
    bill = json.loads(run(ledger, "bill", "--format", "json"))
    assert bill["total_nanodollars"] == TOTAL
    assert [line["nanodollars"] for line in bill["lines"]] == [TOTAL, None]
    assert [alarm["id"] for alarm in bill["alarms"]] == ["req_2"]
    assert [each["id"] for each in bill["interrupted"]] == ["req_3"]
    table = list(csv.DictReader(io.StringIO(run(ledger, "bill", "--format", "csv"))))
    assert sum(int(row["nanodollars"] or 0) for row in table) == bill["total_nanodollars"]
    text = run(ledger, "bill")
    assert "=ann  m" in text and "1 requests at an unknown price" in text and "alarms: 1" in text


@pytest.mark.parametrize("by", ["key", "team", "family", "model", "target", "day"])
def test_a_bill_adds_up_however_it_is_broken_down(ledger: tuple[Path, dict[str, str], str], by: str) -> None:
    bill = json.loads(run(ledger, "bill", "--format", "json", "--by", by))
    assert bill["by"] == by and bill["total_nanodollars"] == TOTAL
    assert sum(line["nanodollars"] or 0 for line in bill["lines"]) == TOTAL


def test_a_bill_of_one_key_or_team(ledger: tuple[Path, dict[str, str], str]) -> None:
    whole = json.loads(run(ledger, "bill", "--format", "json"))
    assert json.loads(run(ledger, "bill", "--format", "json", "--key", "=ann")) == whole
    assert json.loads(run(ledger, "bill", "--format", "json", "--team", "red", "--key", ledger[2])) == whole
    assert not json.loads(run(ledger, "bill", "--format", "json", "--team", "blue"))["lines"]
    nobody = dutchdoor("bill", "--key", "bob", cwd=ledger[0], env=ledger[1])
    assert nobody.returncode == 1 and "no key 'bob'" in nobody.stderr
    assert json.loads(run(ledger, "bill", "--month", "2020-01", "--format", "json")) == EMPTY


def test_events_add_up_to_the_bill(ledger: tuple[Path, dict[str, str], str]) -> None:
    done = dutchdoor("usage", "export", "--month", MONTH, cwd=ledger[0], env=ledger[1])
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["id"] for event in events] == ["req_0", "req_1", "req_2", "req_3"]
    assert sum(event["data"]["nanodollars"] or 0 for event in events) == TOTAL
    assert events[0]["data"]["cached_tokens"] == 40 and events[0]["data"]["family"] == "gable"
    assert "4 events; go on with --since 20" in done.stderr


class Meter(http.server.BaseHTTPRequestHandler):
    """Takes batches, after refusing some for now."""

    busy = 0
    full = False
    taken: list[dict] = []
    tokens: list[str | None] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.tokens.append(self.headers["Authorization"])
        if self.full:
            self.send_response(400)
        elif self.busy:
            type(self).busy -= 1
            self.send_response(503)
            self.send_header("Retry-After", "0")
        else:
            self.taken.extend(json.loads(body))
            self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def meter(busy: int = 0, *, full: bool = False) -> Iterator[tuple[str, type[Meter]]]:
    handler = type("Fresh", (Meter,), {"busy": busy, "full": full, "taken": [], "tokens": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api/v1/events", handler
        server.shutdown()
        thread.join()


def test_events_are_posted_until_they_are_taken(ledger: tuple[Path, dict[str, str], str]) -> None:
    ledger[1]["DUTCHDOOR_EVENTS_TOKEN"] = "secret"
    with meter(busy=2) as (url, took):
        out = run(ledger, "usage", "export", "--to", url)
        assert out.startswith("4 events; go on with --since ") and len(took.taken) == 4
        assert took.tokens == ["Bearer secret"] * 3
        again = run(ledger, "usage", "export", "--to", url, "--since", out.split()[-1])
    assert len({event["id"] for event in took.taken}) == 4 and again.split()[0] in "01234"


def test_a_refusal_says_where_to_go_on(ledger: tuple[Path, dict[str, str], str]) -> None:
    with meter(full=True) as (url, _):
        done = dutchdoor("usage", "export", "--to", url, cwd=ledger[0], env=ledger[1])
    assert done.returncode == 1 and "refuses the events: 400" in done.stderr
    assert "0 events were taken; go on with --since 20" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("bill",), 1, "there is no ledger"),
        (("usage", "export"), 1, "there is no ledger"),
        (("bill", "--month", "november"), 2, "no month"),
        (("usage", "export", "--since", "noon"), 2, "no time"),
        (("usage", "export", "--month", "2026-11", "--since", "2026-11-01"), 2, "leave out --since"),
        (("usage", "export", "--to", "ftp://x"), 2, "no address of HTTP"),
        (("prices", "gpt-4o", "--provider", "nobody"), 2, "no provider"),
        (("prices", "gpt-4o", "--provider", "openai", "--url", "https://x.org"), 2, "give one of them"),
        (("prices", "gpt-4o", "--at", "noon"), 2, "no time"),
    ],
)
def test_what_cannot_be_meant_is_said(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = dutchdoor(*arguments, cwd=tmp_path)
    assert done.returncode == code and words in done.stderr + done.stdout and "Traceback" not in done.stderr
    assert not (tmp_path / ".dutchdoor").exists()  # reading makes no ledger


def test_prices_says_what_would_be_charged_and_by_which_book(tmp_path: Path) -> None:
    where = ("--url", "https://api.openai.com/v1")
    shown = json.loads(dutchdoor("prices", "gpt-4o", *where, "--format", "json", cwd=tmp_path).stdout)
    assert shown["price"]["input"] == 2_500_000 and shown["book"].startswith("genai-prices ")
    text = dutchdoor("prices", "gpt-5.5", *where, cwd=tmp_path).stdout
    assert "all, above 272,000 tokens of input" in text and "unknown for requests with: " in text
    timed = ("prices", "deepseek-v4-pro", "--provider", "deepseek", "--format", "json", "--at")
    day = json.loads(dutchdoor(*timed, "2026-11-24T12:00:00Z", cwd=tmp_path).stdout)
    dear = json.loads(dutchdoor(*timed, "2026-11-24T02:00:00Z", cwd=tmp_path).stdout)
    assert dear["price"]["input"] > day["price"]["input"] > 0 and len(day["entries"]) > 1


def test_an_unknown_price_is_said_and_is_never_0(tmp_path: Path) -> None:
    for model, where in (("gemma-3-27b-it", "google"), ("no-such-model", "openai")):
        done = dutchdoor("prices", model, "--provider", where, "--format", "json", cwd=tmp_path)
        assert done.returncode == 3
        shown = json.loads(done.stdout)
        assert shown["price"] is None and shown["because"]
