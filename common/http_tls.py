"""The TLS of an HTTP listener whose certificate changes while it listens: a handshake gets what is shown by then.

Before anything is shown every handshake fails.
"""

from __future__ import annotations

import os
import ssl


def http_context() -> ssl.SSLContext:
    """`show` gives it its certificate. Probes and scrapers have none, so none is asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def show(context: ssl.SSLContext, key: str, chain: str) -> None:
    """PEM, from the next handshake on. OpenSSL reads files only, so it is given one that lies in memory and has no
    name."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, (key + chain).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
