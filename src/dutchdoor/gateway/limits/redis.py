"""Rate limits that several hosts share, in Redis or Valkey: one script, one round trip for all that waits.

The server's clock counts, the seconds are those of `window`. While the server cannot be reached each process
counts alone: money is held by the ledger, so a limit that is too wide for a while is better than no answers.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence
from typing import Any
from urllib.parse import urlsplit

from dutchdoor.core import MissingExtraError, UsageError
from dutchdoor.gateway import log
from dutchdoor.gateway.limits.interface import Headers, LimitError, Standing
from dutchdoor.gateway.limits.memory import MemoryLimits
from dutchdoor.gateway.limits.window import SECONDS, WINDOW_S

PREFIX = "dutchdoor:limits:"
ANSWER_S = 0.5  # how long the server may take; a slower one is as good as gone
AGAIN_S = 1.0  # between two looks whether it is back
MOST = 256  # operations of one round trip
MOST_SEEN = 10_000  # keys whose last standing is kept for the headers
TAKE, GIVE = "1", "2"

# a hash for each key: second → "requests:tokens"; KEYS name the hashes, and ARGV holds four words for each:
# 1, rpm, tpm, tokens (-1: no limit), or 2, tokens, milliseconds ago, and nothing
SCRIPT = f"""
local clock = redis.call('TIME')
local second, now = tonumber(clock[1]), tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local answers = {{}}
local function again(used, counts, most)
  if most < 0 then return -1 end
  for each = second - {WINDOW_S}, second do
    used = used - (counts[each] or 0)
    if used <= most then return math.ceil((each + {SECONDS} - now) * 1000) end
  end
  return {WINDOW_S * 1000}
end
local function reset(counts)
  for each = second, second - {WINDOW_S}, -1 do
    if (counts[each] or 0) > 0 then return math.ceil((each + {SECONDS} - now) * 1000) end
  end
  return 0
end
for i, key in ipairs(KEYS) do
  local a = 4 * i - 3
  local requests, tokens, R, T = {{}}, {{}}, 0, 0
  local all = redis.call('HGETALL', key)
  for j = 1, #all, 2 do
    local at = tonumber(all[j])
    if at <= second - {SECONDS} or at > second + {SECONDS} then
      redis.call('HDEL', key, all[j])
    else
      local r, t = string.match(all[j + 1], '^(%d+):(%d+)$')
      at = math.min(at, second)
      requests[at] = (requests[at] or 0) + tonumber(r)
      tokens[at] = (tokens[at] or 0) + tonumber(t)
      R, T = R + tonumber(r), T + tonumber(t)
    end
  end
  local function write(at)
    redis.call('HSET', key, at, string.format('%.0f:%.0f', requests[at] or 0, tokens[at] or 0))
    redis.call('EXPIRE', key, {2 * SECONDS})
  end
  local told, wait = 0, 0
  if ARGV[a] == '{TAKE}' then
    local rpm, tpm, n = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
    if rpm >= 0 and R >= rpm then
      told, wait = 1, again(R, requests, rpm - 1)
    elseif tpm >= 0 and T + n > tpm then
      told, wait = 2, again(T, tokens, tpm - n)
    else
      requests[second] = (requests[second] or 0) + 1
      R = R + 1
      if tpm >= 0 then
        tokens[second] = (tokens[second] or 0) + n
        T = T + n
      end
      write(second)
    end
  else
    local n, first = tonumber(ARGV[a + 1]), math.floor(now - tonumber(ARGV[a + 2]) / 1000)
    for at = first, math.min(first + 1, second) do
      local back = math.min(n, tokens[at] or 0)
      if at > second - {SECONDS} and back > 0 then
        tokens[at], n, T = tokens[at] - back, n - back, T - back
        write(at)
      end
    end
  end
  answers[i] = {{told, wait, R, T, reset(requests), reset(tokens)}}
