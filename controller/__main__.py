"""`python -m controller`: one controller as a process, for service managers that want nothing of the command line.

Owns the loop and the signals. `podium controller` does the same with help, completion and environment variables.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import uvloop

from common import logs
from common.errors import Fault, Invalid, PodiumError
from common.tls import tls_files
from controller.app import serve
from controller.data_dir import key_file
from controller.settings import ControllerSettings

EXIT_FAILED, EXIT_INVALID = 1, 2


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    logs.configure(given.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(_settings(given)))
    except PodiumError as error:
        print(f"podium controller: {error}", file=sys.stderr)  # noqa: T201  the person who started it is told
        return EXIT_INVALID if isinstance(error, Invalid) else EXIT_FAILED
    return 0


async def _serve(settings: ControllerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop=stop)


def _settings(given: argparse.Namespace) -> ControllerSettings:
    tls = tls_files(given.tls_ca, given.tls_cert, given.tls_key)
    key = "" if tls or given.insecure else given.cluster_key or key_file(given.store, "")
    if not (key or tls or given.insecure):
        raise Invalid([Fault(path="cluster_key", text="say where the cluster's keys lie (--cluster-key FILE)")])
    return ControllerSettings(
        store=given.store,
        grpc_listen=given.grpc_listen,
        http_listen=given.http_listen,
        agent_listen=given.agent_listen,
        advertise=given.advertise,
        cluster_key=key,
        join_token=given.join,
        join_file=given.join_file,
        tls=tls,
        insecure=given.insecure,
        long_lived=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m controller", description="Run one Podium controller.")
    parser.add_argument("--store", required=True, help="sqlite:///path or etcd://host:port,host:port")
    parser.add_argument("--grpc-listen", default="127.0.0.1:7077", help="host:port for agents and commands")
    parser.add_argument("--http-listen", default="127.0.0.1:7078", help="host:port for health and metrics")
    parser.add_argument("--advertise", default="", help="host:port by which others reach this controller")
    parser.add_argument("--cluster-key", default="", help="file of the cluster's keys; by default beside SQLite's")
    parser.add_argument("--agent-listen", default="", help="host:port where agents connect with their certificates")
    parser.add_argument("--join", default="", help="token of a further controller, needed once")
    parser.add_argument("--join-file", default="", help="holds that token")
    parser.add_argument("--tls-ca", default="", help="PEM file")
    parser.add_argument("--tls-cert", default="", help="PEM file")
    parser.add_argument("--tls-key", default="", help="PEM file")
    parser.add_argument("--insecure", action="store_true", help="serve in the clear, to everybody")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
