"""The image's health check: whether the process in the container turns its loop.

PODIUM_HEALTH is where it serves HTTP. With https:// its certificate has to be of the cluster's authority, and it is
asked with the token for probes: both are files that a controller keeps in its data directory, /var/lib/podium here.
"""

import http.client
import os
import ssl
from pathlib import Path

KEPT = Path(os.environ.get("PODIUM_DATA_DIR", "/var/lib/podium"))
NAME = "controller.podium"
"""In every controller's certificate."""


class Named(http.client.HTTPSConnection):
    """Asks at an address for the certificate of `NAME`."""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context = ssl.create_default_context(cafile=str(KEPT / "ca.pem"))
        self.sock = context.wrap_socket(self.sock, server_hostname=NAME)


def main() -> bool:
    scheme, _, address = os.environ["PODIUM_HEALTH"].rpartition("://")
    if scheme == "https":
        token = (KEPT / "http.token").read_text().strip()
        connection: http.client.HTTPConnection = Named(address, timeout=2)
        connection.request("GET", "/livez", headers={"Authorization": f"Bearer {token}"})
    else:
        connection = http.client.HTTPConnection(address, timeout=2)
        connection.request("GET", "/livez")
    return connection.getresponse().status == 200


if __name__ == "__main__":
    raise SystemExit(not main())
