"""`python -m agent`: one node without the `podium` command, for images and units that hold nothing else.

Owns nothing but the reading of flags; `podium agent` offers the same in more comfort.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from agent.app import serve
from agent.devices import declared
from agent.policy_file import node_policy
from agent.settings import AgentSettings
from common.errors import Fault, Invalid, PodiumError
from common.logs import configure
from common.tls import tls_files

FAILED, WRONG = 1, 2


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit code: 2 for what must be corrected first (flags, a broken journal)."""
    given = _parser().parse_args(argv)
    configure(given.log_level)
    try:
        asyncio.run(_until_signalled(_settings(given)))
    except PodiumError as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG if isinstance(error, Invalid) else FAILED
    return 0


async def _until_signalled(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop=stop)


def _settings(given: argparse.Namespace) -> AgentSettings:
    policy, runtimes = node_policy(
        given.policy,
        bind=_list(given.allow_bind),
        process_user=given.process_user,
        runtimes=_list(given.runtime),
    )
    return AgentSettings(
        controllers=_list(given.controller),
        data_dir=given.data_dir,
        name=given.name,
        advertise=given.advertise,
        runtimes=runtimes,
        policy=policy,
        docker_host=given.docker_host,
        labels=_labels(given.labels),
        cpus=given.cpus,
        memory_bytes=given.memory_bytes,
        devices=declared(given.device),
        find_devices=given.find_devices,
        proxy=given.proxy,
        web_port=given.web_port,
        web_tls_port=given.web_tls_port,
        certs=given.certs,
        http_listen=given.http_listen,
        join_token=given.join,
        join_file=given.join_file,
        insecure=given.insecure,
        tls=tls_files(given.tls_ca, given.tls_cert, given.tls_key),
    )


def _parser() -> argparse.ArgumentParser:
    environ = os.environ
    parser = argparse.ArgumentParser(prog="python -m agent", description="One node of a Podium cluster.")
    parser.add_argument("--controller", default=environ.get("PODIUM_CONTROLLER", "127.0.0.1:7077"), metavar="A,B,C")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--name", default="", help="default: the host name")
    parser.add_argument("--advertise", default="127.0.0.1", help="address under which the node's ports are reached")
    parser.add_argument("--runtime", default="", metavar="NAMES", help="default: docker, and process by policy")
    parser.add_argument(
        "--policy", default=environ.get("PODIUM_POLICY", ""), metavar="FILE", help="what tasks may have"
    )
    parser.add_argument("--process-user", default="", metavar="NAME", help="of plain processes; default: each its own")
    parser.add_argument("--docker-host", default=environ.get("DOCKER_HOST", ""))
    parser.add_argument("--labels", default="", metavar="K=V,...")
    parser.add_argument("--cpus", type=float, default=0.0, help="cores to offer; 0: what the machine has")
    parser.add_argument("--memory-bytes", type=int, default=0, help="memory to offer; 0: what the machine has")
    parser.add_argument("--device", action="append", default=[], metavar="KIND[:...]", help="gpu:model=A10,count=2")
    parser.add_argument("--no-find-devices", dest="find_devices", action="store_false", help="offer none of the GPUs")
    parser.add_argument("--proxy", default=environ.get("PODIUM_PROXY", "auto"), metavar="auto|relay|haproxy")
    parser.add_argument("--web-port", type=int, default=80, help="where HTTP is served that is routed by host name")
    parser.add_argument("--web-tls-port", type=int, default=443, help="the same with TLS")
    parser.add_argument("--certs", default=environ.get("PODIUM_CERTS", ""), metavar="D", help="its certificates")
    parser.add_argument("--allow-bind", default="", metavar="DIR,...", help="directories that tasks may mount")
    parser.add_argument("--http-listen", default="", metavar="HOST:PORT", help="health and metrics; empty: none")
    parser.add_argument("--join", default=environ.get("PODIUM_JOIN", ""), metavar="TOKEN", help="needed once")
    parser.add_argument(
        "--join-file", default=environ.get("PODIUM_JOIN_FILE", ""), metavar="FILE", help="holds the token"
    )
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--tls-{name}", default="", metavar="FILE")
    parser.add_argument("--insecure", action="store_true", default=environ.get("PODIUM_INSECURE", "") == "1")
    parser.add_argument("--log-level", default="info")
    return parser


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _labels(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _list(text)]
    faults = [
        Fault(path="labels", text=f"{key!r} is not KEY=VALUE") for key, equals, _ in pairs if not (key and equals)
    ]
    if faults:
        raise Invalid(faults)
    return {key: value for key, _, value in pairs}


if __name__ == "__main__":
    sys.exit(main())
