"""Finds a cluster's authority by the digest that a token pins: before that, nothing of what is shown is believed.

The handshake is made without believing anybody, to read the certificates that are shown; nothing is sent over it. Of
those the one with the pinned digest is the authority, and every later connection must be to a holder of a certificate
of it. (Python's own `ssl` shows chains from 3.13 on only.)
"""

from __future__ import annotations

import asyncio

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from common.errors import Invalid, Unavailable

_READ_BYTES = 64 * 1024
_HANDSHAKE_LIMIT_BYTES = 256 * 1024
"""Ours takes 3 KiB; whoever sends more is no controller."""


async def pinned_authority(address: str, pin: str, *, timeout_s: float) -> str:
    """The authority (PEM) that the listener at `address` (`host:port`) shows and whose SHA-256 is `pin` (hexadecimal).

    Raises `Unavailable` when nobody answers in time, `Invalid` when somebody else does.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                shown = await _shown(reader, writer)
            finally:
                writer.close()
    except TimeoutError:
        raise Unavailable(f"{address}: no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise Unavailable(f"{address}: {error.strerror or error}") from None
    except SSL.Error:
        raise Invalid(f"{address}: what answers there speaks no TLS: is the cluster run with --insecure?") from None
    for certificate in shown:
        if certificate.fingerprint(hashes.SHA256()).hex() == pin:
            return certificate.public_bytes(Encoding.PEM).decode()
    raise Invalid(
        f"{address}: is not of the cluster that the token is for (it shows {len(shown)} certificates, none of them the "
        "pinned authority): a wrong address, a token of another cluster, or somebody in between"
    )


async def _shown(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[x509.Certificate]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])  # gRPC turns others away
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    received = 0
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            _pass_on(connection, writer)
            await writer.drain()
            content = await reader.read(_READ_BYTES)
            received += len(content)
            if not content or received > _HANDSHAKE_LIMIT_BYTES:
                raise SSL.Error from None
            connection.bio_write(content)
        else:
            return list(connection.get_peer_cert_chain(as_cryptography=True) or ())


def _pass_on(connection: SSL.Connection, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            writer.write(connection.bio_read(_READ_BYTES))
        except SSL.WantReadError:
            return
