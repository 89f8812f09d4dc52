"""The TLS of a listener whose certificate changes while it listens: each handshake gets what is shown at that moment.

Engineers, and machines that want to join, come through a door that shows a certificate and asks for none; agents
through one that asks for theirs. gRPC for Python asks every caller of a listener for a certificate, or nobody, so these
are two.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from controller.security.own_certificate import OwnCertificate, Shown


def credentials(own: OwnCertificate, *, mutual: bool) -> grpc.ServerCredentials:
    """For one listener. `mutual`: callers must show a certificate of an authority that is believed."""
    offered = own.shown

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC, on a thread of its own, before each handshake."""
        nonlocal offered
        shown = own.shown
        if shown is offered:
            return None
        offered = shown
        return _configuration(shown)

    return grpc.dynamic_ssl_server_credentials(_configuration(offered), changed, require_client_authentication=mutual)


def _configuration(shown: Shown) -> grpc.ServerCertificateConfiguration:
    pair = (shown.key.encode(), shown.chain.encode())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=shown.roots.encode())


def http_context() -> ssl.SSLContext:
    """For an HTTP listener; `show` gives it its certificate. Probes and scrapers have none, so none is asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def show(context: ssl.SSLContext, shown: Shown) -> None:
    """From the next handshake on. OpenSSL reads files only, so it is given one that lies in memory and has no name."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, (shown.key + shown.chain).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
