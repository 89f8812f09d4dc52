"""Versions of a job that must never take over, each bad in a way of its own, and a registry that knows no image."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

WELL = "mkdir -p /tmp/w; echo one > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"
ANSWERS = '["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1/"]'
REPLICAS = 2


class BadVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from the good version, and what must be said of it."""

    name: str
    script: str = WELL
    image: str = ""
    test: str = ANSWERS
    monitor: str = "0s"
    """How long a new task is watched: longer than it pretends to be well. It serves nothing while it does."""
    said: tuple[str, ...]


def bad_versions(registry: str) -> tuple[BadVersion, ...]:
    return (
        BadVersion(
            name="gone", image=f"{registry}/gone:2", said=(f"{registry}/gone:2", "manifest unknown", "web.1 rejected")
        ),
        BadVersion(
            name="crash",
            script="sleep 20; echo cannot reach the database; exit 3",
            test='["CMD", "true"]',
            monitor="25s",
            said=("exited with code 3", "cannot reach the database"),
        ),
        BadVersion(
            name="sick",
            script="sleep 600",
            test='["CMD", "sh", "-c", "echo no schema yet; exit 1"]',
            said=("unhealthy after 2 failed health checks", "no schema yet"),
        ),
        BadVersion(
            name="liar",
            script="date +%s > /tmp/began; sleep 600",
            test='["CMD", "sh", "-c", "[ $$(($$(date +%s) - $$(cat /tmp/began))) -lt 10 ] || '
            '{ echo out of memory soon; exit 1; }"]',
            monitor="15s",
            said=("unhealthy after 2 failed health checks", "out of memory soon"),
        ),
    )


def compose(version: BadVersion, image: str, port: int, *, good: bool) -> str:
    """The project that is named as the version."""
    script = WELL if good else version.script
    return f"""
name: {version.name}
services:
  web:
    image: {image if good or not version.image else version.image}
    command: ["sh", "-c", "{script.replace("$", "$$")}"]
    ports: ["{port}:80"]
    healthcheck: {{test: {ANSWERS if good else version.test}, interval: 1s, retries: 2}}
    stop_grace_period: 1s
    deploy: {{replicas: {REPLICAS}, update_config: {{parallelism: 0, monitor: {"0s" if good else version.monitor}}}}}
    x-podium: {{progress_deadline: 60s}}
"""


@asynccontextmanager
async def empty_registry() -> AsyncIterator[str]:
    """Its address. An engine asks one on loopback over plain HTTP, and is told of any image that there is none."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                known = head.split()[1] == b"/v2/"
                body = b"{}" if known else b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
                status = b"200 OK" if known else b"404 Not Found"
                told = b"Content-Type: application/json\r\nDocker-Distribution-Api-Version: registry/2.0\r\n"
                length = b"Content-Length: %d\r\n\r\n" % len(body)
                writer.write(b"HTTP/1.1 " + status + b"\r\n" + told + length + (b"" if head[:4] == b"HEAD" else body))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