end
return answers
"""


class _Operation:
    """One count, and who waits for it."""

    __slots__ = ("key", "waiting", "words")

    def __init__(self, key: str, words: tuple[str, ...], waiting: "asyncio.Future[None] | None") -> None:
        self.key = key
        self.words = words
        self.waiting = waiting


class RedisLimits:
    """Exact over all hosts that share a server. `await open()` first."""

    def __init__(self, url: str) -> None:
        """Raises UsageError or MissingExtraError; whether anyone is there is seen by `open`."""
        self._where = urlsplit(url).hostname or urlsplit(url).path
        self._client, self._script = _client(url)
        self._alone = MemoryLimits()
        self._down = False
        self._waiting: list[_Operation] = []
        self._sending: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._seen: dict[str, Standing] = {}

    async def open(self) -> None:
        """Ask for a sign of life; without one each process counts alone until it comes."""
        try:
            await asyncio.wait_for(self._client.ping(), ANSWER_S)
        except Exception as error:  # noqa: BLE001 - whatever is wrong there must not stop the gateway
            self._lost(error)

    def take(self, key: str, rpm: int | None, tpm: int | None, tokens: int) -> Awaitable[None] | None:
        if rpm is None and tpm is None:
            return None
        if self._down:
            self._alone.take(key, rpm, tpm, tokens)
            return None
        waiting = asyncio.get_running_loop().create_future()
        self._put(_Operation(key, (TAKE, _word(rpm), _word(tpm), str(tokens)), waiting))
        return waiting

    def give_back(self, key: str, tokens: int, ago_s: float = 0.0) -> None:
        if self._down:
            self._alone.give_back(key, tokens, ago_s)
        elif tokens:
            self._put(_Operation(key, (GIVE, str(tokens), str(round(ago_s * 1000)), ""), None))

    def headers(self, key: str, rpm: int | None, tpm: int | None) -> Headers:
        """From the last answer, or where each counts alone from its own."""
        if rpm is None and tpm is None:
            return ()
        if self._down:
            return self._alone.headers(key, rpm, tpm)
        return self._seen.get(key, Standing()).headers(rpm, tpm)

    async def close(self) -> None:
        """Send what waits, and close the connection."""
        if self._sending is not None:
            await self._sending
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait({self._recovering})
        with contextlib.suppress(Exception):  # it may be broken, and is not needed any more
            await asyncio.wait_for(self._client.aclose(), ANSWER_S)

    # -- what waits

    def _put(self, operation: _Operation) -> None:
        self._waiting.append(operation)
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    answers = await asyncio.wait_for(self._ask(batch), ANSWER_S)
                except Exception as error:  # noqa: BLE001 - as in `open`
                    self._lost(error)
                    batch, self._waiting = batch + self._waiting, []
                    self._count_alone(batch)
                else:
                    self._deliver(batch, answers)
        finally:
            self._sending = None

    async def _ask(self, batch: Sequence[_Operation]) -> Any:
        keys = [PREFIX + each.key for each in batch]
        return await self._script(keys=keys, args=[word for each in batch for word in each.words])

    def _deliver(self, batch: Sequence[_Operation], answers: Sequence[Sequence[int]]) -> None:
        if len(self._seen) > MOST_SEEN:
            self._seen.clear()
        for each, (told, wait, requests, tokens, requests_reset, tokens_reset) in zip(
            batch, answers, strict=True
        ):
            self._seen[each.key] = Standing(
                requests=requests,
                tokens=tokens,
                requests_reset_s=requests_reset / 1000,
                tokens_reset_s=tokens_reset / 1000,
            )
            if each.waiting is None or each.waiting.done():
                continue
            if told == 0:
                each.waiting.set_result(None)
            else:
                which = "requests" if told == 1 else "tokens"
                seconds = float(WINDOW_S) if wait < 0 else wait / 1000
                each.waiting.set_exception(LimitError(which, seconds, never=wait < 0))

    # -- without the server

    def _count_alone(self, batch: Sequence[_Operation]) -> None:
        for each in batch:
            kind, *words = each.words
            if kind == GIVE or each.waiting is None or each.waiting.done():
                continue
            try:
                rpm, tpm, tokens = (int(word) for word in words)
                self._alone.take(each.key, None if rpm < 0 else rpm, None if tpm < 0 else tpm, tokens)
            except LimitError as error:
                each.waiting.set_exception(error)
            else:
                each.waiting.set_result(None)

    def _lost(self, error: Exception) -> None:
        if self._down:
            return
        self._down = True
        log.write(
            log.faults,
            logging.ERROR,
            "limits-alone",
            server=self._where,
            message="rate limits are counted by each process alone until the server answers",
            type=type(error).__name__,
        )
        self._recovering = asyncio.ensure_future(self._recover())

    async def _recover(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            with contextlib.suppress(Exception):  # it is still away
                await asyncio.wait_for(self._client.ping(), ANSWER_S)
                break
        self._down = False
        self._alone = MemoryLimits()
        log.write(log.faults, logging.WARNING, "limits-shared", server=self._where)


def _client(url: str) -> tuple[Any, Any]:
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise MissingExtraError("--limits with a URL", extra="scale") from error
    try:
        client = Redis.from_url(
            url,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 1),  # a connection that had been closed in the meantime
        )
    except ValueError as error:
        raise UsageError(
            "--limits is no URL of a server", hint="redis://HOST:6379/0, rediss://… or unix:///PATH"
        ) from error
    return client, client.register_script(SCRIPT)


def _word(limit: int | None) -> str:
    return "-1" if limit is None else str(limit)
