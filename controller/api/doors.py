"""The TLS of a listener whose certificate changes while it listens: each handshake gets what is shown at that moment.

Engineers, and machines that want to join, come through a door that shows a certificate and asks for none; agents
through one that asks for theirs. gRPC for Python asks every caller of a listener for a certificate, or nobody, so these
are two.
"""

from __future__ import annotations

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
