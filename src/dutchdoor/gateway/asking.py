"""Targets asked one after the other until one answers, and once more where that may help.

The next target is asked as long as the client has got no byte. A target is asked again only if it surely has
not done the work, as often as the route's budget of tries allows, and not before it said that it may be.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from dutchdoor.gateway import log
from dutchdoor.gateway.call import Call
from dutchdoor.gateway.errors import ApiError, TargetError, UnableError
from dutchdoor.gateway.record import Tried
from dutchdoor.gateway.routing.route import Offer, Route
from dutchdoor.gateway.targets.health import Breaker, Tries, pause_s
from dutchdoor.gateway.targets.interface import Stream, Target, Whole

if TYPE_CHECKING:
    from dutchdoor.gateway.app import Gateway

RETRIES = 2  # further rounds, where a route says nothing
FAULTY = 500  # a target that fails with this status or more is not well; a busy one (429) is


class Asking:
    """The tries of one call. `tries` counts them."""

    def __init__(self, gateway: "Gateway", call: Call, route: Route, budget: Tries) -> None:
        self._gateway = gateway
        self._call = call
        self._route = route
        self._budget = budget
        self._faulty: set[Target] = set()  # that have failed this request
        self._streaming: Breaker | None = None  # of the target whose stream is under way
        self.tries = 0

    async def first(self, offers: list[Offer]) -> tuple[Offer, Whole | Stream]:
        """The first target that answers; raises ApiError where none does."""
        self._budget.asked()
        rounds = RETRIES if self._route.retries is None else self._route.retries
        failures: dict[Target, TargetError] = {}
        left = offers
        for number in range(rounds + 1):
            for offer in left:
                try:
                    return offer, await self._ask(offer.target)
                except TargetError as error:
                    failures[offer.target] = error
            left = [each for each in offers if failures[each.target].again]
            pause = self._pause(number, list(failures.values()))
            if number == rounds or pause is None or not self._budget.take():
                break
            await asyncio.sleep(pause)
        raise _all_failed([failures[each.target] for each in offers])

    def _pause(self, number: int, failures: list[TargetError]) -> float | None:
        """Seconds before the next round, at the earliest one that some target asks for; null: there is
        none.
        """
        pauses = [pause_s(number, each.retry_after_s) for each in failures if each.again]
        shortest = min((each for each in pauses if each is not None), default=None)
        return shortest if shortest is not None and shortest < self._call.left_s else None

    async def _ask(self, target: Target) -> Whole | Stream:
        breaker = self._gateway.breaker_of(target)
        now = time.monotonic()
        trial = breaker.is_open
        if not breaker.allows(now):
            after = b"%d" % max(1, round(breaker.left_s(now)))
            raise TargetError("it is left out for now", status=503, headers=((b"retry-after", after),))
        self.tries += 1
        try:
            answer = await target.answer(self._call)
        except TargetError as error:  # or it cannot do what is asked, and another one may
            self._failed(target, breaker, error, now, trial)
            raise
        except (ApiError, asyncio.CancelledError) as error:
            if trial:
                breaker.gave_up()
            if isinstance(error, ApiError):
                self._tell(target, "refused", error.status, now)
            raise
        except Exception as error:
            log.faults.exception(
                '{"event": "fault", "target": "%s", "type": "%s"}', target.name, type(error).__name__
            )
            fault = TargetError("a fault in the target")  # of an engine: must not take the others with it
            self._failed(target, breaker, fault, now, trial)
            raise fault from error
        if trial or isinstance(answer, Whole):
            breaker.succeeded()
        else:
            self._streaming = breaker
        self._tell(target, None, 200, now)
        return answer

    def ended(self, *, well: bool) -> None:
        """The stream has come to its end, or broke off: a target that only begins streams is not well."""
        breaker, self._streaming = self._streaming, None
        if breaker is None:
            return
        if well:
            breaker.succeeded()
        else:
            breaker.failed(time.monotonic(), trial=False)

    def _failed(
        self, target: Target, breaker: Breaker, error: TargetError, began: float, trial: bool
    ) -> None:
        # one request counts once, however often it tries: else one that always fails would shut the target
        # out for everyone
        if not isinstance(error, UnableError) and error.status >= FAULTY and target not in self._faulty:
            self._faulty.add(target)
            breaker.failed(time.monotonic(), trial=trial)
        elif trial:
            breaker.gave_up()
        self._tell(target, str(error), error.status, began)
        log.write(
            log.faults,
            logging.WARNING,
            "target",
            id=self._call.request,
            target=target.name,
            message=str(error),
        )

    def _tell(self, target: Target, failure: str | None, status: int, began: float) -> None:
        tried = Tried(
            id=self._call.request,
            target=target.name,
            failure=failure,
            status=status,
            total_s=time.monotonic() - began,
        )
        for observer in self._gateway.observers:
            observer.tried(tried)


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
        status,
        "No target of this model could answer.",
        type="server_error",
        code="no_target_answered",
        headers=last.headers,
    )
