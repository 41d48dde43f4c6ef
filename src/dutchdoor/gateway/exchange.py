"""The way of a request: auth → admit → route → contract → target → stream through → settle.

A reservation is durable before a target is asked, and what the request came to is durable before its
response is closed: the end marker of a stream and the body of a whole answer are sent only after that.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from dutchdoor.core import LedgerError
from dutchdoor.gateway import log
from dutchdoor.gateway.asking import Asking
from dutchdoor.gateway.call import Call
from dutchdoor.gateway.dialects.interface import Dialect
from dutchdoor.gateway.dialects.reading import text_of
from dutchdoor.gateway.errors import (
    ApiError,
    BrokenStreamError,
    over_budget,
    stopping,
    unknown_model,
    wrong_key,
)
from dutchdoor.gateway.limits.interface import LimitError
from dutchdoor.gateway.protocol.request import JSON, Request, Responder
from dutchdoor.gateway.record import Done, Refused
from dutchdoor.gateway.routing.route import Offer, Route, unpriced_target, worst_case
from dutchdoor.gateway.settlement import Settlement
from dutchdoor.gateway.targets.interface import Stream, Whole
from dutchdoor.gateway.translation import Translation
from dutchdoor.ledger.keys import Key, new_request
from dutchdoor.ledger.requests import Admission, BudgetError, KeyRefusedError, UnpricedError, Used

if TYPE_CHECKING:
    from dutchdoor.gateway.app import Gateway

EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx in front would otherwise hold the stream back
)
BROKE_OFF = "The answer broke off before its end."
DEADLINE_S = 900.0  # a request may take so long in all, where its route says nothing


class Exchange:
    """One request from its headers to its settlement."""

    def __init__(self, gateway: "Gateway", dialect: Dialect, request: Request, responder: Responder) -> None:
        self.id = new_request()
        self._gateway = gateway
        self._dialect = dialect
        self._request = request
        self._responder = responder
        self._at = time.time()
        self._began = time.monotonic()
        self._key: Key | None = None
        self._call: Call | None = None
        self._reserved_tokens = 0  # of the key's tokens a minute
        self._admitted_s = 0.0
        self._first_s: float | None = None
        self._tries = 0

    async def run(self) -> None:
        """Answer; whatever happens is told to the client in its dialect and never raised, but for the
        cancellation that says that it has left.
        """
        try:
            secret = secret_of(self._request)
            self._key = self._gateway.ledger.cached_key(secret) or await self._look_up(secret)
            call = self._read()
            await self._admit(self._key, call)
        except ApiError as error:
            self._refuse(error)
        except LedgerError as error:  # fail closed: nothing is answered that cannot be booked
            log.write(log.faults, logging.ERROR, "ledger", id=self.id, message=error.message)
            self._refuse(_unavailable())
        except asyncio.CancelledError:
            if not self._responder.cut:
                if self._call is None:
                    log.write(log.requests, logging.INFO, "left", id=self.id)
                raise
            self._refuse(stopping())
        except Exception:  # noqa: BLE001 - the edge: a fault of ours
            log.faults.exception('{"event": "fault", "id": "%s"}', self.id)
            self._refuse(ApiError(500, "A fault in the gateway.", type="server_error", code="fault"))

    @property
    def _ids(self) -> tuple[tuple[bytes, bytes], ...]:
        id_ = self.id.encode()
        return ((b"x-request-id", id_), (b"request-id", id_))  # OpenAI's name and Anthropic's

    @property
    def _traceparent(self) -> str | None:
        sent = self._request.header(b"traceparent")
        return None if sent is None else sent.decode("latin-1")

    @property
    def _standing(self) -> tuple[tuple[bytes, bytes], ...]:
        """What a key with limits is told of them."""
        key = self._key
        if key is None or (key.rpm is None and key.tpm is None):
            return ()
        return self._gateway.limits.headers(key.id, key.rpm, key.tpm)

    # -- auth

    async def _look_up(self, secret: str) -> Key:
        key = await self._gateway.ledger.find_key(secret)
        if key is None:
            raise wrong_key()
        return key

    def _read(self) -> Call:
        asked = self._dialect.read(text_of(self._request.body))
        self._call = Call(self.id, asked, created=int(self._at))
        return self._call

    # -- admit

    async def _admit(self, key: Key, call: Call) -> None:
        generation = self._gateway.enter()
        try:
            route = generation.routes.get(call.asked.model)
            if route is None:
                raise unknown_model(call.asked.model)
            call.deadline = self._began + (route.deadline_s or DEADLINE_S)
            offers = route.able(call, key)
            if key.rpm is not None or key.tpm is not None:
                await self._limit(key, call)
            offers = await self._reserve(key, call, route, offers)
            self._admitted_s = time.monotonic() - self._began
            asking = Asking(self._gateway, call, route, generation.tries[route.model])
            await self._answer(call, asking, offers)
        finally:
            self._gateway.leave(generation)

    async def _limit(self, key: Key, call: Call) -> None:
        if key.tpm is not None:
            self._reserved_tokens = call.input_guess + call.cap * call.asked.choices
        try:
            waiting = self._gateway.limits.take(key.id, key.rpm, key.tpm, self._reserved_tokens)
            if waiting is not None:
                await waiting
        except LimitError as error:
            self._reserved_tokens = 0
            raise error.answer() from None

    async def _reserve(self, key: Key, call: Call, route: Route, offers: list[Offer]) -> list[Offer]:
        """Hold the worst case of the targets that may be asked, and return these: where a budget is held
        against the request, of which the ledger knows more than the key, only those whose price is known.
        """
        try:
            await self._hold(key, call, route, offers)
        except UnpricedError:
            priced = [offer for offer in offers if offer.price is not None]
            if not priced:
                self._give_back(key, self._reserved_tokens)
                raise unpriced_target(route.model) from None
            await self._hold(key, call, route, priced)
            return priced
        return offers

    async def _hold(self, key: Key, call: Call, route: Route, offers: list[Offer]) -> None:
        first, price = offers[0]
        admission = Admission(
            id=self.id,
            key=key,
            model=route.model,
            target=first.name,
            nanodollars=worst_case(offers, call),
            families=tuple({each.family: None for each, _ in offers if each.family is not None}),
            unpriced=any(each is None for _, each in offers),
        )
        try:
            await self._gateway.ledger.reserve(admission)
        except UnpricedError:
            raise
        except BudgetError as error:
            self._give_back(key, self._reserved_tokens)
            raise over_budget(f"You exceeded your budget: {error.message}.") from error
        except KeyRefusedError as error:  # revoked or rotated since it was last read
            raise wrong_key() from error
        except asyncio.CancelledError:  # the reservation may have been made: it is closed after it
            nothing = Used(target=first.name, state="failed", counted="none", price=price)
            self._gateway.unbooked.add(self.id, nothing)
            raise

    def _give_back(self, key: Key, tokens: int) -> None:
        """Tokens of the key's minute that were counted and not used."""
        if self._reserved_tokens and tokens > 0:
            self._gateway.limits.give_back(key.id, tokens, time.monotonic() - self._began)
        self._reserved_tokens = 0

    # -- answer

    async def _answer(self, call: Call, asking: Asking, offers: list[Offer]) -> None:
        gateway, responder = self._gateway, self._responder
        settlement = Settlement(gateway.ledger, gateway.unbooked, call, offers[0])
        try:
            try:
                settlement.offer, reply = await asking.first(offers)
            finally:
                self._tries = asking.tries
            headers = [
                *self._ids,
                (b"x-dutchdoor-target", settlement.offer.target.name.encode()),
                *reply.headers,
                *self._standing,
            ]
            if isinstance(reply, Whole):
                body = self._dialect.answer(call, reply.body)
                try:
                    await settlement.whole(reply)
                except asyncio.CancelledError:
                    if not responder.cut:
                        raise
                    await settlement.again()  # the server stops, but what is charged is sent
                self._first_s = time.monotonic() - self._began
                responder.send(200, body, [JSON, *headers])
            else:
                await self._relay(call, asking, reply, settlement, headers)
        finally:
            used = await settlement.close()
            if used is not None:
                self._done(call, used, settlement)

    async def _relay(
        self,
        call: Call,
        asking: Asking,
        stream: Stream,
        settlement: Settlement,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        responder, dialect = self._responder, self._dialect
        settlement.stream = stream
        translator = dialect.translator(call)
        tell = dialect.broken if translator is None else translator.broken
        end: bytes | None = None
        try:
            self._first_s = time.monotonic() - self._began
            responder.start(200, (*EVENTS, *headers))
            await stream.relay(responder if translator is None else Translation(responder, translator))
            settlement.state = "finished"
            end = stream.tail
            asking.ended(well=True)
        except asyncio.CancelledError:
            if not responder.cut:  # the client has left
                await stream.last_words()
                raise
            settlement.state, end = "broken", tell(BROKE_OFF)
        except BrokenStreamError as error:
            settlement.state, end = "broken", tell(BROKE_OFF)
            asking.ended(well=False)
            log.write(
                log.faults,
                logging.WARNING,
                "broken",
                id=self.id,
                target=settlement.offer.target.name,
                message=str(error),
            )
        except Exception:  # noqa: BLE001 - the edge: a fault of an engine, after its first byte
            settlement.state, end = "broken", tell(BROKE_OFF)
            asking.ended(well=False)
            log.faults.exception('{"event": "fault", "target": "%s"}', settlement.offer.target.name)
        finally:
            await stream.close()
        try:
            try:
                used = await settlement.close()
            except asyncio.CancelledError:
                if not responder.cut:
                    raise
                await settlement.again()
                used = settlement.booked
            if translator is not None and used is not None and settlement.state == "finished":
                end = translator.end(used)
        except LedgerError as error:  # an answer that is not booked has no end
            log.write(log.faults, logging.ERROR, "ledger", id=self.id, message=error.message)
            end = tell("The answer could not be booked.")
        responder.end(end)

    # -- what is told

    def _refuse(self, error: ApiError) -> None:
        responder = self._responder
        if responder.ended or responder.left:
            return
        if responder.started:  # a stream that is under way is ended by whoever began it
            responder.end()
            return
        headers = [JSON, *self._ids, *error.headers, *self._standing]
        responder.send(error.status, self._dialect.error(error), headers)
        call, key = self._call, self._key
        refused = Refused(
            id=self.id,
            dialect=self._dialect.path,
            model=None if call is None else call.asked.model,
            key=None if key is None else key.id,
            status=error.status,
            code=error.code,
            traceparent=self._traceparent,
            at=self._at,
            total_s=time.monotonic() - self._began,
        )
        for observer in self._gateway.observers:
            observer.refused(refused)

    def _done(self, call: Call, used: Used, settlement: Settlement) -> None:
        assert self._key is not None
        settled = settlement.settled
        self._give_back(self._key, self._reserved_tokens - used.input_tokens - used.output_tokens)
        done = Done(
            id=self.id,
            key=self._key.id,
            dialect=self._dialect.path,
            model=call.asked.model,
            target=used.target,
            state=used.state,
            counted=used.counted,
            stream=call.asked.stream,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cached_tokens=used.cached_tokens,
            nanodollars=None if settled is None else settled.nanodollars,
            alarm=None if settled is None else settled.alarm,
            tries=self._tries,
            traceparent=self._traceparent,
            at=self._at,
            admitted_s=self._admitted_s,
            first_s=self._first_s,
            total_s=time.monotonic() - self._began,
        )
        for observer in self._gateway.observers:
            observer.done(done)


def secret_of(request: Request) -> str:
    """The key of `Authorization: Bearer …` or `x-api-key: …`; raises ApiError 401."""
    sent = request.header(b"authorization")
    if sent is not None:
        scheme, _, secret = sent.partition(b" ")
        if scheme.lower() != b"bearer":
            raise wrong_key()
    else:
        secret = request.header(b"x-api-key") or b""
    secret = secret.strip()
    if not secret:
        raise wrong_key()
    return secret.decode("latin-1")


def _unavailable() -> ApiError:
    return ApiError(503, "The ledger cannot be written.", type="server_error", code="ledger_unavailable")
