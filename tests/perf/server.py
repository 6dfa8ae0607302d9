"""A provider that costs as little as a server in Python can: one fixed answer after a fixed latency.

python tests/perf/server.py PORT LATENCY_SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from aiohttp import web

ANSWER = "The sum of the two numbers is 42. " * 8


def main() -> None:
    port, latency = int(sys.argv[1]), float(sys.argv[2])
    body = json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}},
            ],
            "usage": {"prompt_tokens": 12, "completion_tokens": 64, "total_tokens": 76},
        }
    ).encode()

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency)
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, print=lambda *_: None, access_log=None)


if __name__ == "__main__":
    main()
