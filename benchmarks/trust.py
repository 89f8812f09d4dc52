"""What encryption and rights cost: nodes that join and come back all at once, and heartbeats per second of the
controller's CPU, with TLS beside without; and one check of a right.

    {"bench":"joining","tls","agents","joined_s","reconnected_s","controller_cpu_s"}
    {"bench":"heartbeats","tls","agents","per_second","per_cpu_second"}
    {"bench":"rights","caller","microseconds"}
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.crowd import cpu_s, get_text, reading
from benchmarks.stage import report, say
from common.certificates import fingerprint, new_key, signing_request
from common.identity import Identity
from common.model.api import ListJobs
from common.model.trust import Kind, Role, User
from common.tokens import USER, Token
from controller.api.gate import Gate
from controller.audit import AuditLog
from controller.core.secrets import digest_of
from controller.security.authority import issue, new_authority
from controller.security.sealing import KeyRing, new_cluster_key
from controller.security.tokens import new_secret
from controller.state import State
from tests.cluster.processes import Cluster, Program, end_cluster

AGENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 500
PER_PROCESS = 100
"""A crowd's nodes begin 100 a second each: so many processes are those that begin at once."""
MEASURED_S = 10.0
CHECKS = 20_000
WAIT_S = 180.0


class Crowded:
    """A controller on SQLite and crowds of pretended nodes, with TLS or without."""

    def __init__(self, directory: Path, *, secure: bool) -> None:
        tuned = ("--tune", "down=60")
        store = f"sqlite://{directory}/controller.db"
        options = (*tuned, "--tune", "unreachable=30", "--tune", "registrations-per-second=100000")
        more = ("--tune", "registration-burst=100000", "--log-level", "warning")
        self.made = Cluster(directory, store, "fake", *options, *more, secure=secure)
        self.secure = secure

    async def begin(self) -> None:
        await self.made.begin()
        await self.made.client.__aenter__()
        await self.made.client.status()

    async def end(self) -> None:
        await self.made.client.__aexit__(None, None, None)
        await asyncio.to_thread(end_cluster, self.made)

    async def grow(self) -> float:
        """Seconds from the first process's first node to the last one's session."""
        token = ""
        if self.secure:
            token = (await self.made.client.trust.create_token(Kind.AGENT, 3_600.0, AGENTS)).token
        for number in range(-(-AGENTS // PER_PROCESS)):
            self._start(f"crowd{number}", token)
        begun_s = 0.0
        async with asyncio.timeout(WAIT_S):
            while (sessions := await self.gauge("podium_agent_sessions")) < AGENTS:
                begun_s = begun_s or (time.monotonic() if sessions else 0.0)
                await asyncio.sleep(0.05)
        return time.monotonic() - begun_s

    def _start(self, name: str, token: str) -> None:
        data = self.made.directory / name
        data.mkdir()
        arguments = ("agent", "--controller", self.made.grpc, "--runtime", "fake", "--name", name, "--http-listen", "")
        count = ("--count", str(min(PER_PROCESS, AGENTS)), "--data-dir", str(data), "--log-level", "error")
        joins = ("--join", token) if token else ()
        program = Program(name, self.made.directory, *arguments, *count, *joins, secure=self.secure)
        self.made.agents[name] = program.start()

    async def again(self) -> float:
        """Seconds from when a killed controller serves again until all nodes are back."""
        self.made.controller.kill()
        self.made.controller.start()
        begun_s = 0.0
        async with asyncio.timeout(WAIT_S):
            while (sessions := await self.gauge("podium_agent_sessions")) < AGENTS:
                begun_s = begun_s or (time.monotonic() if sessions else 0.0)
                await asyncio.sleep(0.05)
        return time.monotonic() - begun_s

    async def heartbeats(self) -> tuple[float, float]:
        """Per second, and per second of the controller's CPU."""
        before, used_s, at_s = await self.gauge("podium_heartbeats_total"), self.cpu_s, time.monotonic()
        await asyncio.sleep(MEASURED_S)
        count = await self.gauge("podium_heartbeats_total") - before
        return count / (time.monotonic() - at_s), count / (self.cpu_s - used_s)

    async def gauge(self, name: str) -> float:
        with suppress(OSError):
            return reading(await asyncio.to_thread(get_text, f"http://{self.made.http}/metrics"), name)
        return 0.0

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.made.controller.pid)


@asynccontextmanager
async def crowded(*, secure: bool) -> AsyncIterator[Crowded]:
    with tempfile.TemporaryDirectory(prefix="podium-trust-") as scratch:
        made = Crowded(Path(scratch), secure=secure)
        try:
            await made.begin()
            yield made
        finally:
            await made.end()


async def connections() -> None:
    for secure in (True, False):
        async with crowded(secure=secure) as made:
            used_s = made.cpu_s
            joined_s = await made.grow()
            used_s = made.cpu_s - used_s
            per_second, per_cpu_second = await made.heartbeats()
            reconnected_s = await made.again()
            report(
                "joining",
                tls=secure,
                agents=AGENTS,
                joined_s=round(joined_s, 2),
                reconnected_s=round(reconnected_s, 2),
                controller_cpu_s=round(used_s, 2),
            )
            report(
                "heartbeats",
                tls=secure,
                agents=AGENTS,
                per_second=round(per_second),
                per_cpu_second=round(per_cpu_second),
            )


# --- rights


class Call:
    def __init__(self, *, certificate: str = "", token: str = "") -> None:
        self._context = {"x509_pem_cert": [certificate.encode()]} if certificate else {}
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._context

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5"

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self._metadata


def rights() -> None:
    now_s, ring = time.time(), KeyRing([new_cluster_key()])
    authority, secret = new_authority(ring, now_s, random.Random(1)), new_secret()
    ann = User(name="ann", role=Role.DEPLOYER, digest=digest_of(secret), namespaces=("shop",))
    state = State.of([authority, ann])
    who = Identity(cluster_id=authority.cluster_id, kind=Kind.AGENT, id="n1")
    token = Token(purpose=USER, id="ann", secret=secret, pin=fingerprint(authority.certificates[0]))
    certificate = issue(ring, authority, who, signing_request(new_key()), now_s)
    person, machine = Call(token=str(token)), Call(certificate=certificate)
    guarded, unguarded = (
        Gate(guarded=each, clock=time.time, audit=AuditLog(None, time.time)) for each in (True, False)
    )
    request = ListJobs(namespace="shop")
    for name, ask in (
        ("nobody asked", lambda: unguarded.admit(state, person, "Jobs/List", request)),
        ("a user in a namespace", lambda: guarded.admit(state, person, "Jobs/List", request)),
        ("an agent", lambda: guarded.agent(state, machine)),
    ):
        begun_s = time.perf_counter()
        for _ in range(CHECKS):
            ask()
        report("rights", caller=name, microseconds=round((time.perf_counter() - begun_s) / CHECKS * 1e6, 1))


def main() -> None:
    rights()
    if psutil.cpu_count() == 1:
        say("one core: the nodes take it from the controller")
    asyncio.run(connections())


if __name__ == "__main__":
    main()
