"""`dutchdoor routes set` under load: no request fails, and after its return every answer is the new target's."""

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.upstream import Reply, Upstream
from tests.functional.server import PROGRAM, serving

CLIENTS = 32
SWAPS = (["b"], ["c", "a"], ["a=1", "c=0"], ["b"])
ROUTES = """\
kind: dutchdoor/routes@1
targets:
  a: {{url: "{a}", model: m, price: {{input: 1, output: 3}}}}
  b: {{url: "{b}", model: m, price: {{input: 1, output: 3}}}}
  c: {{url: "{c}", model: m, price: {{input: 1, output: 3}}}}
routes:
  m: [a]
"""


class Load:
    """Clients that ask without a pause, and what each of their requests came to: when it was sent, when its
    answer had come, and who answered.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}
        self.answered: list[tuple[float, float, str]] = []
        self.stopped = False

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0), headers=self.headers
        ) as http:
            await asyncio.gather(*(self.client(http, stream=bool(each % 2)) for each in range(CLIENTS)))

    async def client(self, http: aiohttp.ClientSession, *, stream: bool) -> None:
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        while not self.stopped:
            sent = time.monotonic()
            async with http.post(self.url + "/chat/completions", json=body) as response:
                data = await response.read()
            assert response.status == 200, data
            target = response.headers["x-dutchdoor-target"]
            if stream:
                assert data.endswith(b"data: [DONE]\n\n") and b'"error"' not in data
                assert f'"content": "{target}"'.encode() in data
            else:
                assert json.loads(data)["choices"][0]["message"]["content"] == f"{target} b c d"
            self.answered.append((sent, time.monotonic(), target))


@pytest.mark.parametrize("workers", [1, 2])
async def test_swaps_under_load_lose_nothing_and_hold_when_the_command_returns(
    tmp_path: Path, workers: int
) -> None:
    async with (
        Upstream(Reply(text="a b c d", pause_s=0.01)) as a,
        Upstream(Reply(text="b b c d", pause_s=0.01)) as b,
        Upstream(Reply(text="c b c d", pause_s=0.01)) as c,
    ):
        (tmp_path / "routes.yaml").write_text(ROUTES.format(a=a.url, b=b.url, c=c.url))
        opening = serving("routes.yaml", "--workers", str(workers), "--quiet", cwd=tmp_path)
        server = await asyncio.to_thread(opening.__enter__)
        try:
            load = Load(server.url, (await asyncio.to_thread(server.key, "--budget", "100"))["key"])
            running = asyncio.ensure_future(load.run())
            await asyncio.sleep(0.3)
            spans: list[tuple[float, float, str]] = []  # from the return of a command to the next one's start
            for to in SWAPS:
                command = [PROGRAM, "routes", "set", "m", *to, "--format", "json"]
                begun = time.monotonic()
                process = await asyncio.create_subprocess_exec(
                    *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
                )
                told, _ = await process.communicate()
                returned = time.monotonic()
                assert process.returncode == 0 and json.loads(told)["workers"] == workers
                assert returned - begun < 5
                await asyncio.sleep(0.25)
                spans.append((returned, time.monotonic(), to[0].partition("=")[0]))
                assert not running.done(), running.exception()
            load.stopped = True
            await running
            assert await asyncio.to_thread(server.stop) == 0
        finally:
            await asyncio.to_thread(opening.__exit__, None, None, None)
    for number, (since, until, target) in enumerate(spans):
        after = [who for sent, _, who in load.answered if since <= sent < until]
        assert len(after) > CLIENTS and set(after) == {target}, f"swap {number} to {target}"
    assert {who for _, _, who in load.answered} == {"a", "b", "c"}
    assert not any("fault" in line or "Traceback" in line for line in server.log)
