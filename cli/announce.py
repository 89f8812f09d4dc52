"""What a serving command leaves for this user's other commands: where it serves, and as whom they may ask there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from cli.messages import say
from client.contexts import Context
from client.local import told
from common.errors import Invalid
from common.tls import host_of
from controller.app import Addresses


@contextmanager
def announced(environ: Mapping[str, str], addresses: Addresses, *, advertise: str = "") -> Iterator[None]:
    """Known while the block runs. Where it cannot be written, people ask as from any other machine."""
    context = Context(token=addresses.first_token, authority=addresses.authority, insecure=not addresses.authority)
    with ExitStack() as stack:
        if context.token or context.insecure:
            try:
                stack.enter_context(told(environ, _names(addresses.grpc, advertise), context))
            except Invalid as error:
                say(f"commands on this machine do not find this cluster by themselves: {error}")
        yield


def _names(listens_on: str, advertise: str) -> list[str]:
    """How it is dialled from this machine."""
    host, port = host_of(listens_on), listens_on.rpartition(":")[2]
    everywhere = host in ("", "0.0.0.0", "::")  # noqa: S104 - what it is told to listen on
    return list(dict.fromkeys([f"127.0.0.1:{port}" if everywhere else listens_on, *([advertise] if advertise else [])]))
