"""The way of a chat completion: auth → admit → route → contract → target → stream through → settle.

A reservation is durable before a target is asked, and what the request came to is durable before its
response is closed: the end marker of a stream and the body of a whole answer are sent only after that.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from dutchdoor.core import LedgerError
from dutchdoor.gateway import log
from dutchdoor.gateway.asgi import (
    ClientLeftError,
    Headers,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    respond,
    respond_error,
    start,
    until_gone,
)
from dutchdoor.gateway.errors import (
    ApiError,
    BrokenStreamError,
    TargetError,
    UnableError,
    over_budget,
    stopping,
    unknown_model,
    wrong_key,
)
from dutchdoor.gateway.routing import Route, worst_case
from dutchdoor.gateway.targets import BYTES_PER_TOKEN, Call, Stream, Target, Whole
from dutchdoor.gateway.unbooked import Unbooked
from dutchdoor.gateway.upstream import stream_error_event
from dutchdoor.gateway.wire import read_envelope
from dutchdoor.ledger.keys import Key
from dutchdoor.ledger.store import BudgetError, Counted, KeyRefusedError, Ledger, State, Used

EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx in front would otherwise hold the stream back
)

GOODBYE_S = 2.0  # how long the last words of a stream that is cut wait for a client that does not read

BROKE_OFF = stream_error_event("The answer broke off before its end.")


async def authenticate(scope: Scope, ledger: Ledger) -> Key:
    """The living key of `Authorization: Bearer …`; raises ApiError 401."""
    sent = header(scope, b"authorization") or b""
    scheme, _, secret = sent.partition(b" ")
    if scheme.lower() != b"bearer" or not secret:
        raise wrong_key()
    key = await ledger.find_key(secret.strip().decode("latin-1"))
    if key is None:
        raise wrong_key()
    return key


class Exchange:
    """One request from its headers to its settlement."""

    def __init__(
        self,
        ledger: Ledger,
        unbooked: Unbooked,
        routes: Mapping[str, Route],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.id = "req_" + secrets.token_hex(12)
        self._ledger = ledger
        self._unbooked = unbooked
        self._routes = routes
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = time.monotonic()
        self._started = False  # whether the client has got a status line
        self._cut = False  # whether the server stops before this answer has come to its end

    @property
    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", self.id.encode())]

    async def run(self) -> None:
        """Answer; whatever happens is told to the client in OpenAI's form and never raised."""
        try:
            key = await authenticate(self._scope, self._ledger)
            body = await read_body(self._scope, self._receive)
            call = Call(self.id, body, read_envelope(body), int(time.time()))
            await self._admit(key, call)
        except ApiError as error:
            log.write(log.requests, logging.INFO, "refused", id=self.id, status=error.status, code=error.code)
            await respond_error(self._send, error, self._headers)
        except ClientLeftError:
            log.write(log.requests, logging.INFO, "left", id=self.id)
        except LedgerError as error:  # fail closed: nothing is answered that cannot be booked
            log.write(log.faults, logging.ERROR, "ledger", id=self.id, message=error.message)
            if not self._started:
                await respond_error(self._send, _unavailable(), self._headers)

    async def _admit(self, key: Key, call: Call) -> None:
        route = self._routes.get(call.envelope.model)
        if route is None:
            raise unknown_model(call.envelope.model)
        targets = route.able(call, key)
        try:
            held = await self._ledger.reserve(
                self.id,
                key.id,
                model=route.model,
                target=targets[0].name,
                nanodollars=worst_case(targets, call),
            )
        except BudgetError as error:
            raise over_budget(f"You exceeded your budget: {error.message}.") from error
        except KeyRefusedError as error:  # revoked between the look-up and here
            raise wrong_key() from error
        log.write(log.faults, logging.DEBUG, "reserved", id=self.id, nanodollars=held.nanodollars)
        await self._watched(self._answer(call, targets))

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the answer, and cancel it when the client leaves or the server has waited long enough."""
        answering = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(until_gone(self._receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
        except asyncio.CancelledError:  # the client is still there: it is told, and charged what it has got
            self._cut = True
            answering.cancel()
        finally:
            leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        if self._cut and not self._started:
            raise stopping()

    async def _answer(self, call: Call, targets: list[Target]) -> None:
        settlement = Settlement(self._ledger, self._unbooked, call, targets[0])
        try:
            target, reply = await self._first(call, targets)
            settlement.target = target
            headers = [*self._headers, (b"x-dutchdoor-target", target.name.encode()), *reply.headers]
            if isinstance(reply, Whole):
                await settlement.whole(reply)
                self._started = True
                await respond(self._send, 200, reply.body, headers)
            else:
                await self._relay(reply, settlement, headers)
        finally:
            used = await settlement.close()
            if used is not None:
                self._log(call, used)

    async def _first(self, call: Call, targets: list[Target]) -> tuple[Target, Whole | Stream]:
        """The first target that answers; raises ApiError where none does."""
        failures: list[TargetError] = []
        for target in targets:
            try:
                return target, await target.answer(call)
            except TargetError as error:  # or it cannot do what is asked, and another one may
                failures.append(error)
                log.write(
                    log.faults, logging.WARNING, "target", id=self.id, target=target.name, message=str(error)
                )
            except ApiError:
                raise
            except Exception as error:  # noqa: BLE001 - a fault of an engine must not take the others with it
                failures.append(TargetError("a fault in the target"))
                log.faults.exception(
                    '{"event": "fault", "target": "%s", "type": "%s"}', target.name, type(error).__name__
                )
        raise _all_failed(failures)

    async def _relay(self, stream: Stream, settlement: "Settlement", headers: Headers) -> None:
        settlement.stream = stream
        try:
            self._started = True
            await start(self._send, 200, [*EVENTS, *headers])
            async for piece in stream.pieces():
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            settlement.state = "finished"
            end = stream.tail
        except asyncio.CancelledError:
            if not self._cut:  # the client has left
                raise
            settlement.state = "broken"
            end = BROKE_OFF
        except BrokenStreamError as error:
            settlement.state = "broken"
            log.write(
                log.faults,
                logging.WARNING,
                "broken",
                id=self.id,
                target=settlement.target.name,
                message=str(error),
            )
            end = BROKE_OFF
        except Exception:  # noqa: BLE001 - the edge: a fault of an engine, after its first byte
            settlement.state = "broken"
            log.faults.exception('{"event": "fault", "target": "%s"}', settlement.target.name)
            end = BROKE_OFF
        finally:
            await stream.close()
        try:
            await settlement.close()
        except LedgerError as error:  # an answer that is not booked has no end
            log.write(log.faults, logging.ERROR, "ledger", id=self.id, message=error.message)
            end = stream_error_event("The answer could not be booked.")
        last = {"type": "http.response.body", "body": end, "more_body": False}
        if not self._cut:
            await self._send(last)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._send(last)

    def _log(self, call: Call, used: Used) -> None:
        log.write(
            log.requests,
            logging.INFO,
            "request",
            id=self.id,
            model=call.envelope.model,
            target=used.target,
            state=used.state,
            stream=call.stream,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            ms=round((time.monotonic() - self._began) * 1000),
        )


class Settlement:
    """What a request came to, booked exactly once. Until a target has answered it came to nothing.

    What cannot be booked now is left to `unbooked`, and the LedgerError goes on.
    """

    def __init__(self, ledger: Ledger, unbooked: Unbooked, call: Call, target: Target) -> None:
        self.target = target
        self.stream: Stream | None = None
        self.state: State = "failed"
        self._ledger = ledger
        self._unbooked = unbooked
        self._call = call
        self._closed = False
        self._booked: Used | None = None

    async def whole(self, answer: Whole) -> None:
        """Book an answer in one piece."""
        if answer.usage is not None:
            tokens = (answer.usage.input_tokens, answer.usage.output_tokens)
            used = self._used("finished", "reported", *tokens)
        else:
            guess = -(-answer.said // BYTES_PER_TOKEN)
            used = self._used("finished", "relayed", self._call.input_guess, guess)
        # an answer that cannot be booked is not sent, so later it is charged nothing
        await self._book(used, later=self._used("failed", "none", 0, 0))

    async def close(self) -> Used | None:
        """Book whatever was delivered, if that was not tried yet; returns what was booked."""
        if self._closed:
            return self._booked
        if self.stream is None:
            used = self._used("failed", "none", 0, 0)
        else:
            state: State = "left" if self.state == "failed" else self.state
            usage = self.stream.usage
            if usage is not None:
                used = self._used(state, "reported", usage.input_tokens, usage.output_tokens)
            else:
                used = self._used(state, "relayed", self._call.input_guess, self.stream.relayed)
        await self._book(used, later=used)
        return self._booked

    def _used(self, state: State, counted: Counted, input_tokens: int, output_tokens: int) -> Used:
        return Used(
            target=self.target.name,
            state=state,
            counted=counted,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            price=self.target.price,
        )

    async def _book(self, used: Used, *, later: Used) -> None:
        self._closed = True
        self._booked = used
        try:
            settled = await self._ledger.settle(self._call.request, used)
        except asyncio.CancelledError:  # the write goes on; whether it failed is seen by settling again
            self._unbooked.add(self._call.request, later)
            raise
        except LedgerError:
            self._booked = None
            self._unbooked.add(self._call.request, later)
            raise
        if settled is not None and settled.alarm is not None:
            log.write(log.faults, logging.ERROR, "alarm", id=self._call.request, message=settled.alarm)


def _unavailable() -> ApiError:
    return ApiError(503, "The ledger cannot be written.", type="server_error", code="ledger_unavailable")


def _all_failed(failures: list[TargetError]) -> ApiError:
    """What a client is told when no target could answer: 400 where none can do what is asked, 429 where the
    others were busy, else the last one's status.
    """
    if all(isinstance(each, UnableError) for each in failures):
        refusal = failures[0]
        assert isinstance(refusal, UnableError)
        return refusal.refusal
    failures = [
        each for each in failures if not isinstance(each, UnableError)
    ]  # these may do it another time
    last = failures[-1]
    if all(each.status == 429 for each in failures):
        return ApiError(
            429,
            "All targets of this model are busy.",
            type="rate_limit_error",
            code="busy",
            headers=last.headers,
        )
    status = last.status if last.status != 429 else 503
    return ApiError(
        status, "No target of this model could answer.", type="server_error", code="no_target_answered"
    )
