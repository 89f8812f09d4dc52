"""Asks a Prometheus for the value of an expression: one number, or why there is none.

Bounded in time and size, and never raises: a metric that cannot be had is an answer too. Which server is asked is the
operator's to say, not the file's: a controller fetches no address that an engineer made up.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import aiohttp
import msgspec

from controller.core.load import Answer

TIMEOUT_S = 5.0
"""A third of the usual evaluation period."""
ANSWER_LIMIT_BYTES = 64 * 1024
"""One value takes some hundred bytes; more is a range or a thousand series, which is no number."""


class Prometheus:
    """Of one address, e.g. `http://prometheus:9090`."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"
        self._timeout_s = timeout_s

    async def ask(self, expression: str) -> Answer:
        """The value of `expression` now."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._url, data={"query": expression}, allow_redirects=False) as response,
            ):
                return _read(response.status, await _limited(response.content))
        except TimeoutError:
            return Answer(problem=f"Prometheus did not answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(problem=f"Prometheus cannot be asked: {str(error) or type(error).__name__}")


async def no_prometheus(_expression: str) -> Answer:
    """Of a controller that was not told of any."""
    await asyncio.sleep(0)
    return Answer(problem="this controller knows no Prometheus (--prometheus)")


async def _limited(content: aiohttp.StreamReader) -> bytes:
    """All of it, and one byte more than is allowed when there is more."""
    body = b""
    async for chunk in content.iter_chunked(8192):
        body += chunk
        if len(body) > ANSWER_LIMIT_BYTES:
            break
    return body


def _read(status: int, body: bytes) -> Answer:
    if len(body) > ANSWER_LIMIT_BYTES:
        return Answer(problem=f"Prometheus answered more than {ANSWER_LIMIT_BYTES // 1024} KiB: ask for one number")
    try:
        told: Any = msgspec.json.decode(body)  # an open shape: what another program says
        if told["status"] != "success":
            return Answer(problem=f"Prometheus refuses the query: {str(told['error'])[:200]}")
        kind, result = told["data"]["resultType"], told["data"]["result"]
        if kind == "scalar":
            return _number(result[1])
        if kind != "vector" or len(result) != 1:
            found = f"{len(result)} series" if kind == "vector" else f"a {kind}"
            return Answer(problem=f"the query gives {found}: one number is wanted, e.g. sum(...)")
        return _number(result[0]["value"][1])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError):
        return Answer(problem=f"Prometheus answered with status {status} and nothing that can be read")


def _number(text: str) -> Answer:
    value = float(text)
    if math.isfinite(value):
        return Answer(value=value)
    return Answer(problem=f"the query gives {text}, which is no number")
