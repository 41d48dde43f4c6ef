"""The bare loop: asyncio and aiohttp, 64 at a time, an exact match, a line of JSON an answer. Nothing that can fail is
handled: what it costs is the floor for whoever asks over aiohttp.

    python bare.py URL CASES.jsonl OUT.jsonl CONCURRENCY
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import TextIO

import aiohttp


async def main(url: str, rows: list[dict[str, str]], out: TextIO, concurrency: int) -> None:
    waiting = iter(rows)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def work() -> None:
            for row in waiting:
                body = {
                    "model": "bench",
                    "messages": [{"role": "user", "content": row["prompt"]}],
                    "max_tokens": 16,
                    "temperature": 0,
                }
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    answer = await response.json()
                text = answer["choices"][0]["message"]["content"]
                out.write(json.dumps({"id": row["id"], "correct": text.strip() == row["target"]}) + "\n")

        await asyncio.gather(*(work() for _ in range(concurrency)))


cases = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
with Path(sys.argv[3]).open("w") as file:
    asyncio.run(main(sys.argv[1], cases, file, int(sys.argv[4])))
