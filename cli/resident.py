"""What serves for months does so without what read its command line: `podium agent` and `podium controller`.

Typer and what it brings would hold 10 MB of each. So when the settings have been read and checked, the process begins
anew as the same program with the same command line (its id stays, and `ps` shows what was typed) and finds its order in
a file that it alone has open. Decides nothing about what is served.
"""

from __future__ import annotations

import enum
import os
import sys
from contextlib import ExitStack
from typing import NoReturn

import msgspec

from cli.messages import ending
from cli.serving import parts, serve
from common.logs import configure
from common.service_manager import beside

ORDER = "PODIUM_ORDER_FD"
"""Names, from one life of the process to the next, the file descriptor of its order."""

GRPC_OF_A_CROWD = "GRPC_EXPERIMENTS", "-event_engine_client"
"""What 5,000 connections of one process receive is read by the thread that waits for it, not handed on by gRPC's pool:
half of the hand-overs between threads, and 15 % of the processor time of a message there and back. gRPC calls such a
choice an experiment, so only nodes that pretend make it."""


class Part(enum.Enum):
    AGENT = "agent"
    CONTROLLER = "controller"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    part: Part
    settings: msgspec.Raw
    """Of the part, checked."""
    log_level: str


def order(part: Part, settings: msgspec.Struct, log_level: str) -> Order:
    return Order(part=part, settings=msgspec.Raw(msgspec.json.encode(settings)), log_level=log_level)


def begin_anew(given: Order) -> NoReturn:
    """Become the process that carries out the order. Only for a process that exists for nothing else."""
    file = os.memfd_create("podium-order", 0)  # survives what follows
    with open(file, "wb", closefd=False) as written:
        written.write(msgspec.json.encode(given))
    os.lseek(file, 0, os.SEEK_SET)
    os.environ[ORDER] = str(file)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - there is no shell to be avoided


def main() -> NoReturn:
    """Go on as ordered."""
    with ending(SystemExit):
        with open(int(os.environ.pop(ORDER)), "rb") as file:  # noqa: PTH123 - it has no path
            given = msgspec.json.decode(file.read(), type=Order)
        raise SystemExit(carry_out(given))


def carry_out(given: Order) -> int:
    """Serve until stopped; the exit code."""
    configure(given.log_level)
    with parts(given.part.value):
        match given.part:
            case Part.AGENT:
                import agent.app
                from agent.settings import AgentSettings

                node = msgspec.json.decode(given.settings, type=AgentSettings)
                if node.count > 1:
                    os.environ.setdefault(*GRPC_OF_A_CROWD)  # read when it is imported
                    import agent.crowd

                    return serve(lambda stop: agent.crowd.serve(node, stop=stop, beside=beside(stop)))
                return serve(lambda stop: agent.app.serve(node, stop=stop, beside=beside(stop)))
            case Part.CONTROLLER:
                return _control(given)


def _control(given: Order) -> int:
    import controller.app
    from cli.announce import announced
    from controller.settings import ControllerSettings

    settings = msgspec.json.decode(given.settings, type=ControllerSettings)
    with ExitStack() as stack:

        def ready(addresses: controller.app.Addresses) -> None:
            if settings.tls is None:
                stack.enter_context(announced(os.environ, addresses, advertise=settings.advertise))

        return serve(lambda stop: controller.app.serve(settings, ready=ready, stop=stop, beside=beside(stop)))
