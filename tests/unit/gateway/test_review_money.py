"""Money that a client or an upstream could have taken past the reservation, the bill or a budget."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import LedgerError
from dutchdoor.gateway.call import TOKENS_PER_ATTACHMENT, Call
from dutchdoor.gateway.dialects.chat import ChatDialect
from dutchdoor.gateway.dialects.completions import CompletionsDialect
from dutchdoor.gateway.dialects.embeddings import EmbeddingsDialect
from dutchdoor.gateway.dialects.sse import EventStream, bytes_said, read_answer
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.gateway.tariff import price_for
from dutchdoor.ledger import Price
from dutchdoor.ledger.requests import Used
from tests.fakes.upstream import Reply, Upstream
from tests.unit.gateway.conftest import HELLO, PRICE, Opener, route


def shown(part: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}], **more}).encode()


def called(body: bytes) -> Call:
    return Call("r", ChatDialect().read(body), created=0)


def chunk(text: str | None = None, usage: tuple[int, int] | None = None, finish: str | None = None) -> bytes:
    body: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": text} if text else {}}]}
    body["choices"][0]["finish_reason"] = finish
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


# -- what is reserved


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {"type": "video_url", "video_url": {"url": "https://x.example/a.mp4"}},
        {"type": "audio_url", "audio_url": {"url": "https://x.example/a.wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
    ],
)
@pytest.mark.parametrize("written", ["plain", "escaped", "upper"])
def test_a_part_that_lies_outside_of_the_body_is_reserved_however_it_is_written(
    part: dict[str, Any], written: str
) -> None:
    body = shown(part)
    if written == "escaped":
        body = (
            body.replace(b"_url", b"\\u005furl")
            .replace(b"_id", b"\\u005fid")
            .replace(b"_data", b"\\u005Fdata")
        )
    if written == "upper":
        body = body.replace(b"_url", b"_URL").replace(b"_id", b"_ID").replace(b"_data", b"_DATA")
    assert called(body).input_bound >= TOKENS_PER_ATTACHMENT


@pytest.mark.parametrize(
    ("excludes", "more"),
    [
        ("service_tier=priority", {"service_tier": "priority"}),
        ("web_search", {"web_search_options": {}}),
        ("input_audio", {"x": {"type": "input_audio"}}),
    ],
)
def test_what_a_price_does_not_cover_cannot_be_hidden_in_escapes(excludes: str, more: dict[str, Any]) -> None:
    price = Price(input=1, output=1, excludes=(excludes,))
    body = msgspec.json.encode({**HELLO, **more})
    for hidden in (body, body.replace(b"priority", b"prior\\u0069ty").replace(b"_", b"\\u005f")):
        assert price_for(price, called(hidden)) is None
    assert price_for(price, called(msgspec.json.encode(HELLO))) == price


def test_best_of_multiplies_a_chat_too() -> None:
    asked = ChatDialect().read(msgspec.json.encode({**HELLO, "n": 2, "best_of": 5}))
    assert asked.choices == 5


@pytest.mark.parametrize(
    "more",
    [
        {"n_predict": 50_000},  # llama-server takes it before `max_tokens`
        {"models": ["dear"]},
        {"fallbacks": ["dear"]},
        {"chat_template": "{% for i in range(10**6) %}again {% endfor %}"},
        {"MAX_TOKENS": 50_000},  # Go's JSON takes names in any case, the last one counts
        {"max_to\u212aens": 50_000},
        {"Model": "dear"},
        {"N": 100},
        {"service_tier": "priority"},  # twice the price that is stated
        {"web_search_options": {}},
        {"modalities": ["text", "image"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
    ],
)
async def test_a_field_that_would_replace_what_is_reserved_is_refused_by_name(
    desk: Opener, more: dict[str, Any]
) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(**more) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == next(iter(more))
        assert not upstream.requests and not await d.rows()
    declared = dict.fromkeys(more, True)
    async with (
        Upstream() as upstream,
        desk(route(upstream, can=declared)) as d,
        d.ask(**more) as response,  # what is declared is taken, but for another spelling
    ):
        assert response.status == (200 if next(iter(more)).islower() else 400)


async def test_of_two_spellings_in_one_body_none_reaches_an_upstream(desk: Opener) -> None:
    body = b'{"model": "m", "prompt": "x", "max_tokens": 5, "MAX_TOKENS": 99999}'
    target = HttpTarget("t", "http://127.0.0.1:9/v1", "m", PRICE)
    with pytest.raises(Exception, match="MAX_TOKENS"):
        target.check(Call("r", CompletionsDialect().read(body), created=0))


def test_pictures_are_reserved_where_they_are_embedded() -> None:
    body = json.loads(
        shown({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}, input="x")
    )
    asked = EmbeddingsDialect().read(json.dumps(body).encode())
    assert Call("r", asked, created=0).input_bound >= TOKENS_PER_ATTACHMENT


# -- what is charged


def test_usage_that_is_told_early_and_never_again_does_not_hide_what_follows() -> None:
    events = EventStream(keep_usage=True)
    events.feed(chunk("hi", (7, 1)))
    assert events.usage is not None and (events.usage.input_tokens, events.usage.output_tokens) == (7, 1)
    for _ in range(100):
        events.feed(chunk(" word"))
    assert events.usage.output_tokens == 101
    events.feed(chunk(finish="stop") + chunk(usage=(7, 90)))
    assert events.usage.output_tokens == 90  # the last word is the upstream's


def test_zeros_are_no_count() -> None:
    events = EventStream(keep_usage=True)
    events.feed(chunk(" a", (0, 0)) + chunk(" b", (0, 0)))
    assert events.usage is None and events.relayed == 2
    events.feed(chunk(usage=(7, 2)))
    events.feed(chunk(usage=(0, 0)))
    assert events.usage is not None and events.usage.input_tokens == 7
    whole = b'{"choices": [{"message": {"content": "abcdefgh"}}], "usage": {"prompt_tokens": 0}}'
    assert read_answer(whole).usage is None and bytes_said(whole) == 8


@pytest.mark.parametrize("gap", ["", " "])
def test_a_delta_of_many_words_is_many_tokens(gap: str) -> None:
    piece = chunk('word "quoted" ' * 20).replace(b'":', b'":' + gap.encode())
    for sent in (piece, piece + piece):
        events = EventStream(keep_usage=True)
        events.feed(sent)
        assert events.relayed == pytest.approx(len('word \\"quoted\\" ') * 5 * sent.count(b"data:"), abs=2)


def test_text_beside_an_empty_message_is_counted() -> None:
    assert bytes_said(b'{"choices": [{"message": null, "text": "abcd"}]}') == 4


def test_tools_are_part_of_the_input_that_is_guessed() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 4000}}]
    assert called(msgspec.json.encode({**HELLO, "tools": tools})).input_guess > 1000


# -- budgets and bookings


async def test_a_teams_budget_is_not_passed_by_at_an_unknown_price(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream, price=None, unpriced=True), mixed(upstream)) as d:
        key = (await d.ledger.create_key("red", team="red")).key
        async with d.ask(key=key) as response:
            assert response.status == 200  # without a budget it may
        await d.ledger.set_budget("team:red", 10**9, "total")
        async with d.ask(key=key) as response:
            assert response.status == 403
            assert (await response.json())["error"]["code"] == "unpriced_target"
        async with d.ask(key=key, model="mixed") as response:  # the one whose price is known stands in
            assert response.status == 200 and response.headers["x-dutchdoor-target"] == "known"
        assert len(upstream.requests) == 2


def mixed(upstream: Upstream) -> Route:
    unknown = HttpTarget("unknown", upstream.url, "m", None)
    return Route(
        model="mixed", targets=(unknown, HttpTarget("known", upstream.url, "m", PRICE)), unpriced=True
    )


async def test_a_family_is_not_charged_for_what_an_outside_target_served(desk: Opener) -> None:
    async with Upstream(Reply(status=500)) as ill, Upstream() as well:
        member = HttpTarget("member", ill.url, "m", PRICE, family="gable")
        both = Route(model="m", targets=(member, HttpTarget("outside", well.url, "m", PRICE)), retries=0)
        async with desk(both) as d:
            await d.ledger.set_budget("family:gable", 10**9, "total")
            async with d.ask() as response:
                assert response.headers["x-dutchdoor-target"] == "outside"
            (row,) = await d.rows()
            ((_, balance),) = await d.ledger.budgets()
            assert row["family"] is None and row["nanodollars"] > 0 and row["alarm"] is None
            assert (balance.spent, balance.held) == (0, 0)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_nothing_is_answered_when_the_ledgers_file_is_gone(desk: Opener, how: str) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask() as response:
            assert response.status == 200
        file = Path(d.ledger.path)
        gone = file.rename(f"{file}.gone")
        if how == "replaced":
            file.touch()
        async with d.ask() as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "ledger_unavailable"
        assert len(upstream.requests) == 1
        gone.replace(file)  # and goes on when it is there again
        async with d.ask() as response:
            assert response.status == 200


async def test_one_that_cannot_be_booked_keeps_no_other_from_it(
    desk: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        settled: list[str] = []

        async def settle(request: str, used: Used) -> None:
            if request == "poison":
                raise LedgerError("no")
            settled.append(request)

        monkeypatch.setattr(d.ledger, "settle", settle)
        unbooked = d.server.app.unbooked
        for name in ("poison", "sound"):
            unbooked.add(name, Used(target="t", state="left", counted="none"))
        await unbooked.close()
        assert settled == ["sound"] and len(unbooked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_charged_while_the_server_ends_is_sent(
    desk: Opener, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        db = d.ledger._writer._db
        assert db is not None
        commit = db.commit
        settling = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow() -> None:
            loop.call_soon_threadsafe(settling.set)
            time.sleep(0.5)
            commit()

        async def ask() -> tuple[int, bytes]:
            async with d.ask(stream=stream) as response:
                return response.status, await response.read()

        def answer(_: Any) -> Reply:  # the reservation is made: the next commit is the settlement's
            monkeypatch.setattr(db, "commit", slow)
            return Reply()

        upstream.script = answer
        asking = asyncio.ensure_future(ask())
        await settling.wait()
        d.server.hurry()
        await d.server.stop()
        status, body = await asking
        assert status == 200 and (body.endswith(b"data: [DONE]\n\n") if stream else b"choices" in body)
        booked = sqlite3.connect(d.ledger.path)
        assert booked.execute("SELECT state, nanodollars > 0 FROM usage").fetchall() == [("finished", 1)]
        booked.close()
